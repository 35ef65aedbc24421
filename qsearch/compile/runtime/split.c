/* How an image is split into patches, and the patches' places in the result: what qsearch/patches/split.py does. */
#include <stdint.h>

/* The patches along one side of an image, all equally long. */
typedef struct {
  int64_t size, side, step, count;
} qs_cut;

static qs_cut qs_cut_side(int64_t size) {
  if (size <= QS_PATCH) return (qs_cut){size, size, 1, 1};
  int64_t inner = size - QS_OVERLAP, fewest = (inner + QS_PATCH - QS_OVERLAP - 1) / (QS_PATCH - QS_OVERLAP);
  int64_t step = (inner + fewest - 1) / fewest, side = step + QS_OVERLAP;
  return (qs_cut){size, side, step, (size - side + step - 1) / step + 1};
}

/* The first pixel that patch i reads; the last patch moves back. */
static int64_t qs_cut_begin(const qs_cut *cut, int64_t i) {
  int64_t last = cut->size - cut->side;
  return i * cut->step < last ? i * cut->step : last;
}

/* The pixels `from` to `to` (exclusive) that it gives to the result. */
static void qs_cut_given(const qs_cut *cut, int64_t i, int64_t *from, int64_t *to) {
#if QS_AVERAGE
  *from = qs_cut_begin(cut, i);
  *to = *from + cut->side;
#else
  *from = i == 0 ? 0 : i * cut->step + QS_OVERLAP / 2;
  *to = i == cut->count - 1 ? cut->size : (i + 1) * cut->step + QS_OVERLAP / 2;
#endif
}

#if QS_AVERAGE
/* How many patches give the pixel. */
static int64_t qs_cut_givers(const qs_cut *cut, int64_t pixel) {
  int64_t found = 0, first = pixel < cut->side ? 0 : (pixel - cut->side) / cut->step;
  for (int64_t i = first; i < cut->count && qs_cut_begin(cut, i) <= pixel; i++)
    found += pixel < qs_cut_begin(cut, i) + cut->side;
  return found;
}
#endif
