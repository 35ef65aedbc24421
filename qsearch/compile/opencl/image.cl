/* Copies an image [rows][columns][IMAGE_CHANNELS] into a buffer of whole quads with a border of pad values; global ids
 * are (quad, column, row) of the buffer. */
#undef PAD
#if BORDER
#define PAD , __global const uchar4 *restrict pad
#else
#define PAD
#endif

__kernel void KERNEL(__global const uchar *restrict image, __global uchar4 *restrict output PAD, int in_columns,
                     int rows, int columns) {
  const int quad = get_global_id(0), x = get_global_id(1), y = get_global_id(2);
  if (x >= columns + 2 * BORDER || y >= rows + 2 * BORDER) return;
  uchar4 value = (uchar4)(0);
#if BORDER
  if (y < BORDER || x < BORDER || y >= rows + BORDER || x >= columns + BORDER) {
    value = pad[quad];
  } else
#endif
  {
    __global const uchar *pixel = image + ((y - BORDER) * in_columns + x - BORDER) * IMAGE_CHANNELS + quad * 4;
    const int count = IMAGE_CHANNELS - quad * 4;
    value.x = pixel[0];
    if (count > 1) value.y = pixel[1];
    if (count > 2) value.z = pixel[2];
    if (count > 3) value.w = pixel[3];
  }
  output[(y * (columns + 2 * BORDER) + x) * QUADS + quad] = value;
}
