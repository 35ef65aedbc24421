/* Levels by edges: a patch has the level of the first threshold that the mean magnitude of its luma's Laplacian reaches,
 * itself or relative to that of all patches, and the last level where it reaches none. All in integers, as in
 * qsearch/patches/rule.py. */

/* The scores of all patches, then the luma of one with a border of one pixel. */
static uint64_t qs_decision_bytes(const qs_work *work) {
  uint64_t luma = (uint64_t)((work->rows.side + 2) * (work->columns.side + 2)) * sizeof(int16_t);
  return (uint64_t)work->count * sizeof(int64_t) + luma;
}

/* `image` points at the patch; beyond its border the nearest pixel counts. */
static void qs_luma(const qs_work *work, const uint8_t *image, int16_t *luma) {
  const int64_t height = work->rows.side, width = work->columns.side, stride = width + 2;
  for (int64_t y = 0; y < height; y++) {
    const uint8_t *from = image + y * work->columns.size * 3;
    int16_t *to = luma + (y + 1) * stride + 1;
    for (int64_t x = 0; x < width; x++, from += 3) to[x] = (int16_t)((77 * from[0] + 150 * from[1] + 29 * from[2]) >> 8);
    to[-1] = to[0];
    to[width] = to[width - 1];
  }
  memcpy(luma, luma + stride, (size_t)stride * sizeof *luma);
  memcpy(luma + (height + 1) * stride, luma + height * stride, (size_t)stride * sizeof *luma);
}

/* In 1/256 grey levels. */
static int64_t qs_edge_score(const qs_work *work, const int16_t *luma) {
  const int64_t height = work->rows.side, width = work->columns.side, stride = width + 2;
  int64_t total = 0;
  for (int64_t y = 0; y < height; y++) {
    const int16_t *row = luma + (y + 1) * stride + 1;
    int32_t sum = 0; /* of at most 2^20 pixels and 1020 each */
    for (int64_t x = 0; x < width; x++) {
      int32_t laplacian = 4 * row[x] - row[x - stride] - row[x + stride] - row[x - 1] - row[x + 1];
      sum += laplacian < 0 ? -laplacian : laplacian;
    }
    total += sum;
  }
  return total * 256 / (height * width);
}

#if QS_RELATIVE
static void qs_make_relative(int64_t *scores, int64_t count) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; i++) sum += scores[i];
  const int64_t mean = qs_max(sum / count, 1);
  for (int64_t i = 0; i < count; i++) scores[i] = (((scores[i] << 20) / mean) << 20) / (mean * mean);
}
#endif

static int qs_decide_levels(qs_context *context, const uint8_t *image, qs_work *work) {
  (void)context;
  int64_t *scores = work->scratch;
  int16_t *luma = (int16_t *)(scores + work->count);
  for (int64_t i = 0; i < work->count; i++) {
    int64_t y = qs_cut_begin(&work->rows, i / work->columns.count);
    int64_t x = qs_cut_begin(&work->columns, i % work->columns.count);
    qs_luma(work, image + (y * work->columns.size + x) * 3, luma);
    scores[i] = qs_edge_score(work, luma);
  }
#if QS_RELATIVE
  qs_make_relative(scores, work->count);
#endif
  for (int64_t i = 0; i < work->count; i++) {
    int32_t level = 0;
    while (level < QS_NUM_LEVELS - 1 && scores[i] < qs_thresholds[level]) level++;
    work->patches[i].level = level;
  }
  return 0;
}
