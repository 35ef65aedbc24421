/* See qs_ppm.h. */
#include "qs_ppm.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SIDE = 1 << 20 };

int qs_image_new(qs_image *image, int64_t width, int64_t height) {
  image->width = width;
  image->height = height;
  uint64_t bytes = (uint64_t)width * (uint64_t)height * 3;
  image->pixels = bytes > SIZE_MAX / 2 ? NULL : aligned_alloc(64, (size_t)((bytes + 64) / 64 * 64));
  return image->pixels ? 0 : -1;
}

/* A decimal number after white space and comments; -1 where there is none. */
static int64_t read_number(FILE *file) {
  int c = getc(file);
  while (isspace(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    else
      c = getc(file);
  }
  if (!isdigit(c)) return -1;
  int64_t value = 0;
  for (; isdigit(c); c = getc(file))
    if ((value = value * 10 + (c - '0')) > INT32_MAX) return -1;
  return isspace(c) ? value : -1; /* exactly one white-space character ends a number */
}

static const char *read_header(FILE *file, qs_image *image) {
  int magic[2] = {getc(file), getc(file)};
  if (magic[0] != 'P' || magic[1] != '6') return "not a binary PPM image (P6)";
  int64_t width = read_number(file), height = read_number(file), maxval = read_number(file);
  if (width < 1 || height < 1 || maxval < 0) return "damaged PPM header";
  if (maxval != 255) return "PPM with a maximum other than 255: only 8 bits per channel are supported";
  image->width = width;
  image->height = height;
  return NULL;
}

const char *qs_image_read(const char *path, int raw, qs_image *image) {
  FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
  if (file == NULL) return strerror(errno);
  const char *wrong = raw ? NULL : read_header(file, image);
  if (wrong == NULL && (image->width > MAX_SIDE || image->height > MAX_SIDE)) wrong = "image too large";
  if (wrong == NULL && qs_image_new(image, image->width, image->height)) wrong = "image too large for the memory";
  if (wrong == NULL) {
    size_t bytes = (size_t)(image->width * image->height * 3);
    if (fread(image->pixels, 1, bytes, file) != bytes)
      wrong = ferror(file) ? strerror(errno) : "truncated: fewer pixels than its size says";
    else if (raw && getc(file) != EOF)
      wrong = "more bytes than --size says";
  }
  if (file != stdin) fclose(file);
  return wrong;
}

static int write_pixels(FILE *file, int raw, const qs_image *image) {
  if (!raw) fprintf(file, "P6\n%lld %lld\n255\n", (long long)image->width, (long long)image->height);
  size_t bytes = (size_t)(image->width * image->height * 3);
  return fwrite(image->pixels, 1, bytes, file) == bytes && fflush(file) == 0;
}

const char *qs_image_write(const char *path, int raw, const qs_image *image) {
  if (strcmp(path, "-") == 0) return write_pixels(stdout, raw, image) ? NULL : strerror(errno);
  size_t length = strlen(path) + 32;
  char *temporary = malloc(length);
  if (temporary == NULL) return strerror(ENOMEM);
  snprintf(temporary, length, "%s.%ld.tmp", path, (long)getpid());
  int handle = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
  FILE *file = handle < 0 ? NULL : fdopen(handle, "wb");
  const char *wrong = NULL;
  if (file == NULL) {
    wrong = strerror(errno);
  } else {
    int done = write_pixels(file, raw, image);
    if (!done) wrong = strerror(errno);
    if (fclose(file) != 0 && done) wrong = strerror(errno);
    if (wrong == NULL && rename(temporary, path) != 0) wrong = strerror(errno);
    if (wrong != NULL) unlink(temporary);
  }
  free(temporary);
  return wrong;
}
