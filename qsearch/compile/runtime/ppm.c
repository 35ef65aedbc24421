/* See qs_ppm.h. */
#include "qs_ppm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* rename; no stream is used */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SIDE = 1 << 20, END = -1 };

/* What strerror says of the errors that files have; its table of all of them is larger than this file's code. */
static const char *system_error(int error) {
  switch (error) {
    case ENOENT: return "No such file or directory";
    case EACCES: return "Permission denied";
    case EPERM: return "Operation not permitted";
    case EISDIR: return "Is a directory";
    case ENOTDIR: return "Not a directory";
    case EROFS: return "Read-only file system";
    case ENOSPC: return "No space left on device";
    case EPIPE: return "Broken pipe";
    case EEXIST: return "File exists";
    case ENOMEM: return "Out of memory";
    default: return "Input or output error";
  }
}

int qs_image_new(qs_image *image, int64_t width, int64_t height) {
  image->width = width;
  image->height = height;
  uint64_t bytes = (uint64_t)width * (uint64_t)height * 3;
  image->pixels = bytes > SIZE_MAX / 2 ? NULL : aligned_alloc(64, (size_t)((bytes + 64) / 64 * 64));
  return image->pixels ? 0 : -1;
}

/* Reads until `bytes` are there or the file ends; the number read, or -1 with errno. */
static int64_t read_all(int handle, uint8_t *to, int64_t bytes) {
  int64_t done = 0;
  while (done < bytes) {
    ssize_t found = read(handle, to + done, (size_t)(bytes - done));
    if (found < 0 && errno == EINTR) continue;
    if (found < 0) return -1;
    if (found == 0) break;
    done += found;
  }
  return done;
}

static int write_all(int handle, const void *from, int64_t bytes) {
  for (int64_t done = 0; done < bytes;) {
    ssize_t written = write(handle, (const uint8_t *)from + done, (size_t)(bytes - done));
    if (written < 0 && errno != EINTR) return 0;
    if (written > 0) done += written;
  }
  return 1;
}

/* The next byte, or END; headers are short, so that one call per byte costs nothing. */
static int next(int handle) {
  uint8_t byte;
  return read_all(handle, &byte, 1) == 1 ? byte : END;
}

static int is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static int is_digit(int c) { return c >= '0' && c <= '9'; }

/* A decimal number after white space and comments; -1 where there is none. */
static int64_t read_number(int handle) {
  int c = next(handle);
  while (is_space(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != END) c = next(handle);
    else
      c = next(handle);
  }
  if (!is_digit(c)) return -1;
  int64_t value = 0;
  for (; is_digit(c); c = next(handle))
    if ((value = value * 10 + (c - '0')) > INT32_MAX) return -1;
  return is_space(c) ? value : -1; /* exactly one white-space character ends a number */
}

static const char *read_header(int handle, qs_image *image) {
  int magic[2];
  for (int i = 0; i < 2; i++) magic[i] = next(handle);
  if (magic[0] != 'P' || magic[1] != '6') return "not a binary PPM image (P6)";
  int64_t width = read_number(handle), height = read_number(handle), maxval = read_number(handle);
  if (width < 1 || height < 1 || maxval < 0) return "damaged PPM header";
  if (maxval != 255) return "PPM with a maximum other than 255: only 8 bits per channel are supported";
  image->width = width;
  image->height = height;
  return NULL;
}

const char *qs_image_read(const char *path, int raw, qs_image *image) {
  int handle = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY);
  if (handle < 0) return system_error(errno);
  const char *wrong = raw ? NULL : read_header(handle, image);
  if (wrong == NULL && (image->width > MAX_SIDE || image->height > MAX_SIDE)) wrong = "image too large";
  if (wrong == NULL && qs_image_new(image, image->width, image->height)) wrong = "image too large for the memory";
  if (wrong == NULL) {
    int64_t bytes = image->width * image->height * 3, found = read_all(handle, image->pixels, bytes);
    if (found != bytes)
      wrong = found < 0 ? system_error(errno) : "truncated: fewer pixels than its size says";
    else if (raw && next(handle) != END)
      wrong = "more bytes than --raw says";
  }
  if (handle != STDIN_FILENO) close(handle);
  return wrong;
}

static int write_pixels(int handle, int raw, const qs_image *image) {
  char header[64];
  size_t length = raw ? 0 : qs_format(header, sizeof header, "P6\n%l %l\n255\n", image->width, image->height);
  return write_all(handle, header, (int64_t)length) &&
         write_all(handle, image->pixels, image->width * image->height * 3);
}

const char *qs_image_write(const char *path, int raw, const qs_image *image) {
  if (strcmp(path, "-") == 0) return write_pixels(STDOUT_FILENO, raw, image) ? NULL : system_error(errno);
  size_t length = strlen(path) + 32;
  char *temporary = malloc(length);
  if (temporary == NULL) return system_error(ENOMEM);
  qs_format(temporary, length, "%s.%d.tmp", path, (int)getpid());
  int handle = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
  const char *wrong = NULL;
  if (handle < 0) {
    wrong = system_error(errno);
  } else {
    int done = write_pixels(handle, raw, image);
    if (!done) wrong = system_error(errno);
    if (close(handle) != 0 && done) wrong = system_error(errno);
    if (wrong == NULL && rename(temporary, path) != 0) wrong = system_error(errno);
    if (wrong != NULL) unlink(temporary);
  }
  free(temporary);
  return wrong;
}
