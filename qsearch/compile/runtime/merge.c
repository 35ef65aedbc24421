/* The results of patches that were upscaled apart become the image: cropped, or averaged where they overlap. */

#if QS_AVERAGE
/* Adds `from`, the result of patch `index`, to the sums of its row of patches. */
static void qs_scatter(const qs_work *work, int64_t index, const uint8_t *from, uint8_t *output) {
  (void)output;
  const int64_t u = QS_UPSCALE, values = work->columns.side * u * 3, stride = work->columns.size * u * 3;
  uint32_t *to = work->sums + work->patches[index].left * u * 3;
  for (int64_t y = 0; y < work->rows.side * u; y++, to += stride, from += values)
    for (int64_t i = 0; i < values; i++) to[i] += from[i];
}

/* Writes the rows of the image that no later row of patches adds to, and keeps the sums of the others. */
static void qs_finish_row(const qs_work *work, int64_t row, uint8_t *output) {
  const int64_t u = QS_UPSCALE, stride = work->columns.size * u * 3, begin = qs_cut_begin(&work->rows, row);
  const int last = row == work->rows.count - 1;
  const int64_t end = last ? work->rows.size : qs_cut_begin(&work->rows, row + 1);
  const uint32_t *sums = work->sums;
  for (int64_t y = begin * u; y < end * u; y++) {
    const uint32_t above = (uint32_t)qs_cut_givers(&work->rows, y / u);
    uint8_t *to = output + y * stride;
    for (int64_t x = 0; x < work->columns.size; x++) {
      /* Most pixels have one giver, two or four: their mean needs no division. */
      const uint32_t n = above * work->givers[x], powers = n & (n - 1) ? 0 : (uint32_t)__builtin_ctz(n) + 1;
      for (int64_t i = 0; i < u * 3; i++) {
        const uint32_t twice = 2 * *sums++ + n;
        *to++ = (uint8_t)(powers ? twice >> powers : twice / (2 * n));
      }
    }
  }
  const int64_t kept = last ? 0 : (begin + work->rows.side - end) * u * stride, all = work->rows.side * u * stride;
  memmove(work->sums, work->sums + (end - begin) * u * stride, (size_t)kept * sizeof *sums);
  memset(work->sums + kept, 0, (size_t)(all - kept) * sizeof *sums);
}

/* Rows of patches that are done together. */
static int64_t qs_rows_at_once(const qs_work *work) {
  for (int64_t x = 0; x < work->columns.size; x++) work->givers[x] = (uint32_t)qs_cut_givers(&work->columns, x);
  memset(work->sums, 0, (size_t)(work->rows.side * QS_UPSCALE * work->columns.size * QS_UPSCALE * 3) * sizeof(uint32_t));
  return 1;
}
#else
/* Copies what patch `index` gives of its result `from`. */
static void qs_scatter(const qs_work *work, int64_t index, const uint8_t *from, uint8_t *output) {
  const int64_t u = QS_UPSCALE, width = work->columns.size, side = work->columns.side;
  const qs_patch *p = &work->patches[index];
  int64_t y = p->top - qs_cut_begin(&work->rows, index / work->columns.count);
  int64_t x = p->left - qs_cut_begin(&work->columns, index % work->columns.count);
  qs_copy_rows(output + (p->top * width * u + p->left) * u * 3, width * u * 3,
               from + (y * side * u + x) * u * 3, side * u * 3, (p->right - p->left) * u * 3,
               (p->bottom - p->top) * u);
}

static void qs_finish_row(const qs_work *work, int64_t row, uint8_t *output) { (void)work, (void)row, (void)output; }

static int64_t qs_rows_at_once(const qs_work *work) { return work->rows.count; }
#endif
