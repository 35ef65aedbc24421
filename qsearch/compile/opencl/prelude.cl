/* What all kernels of a network share. Every kernel follows as conv.cl or image.cl, with macros that describe it.
 *
 * Integers are exact and a requantization rounds once: no product may be contracted with the sum that follows it. */
#pragma OPENCL FP_CONTRACT OFF

/* dot4 adds the four products of uint8 activations and int8 weights to acc. Where the device multiplies only signed by
 * signed, activations are lowered by 128 (ACTIVATION) and accumulators start at 128 * sum of weights (START). */
#ifdef PLAIN_DOT /* the launcher found this device's own wrong */
#undef cl_arm_integer_dot_product_accumulate_int8
#undef cl_arm_integer_dot_product_int8
#undef cl_qcom_dot_product8
#undef cl_khr_integer_dot_product
#endif
#if defined(cl_arm_integer_dot_product_accumulate_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define SIGNED_ACTIVATIONS
static int dot4(uint activation, uint weight, int acc) {
  return arm_dot_acc(as_char4(activation), as_char4(weight), acc);
}
#elif defined(cl_arm_integer_dot_product_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_int8 : enable
#define SIGNED_ACTIVATIONS
static int dot4(uint activation, uint weight, int acc) {
  return acc + arm_dot(as_char4(activation), as_char4(weight));
}
#elif defined(cl_qcom_dot_product8)
#pragma OPENCL EXTENSION cl_qcom_dot_product8 : enable
static int dot4(uint activation, uint weight, int acc) { return qcom_dot8_acc(weight, activation, acc); }
#elif defined(cl_khr_integer_dot_product)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define SIGNED_ACTIVATIONS
static int dot4(uint activation, uint weight, int acc) { return acc + dot_4x8packed_ss_int(activation, weight); }
#else
static int dot4(uint activation, uint weight, int acc) {
  const int4 product = convert_int4(as_uchar4(activation)) * convert_int4(as_char4(weight));
  return acc + product.x + product.y + product.z + product.w;
}
#endif

#ifdef SIGNED_ACTIVATIONS
#define ACTIVATION(quad) ((quad) ^ 0x80808080u)
#define START(sums) (sums)
#else
#define ACTIVATION(quad) (quad)
#define START(sums) ((int4)(0))
#endif

/* What dot4 gives for one quad. */
__kernel void check_dot4(__global int *sum, uint activation, uint weight, int sum_of_weights) {
  *sum = dot4(ACTIVATION(activation), weight, START((int4)(128 * sum_of_weights)).x);
}

/* One activation quad times the weights of four output channels. */
static int4 dot4x4(uint activation, uint4 weight, int4 acc) {
  return (int4)(dot4(activation, weight.x, acc.x), dot4(activation, weight.y, acc.y),
                dot4(activation, weight.z, acc.z), dot4(activation, weight.w, acc.w));
}

/* bounds are zero point, lowest and highest value. */
static int4 requantize(int4 acc, float4 m, __global const int *bounds) {
  const float low = (float)(bounds[1] - bounds[0]), high = (float)(bounds[2] - bounds[0]);
  const float4 scaled = rint(convert_float4_rte(acc) * m);
  return convert_int4(clamp(scaled, (float4)(low), (float4)(high))) + bounds[0];
}

/* Moves values outside the breakpoints bounds[3] and bounds[4] to the nearest of every bounds[5]-th beyond. */
static int4 snap(int4 q, __global const int *bounds) {
  const int low = bounds[3], high = bounds[4], ratio = bounds[5];
  const int reciprocal = (ratio + 65535) / ratio; /* x * reciprocal >> 16 is x / ratio for every x that occurs */
  const int4 above = ((max(q - high, 0) + ratio / 2) * reciprocal) >> 16;
  const int4 below = ((max(low - q, 0) + ratio / 2) * reciprocal) >> 16;
  return clamp(q, (int4)(low), (int4)(high)) + ratio * (above - below);
}

/* Four channels of a pixel's `channels`; the last quad may have fewer. `whole` pixels are aligned to 4 bytes. */
static void store_quad(__global uchar *pixel, int quad, int channels, int whole, uchar4 value) {
  if (whole) {
    ((__global uchar4 *)pixel)[quad] = value;
  } else {
    if (quad * 4 + 0 < channels) pixel[quad * 4 + 0] = value.x;
    if (quad * 4 + 1 < channels) pixel[quad * 4 + 1] = value.y;
    if (quad * 4 + 2 < channels) pixel[quad * 4 + 2] = value.z;
    if (quad * 4 + 3 < channels) pixel[quad * 4 + 3] = value.w;
  }
}

/* The part of the border that touches pixel (y, x) of rows x columns; `output` is the buffer's first channel. */
static void store_border(__global uchar *output, int y, int x, int rows, int columns, int border, int pitch, int quad,
                         int channels, int whole, __global const uchar *pad) {
  if (y > 0 && x > 0 && y < rows - 1 && x < columns - 1) return;
  const int last = channels - 1, c = quad * 4;
  const uchar4 value = (uchar4)(pad[min(c, last)], pad[min(c + 1, last)], pad[min(c + 2, last)], pad[min(c + 3, last)]);
  const int top = y == 0 ? -border : y, bottom = y == rows - 1 ? y + border : y;
  const int left = x == 0 ? -border : x, right = x == columns - 1 ? x + border : x;
  for (int j = top; j <= bottom; j++)
    for (int i = left; i <= right; i++)
      if (j != y || i != x)
        store_quad(output + ((j + border) * (columns + 2 * border) + i + border) * pitch, quad, channels, whole, value);
}

/* Channels 4 * quad of sub-pixel `sub`, each `repeat` times in the order of the convolution's channels. */
static uint4 load_skip(__global const uchar *pixel, int quad, int sub, int area, int channels, int repeat) {
  if (area == repeat) return convert_uint4(((__global const uchar4 *)pixel)[quad]);
  const int4 channel = ((int4)(0, 1, 2, 3) + quad * 4) * area + sub;
  const int4 from = min(channel / repeat, channels - 1); /* lanes beyond the last channel have a factor of zero */
  return (uint4)(pixel[from.x], pixel[from.y], pixel[from.z], pixel[from.w]);
}
