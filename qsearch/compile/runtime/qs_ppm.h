/* Reading and writing images: binary PPM (P6, maxval 255) and raw RGB. */
#ifndef QS_PPM_H
#define QS_PPM_H
#include <stdint.h>

typedef struct {
  int64_t width, height;
  uint8_t *pixels; /* [height][width][3], aligned to 64 bytes */
} qs_image;

/* Memory for an image of this size; 0, or -1 where there is none. */
int qs_image_new(qs_image *image, int64_t width, int64_t height);

/* Both return NULL or what is wrong with the file. "-" is standard input or output. A raw image has its size set by the
 * caller. A file is written under a temporary name and renamed, so that a failure leaves the old one. */
const char *qs_image_read(const char *path, int raw, qs_image *image);
const char *qs_image_write(const char *path, int raw, const qs_image *image);

#endif
