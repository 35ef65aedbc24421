/* One convolution with its epilogue. A work item computes PIXELS neighbouring pixels of BLOCK_QUADS quads of output
 * channels; global ids are (block of channels, tile of pixels, row). Lanes are ordered (sub-pixel, channel).
 * Buffers are [rows + 2 border][columns + 2 border][channels] uint8; `in_columns` counts the borders. After the bias of
 * all quads stands the sum of their weights times 128. */
#undef M_NEG_ARGUMENT
#undef FACTOR
#if PRELU
#define M_NEG_ARGUMENT(i) , __global const float4 *restrict m_neg##i
#define FACTOR(i) select(m##i[quad], m_neg##i[quad], acc < 0)
#else
#define M_NEG_ARGUMENT(i)
#define FACTOR(i) m##i[quad]
#endif
#define PAD_ARGUMENT_0(i)
#define PAD_ARGUMENT_1(i) , __global const uchar *restrict pad##i
#define PAD_STORE_0(i, channels, border, offset, pitch, whole)
#define PAD_STORE_1(i, channels, border, offset, pitch, whole)                                                      \
  store_border(output##i + (offset), out_y, out_x, rows * SHUFFLE, columns * SHUFFLE, border, pitch, channel_quad,  \
               channels, whole, pad##i);
#define SNAP_0(q, i) q
#define SNAP_1(q, i) snap(q, bounds##i)

#define SKIP_ARGUMENT(i, channels, border, repeat) , __global const uchar *restrict skip##i
#define K_ARGUMENT(i, channels, border, repeat) , __global const uint4 *restrict k##i
#define OUTPUT_ARGUMENT(i, channels, border, padded, piecewise, offset, pitch, whole)                               \
  , __global uchar *restrict output##i
#define REQUANTIZE_ARGUMENTS(i, channels, border, padded, piecewise, offset, pitch, whole)                          \
  , __global const float4 *restrict m##i M_NEG_ARGUMENT(i), __global const int *restrict bounds##i                  \
        PAD_ARGUMENT_##padded(i)
#define ADD_SKIP(i, channels, border, repeat)                                                                       \
  sums += k##i[quad] * load_skip(skip##i + ((y + border) * (columns + 2 * border) + x + border) * (channels),       \
                                 channel_quad, sub, SHUFFLE * SHUFFLE, channels, repeat);
#define STORE(i, channels, border, padded, piecewise, offset, pitch, whole)                                         \
  store_quad(output##i + ((out_y + border) * (columns * SHUFFLE + 2 * border) + out_x + border) * (pitch) + (offset), \
             channel_quad, channels, whole,                                                                         \
             convert_uchar4(SNAP_##piecewise(requantize(acc, FACTOR(i), bounds##i), i)));                           \
  PAD_STORE_##padded(i, channels, border, offset, pitch, whole)

__kernel void KERNEL(__global const uint *restrict input FOR_SKIPS(SKIP_ARGUMENT) FOR_OUTPUTS(OUTPUT_ARGUMENT),
                     __global const uint4 *restrict weight, __global const uint4 *restrict bias,
                     __global const uint4 *restrict shift FOR_SKIPS(K_ARGUMENT) FOR_OUTPUTS(REQUANTIZE_ARGUMENTS),
                     int in_columns, int rows, int columns) {
  const int block = get_global_id(0), x0 = get_global_id(1) * PIXELS, y = get_global_id(2);
  if (x0 >= columns || y >= rows) return;
  int4 tile[BLOCK_QUADS][PIXELS];
#pragma unroll
  for (int b = 0; b < BLOCK_QUADS; b++)
#pragma unroll
    for (int p = 0; p < PIXELS; p++) tile[b][p] = START(as_int4(bias[QUADS + block * BLOCK_QUADS + b]));

  const int last = in_columns - 1;
  for (int ky = 0; ky < KERNEL_ROWS; ky++) {
    __global const uint *row = input + (y * STRIDE + ky + TOP) * in_columns * IN_QUADS + FIRST_QUAD(block);
    for (int q = 0; q < READ_QUADS; q++) {
      uint activation[WINDOW];
#pragma unroll
      for (int i = 0; i < WINDOW; i++) /* columns beyond the last belong to pixels that are not stored */
        activation[i] = ACTIVATION(row[min(x0 * STRIDE + LEFT + i, last) * IN_QUADS + q]);
      __global const uint4 *w = weight + (ky * READ_QUADS + q) * KERNEL_COLUMNS * QUADS + block * BLOCK_QUADS;
#pragma unroll
      for (int kx = 0; kx < KERNEL_COLUMNS; kx++)
#pragma unroll
        for (int b = 0; b < BLOCK_QUADS; b++)
#pragma unroll
          for (int p = 0; p < PIXELS; p++)
            tile[b][p] = dot4x4(activation[p * STRIDE + kx], w[kx * QUADS + b], tile[b][p]);
    }
  }

#pragma unroll
  for (int b = 0; b < BLOCK_QUADS; b++) {
    const int quad = block * BLOCK_QUADS + b;
    const int sub = quad / SUB_QUADS, channel_quad = quad % SUB_QUADS;
#pragma unroll
    for (int p = 0; p < PIXELS; p++) {
      const int x = x0 + p, out_y = y * SHUFFLE + sub / SHUFFLE, out_x = x * SHUFFLE + sub % SHUFFLE;
      if (x < columns) {
        uint4 sums = (as_uint4(tile[b][p]) << shift[quad]) + bias[quad];
        FOR_SKIPS(ADD_SKIP)
        const int4 acc = as_int4(sums);
        FOR_OUTPUTS(STORE)
      }
    }
  }
}
