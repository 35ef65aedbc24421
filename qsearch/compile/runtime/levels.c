/* Patches that have nothing to do with each other. */
#include "merge.c"

/* Patch `index`, at the level whose steps are chosen. */
static int qs_upscale_patch(qs_context *context, const uint8_t *image, const qs_work *work, int64_t index,
                            uint8_t *output, int64_t tile) {
  double start = qs_stage_start(context);
  qs_gather(work, image, index);
  qs_stage_end(context, QS_GATHER, start);
  start = qs_stage_start(context);
  int status = qs_upscale(context, work->in, work->rows.side, work->columns.side, work->out, tile,
                          context->memory_limit - work->bytes);
  qs_stage_end(context, QS_BODIES + work->patches[index].level, start);
  if (status) return status;
  start = qs_stage_start(context);
  qs_scatter(work, index, work->out, output);
  qs_stage_end(context, QS_MERGE, start);
  return 0;
}

/* Level by level, so that the parameters of one stay in the cache. */
static int qs_upscale_patches(qs_context *context, const uint8_t *image, const qs_work *work, uint8_t *output,
                              int64_t tile) {
  const int64_t rows = qs_rows_at_once(work), columns = work->columns.count;
  for (int64_t row = 0; row < work->rows.count; row += rows) {
    for (int level = 0; level < QS_NUM_LEVELS; level++) {
      qs_choose_steps(context, qs_level_steps[level][0], qs_level_steps[level][1]);
      for (int64_t i = row * columns; i < (row + rows) * columns; i++) {
        int status = work->patches[i].level == level ? qs_upscale_patch(context, image, work, i, output, tile) : 0;
        if (status) return status;
      }
    }
    double start = qs_stage_start(context);
    qs_finish_row(work, row, output);
    qs_stage_end(context, QS_MERGE, start);
  }
  return 0;
}
