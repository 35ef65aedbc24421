/* Parameters are stored with as many bits as their values need, and weights of transformed convolutions before the
 * transform; both are undone once, when a context is created. */
#include <string.h>

#include "qs_network.h"

/* `count` signed integers of `bits` (1 to 8), little-endian without gaps, to bytes. Reads up to 8 bytes, and writes up to
 * 7, past the end. Eight values fill whole bytes, so that every group of eight is shifted alike. */
static void qs_unpack(const uint8_t *from, int bits, int64_t count, int8_t *to) {
  for (int64_t i = 0; i < count; i += 8, from += bits, to += 8) {
    uint64_t group;
    memcpy(&group, from, sizeof group);
    for (int k = 0; k < 8; k++) to[k] = (int8_t)((int64_t)(group << (64 - bits * (k + 1))) >> (64 - bits));
  }
}

/* Part by part, `rows` vectors of bytes as sums of `taps` stored ones, times the small integers of `matrix`. */
static void qs_transform_weights(const qs_transform *t, const int8_t *from, int8_t *to) {
  for (int part = 0; part < t->num_parts; part++) {
    const int64_t size = t->sizes[part];
    for (int row = 0; row < t->rows; row++, to += size) {
      memset(to, 0, (size_t)size);
      for (int tap = 0; tap < t->taps; tap++) {
        const int8_t factor = t->matrix[row * t->taps + tap], *stored = from + tap * size;
        if (factor)
          for (int64_t i = 0; i < size; i++) to[i] = (int8_t)(to[i] + factor * stored[i]);
      }
    }
    from += t->taps * size;
  }
}

static int64_t qs_stored_count(const qs_param *p) {
  return p->transform ? (int64_t)p->count / p->transform->rows * p->transform->taps : p->count;
}

/* Bytes that qs_param_address needs for all parameters: their unpacked forms, one after the other, and behind the last
 * the values before its transform. */
static uint64_t qs_unpacked_bytes(void) {
  uint64_t total = 0, most = 0;
  for (int i = 0; i < QS_NUM_PARAMS; i++) {
    const qs_param *p = &qs_params[i];
    if (!p->bits) continue;
    uint64_t before = p->transform ? qs_round_up((uint64_t)qs_stored_count(p) + 8) : 0;
    total += qs_round_up((uint64_t)p->count + 8);
    most = before > most ? before : most;
  }
  return total + most;
}

/* Where parameter i lies: in the executable, or unpacked at `*memory`, which moves on. */
static void *qs_param_address(int i, uint8_t **memory) {
  const qs_param *p = &qs_params[i];
  const uint8_t *stored = qs_param_data + p->offset;
  if (!p->bits) return (void *)(uintptr_t)stored;
  uint8_t *unpacked = *memory;
  *memory += qs_round_up((uint64_t)p->count + 8);
  int8_t *values = (int8_t *)(p->transform ? *memory : unpacked);
  qs_unpack(stored, p->bits, qs_stored_count(p), values);
  if (p->transform) qs_transform_weights(p->transform, values, (int8_t *)unpacked);
  return unpacked;
}
