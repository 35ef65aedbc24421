/* Patches that are never apart: step by step over the whole image, or over a tile of it, each patch at its level, with
 * its true neighbours. The steps of all levels write one buffer, each the pixels of its level.
 *
 * Kernels want buffers without gaps: one gets copies of a run of neighbouring patches, with the ring that it reads
 * around them, and what it writes is copied back. */

/* Pixels of a run, unless one patch has more: few enough that its copies stay in a core's own cache. */
enum { QS_RUN_PIXELS = 8192 };

/* Pixels of the input: a tile of the image, or a run in a tile, whose origin then is the tile's. */
typedef struct {
  int64_t y, x, height, width;
} qs_area;

/* A buffer of the tile while a step works on a copy of a part of it. */
typedef struct {
  uint8_t *data; /* NULL for one that comes twice among the step's arguments */
  int64_t scale, stride;
} qs_lent;

static int64_t qs_run_width(void) {
  return qs_max(1, QS_RUN_PIXELS / ((int64_t)QS_PATCH * QS_PATCH)) * QS_PATCH;
}

/* Bytes of a row of a buffer, border included, for `width` pixels of the input. */
static int64_t qs_row_bytes(int buffer, int64_t scale, int64_t width) {
  return (width * scale + 2 * qs_buffers[buffer].border) * qs_buffers[buffer].channels;
}

static uint64_t qs_area_bytes(int buffer, int64_t scale, int64_t height, int64_t width) {
  int64_t rows = height * scale + 2 * qs_buffers[buffer].border;
  return qs_round_up((uint64_t)(rows * qs_row_bytes(buffer, scale, width)) + QS_SLACK);
}

/* The copies that any step needs of the largest run. */
static uint64_t qs_copies_bytes(int64_t height, int64_t width) {
  int64_t sizes[QS_NUM_BUFFERS][2];
  uint64_t most = 0;
  qs_sizes(1, 1, sizes);
  for (int i = qs_level_steps[0][0]; i < qs_level_steps[0][1]; i++) {
    uint64_t bytes = 0;
    for (int a = 0; a < qs_steps[i].num_buffers; a++) {
      const int buffer = qs_steps[i].arguments[a];
      bytes += qs_area_bytes(buffer, sizes[buffer][0], qs_min(height, QS_PATCH), qs_min(width, qs_run_width()));
    }
    most = bytes > most ? bytes : most;
  }
  return most;
}

/* Puts copies in the place of a step's buffers. */
static void qs_lend(qs_context *context, const qs_step *step, const qs_area *tile, const qs_area *run, uint8_t *copies,
                    qs_lent *lent) {
  for (int a = 0; a < step->num_buffers; a++) {
    const int i = step->arguments[a];
    lent[a].data = context->buffers[i].data;
    for (int before = 0; before < a; before++)
      if (step->arguments[before] == i) lent[a].data = NULL;
    if (lent[a].data == NULL) continue;
    const int64_t twice = 2 * qs_buffers[i].border, scale = (context->shapes[i][0] - twice) / tile->height;
    lent[a].scale = scale;
    lent[a].stride = qs_row_bytes(i, scale, tile->width);
    context->shapes[i][0] = run->height * scale + twice;
    context->shapes[i][1] = run->width * scale + twice;
    context->buffers[i].data = copies;
    /* Of a joined buffer a step writes some channels: the others must come back as they were. */
    if (a < step->first_output || qs_joined[i]) {
      const int64_t row = qs_row_bytes(i, scale, run->width);
      const uint8_t *from =
          lent[a].data + run->y * scale * lent[a].stride + run->x * scale * qs_buffers[i].channels;
      qs_copy_rows(copies, row, from, lent[a].stride, row, context->shapes[i][0]);
    }
    copies += qs_area_bytes(i, scale, run->height, run->width);
  }
}

/* Copies what the run gives of a buffer: its pixels, and the border where the tile ends. With `edges` only those that
 * other runs can reach: a border wide along its sides. */
static void qs_give(const qs_context *context, int i, const qs_area *tile, const qs_area *run, const qs_lent *lent,
                    int edges) {
  const int64_t border = qs_buffers[i].border, channels = qs_buffers[i].channels, scale = lent->scale;
  const int64_t top = run->y ? border : 0, left = run->x ? border : 0;
  const int64_t bottom = context->shapes[i][0] - (run->y + run->height < tile->height ? border : 0);
  const int64_t right = context->shapes[i][1] - (run->x + run->width < tile->width ? border : 0);
  const int64_t row = qs_row_bytes(i, scale, run->width);
  uint8_t *to = lent->data + run->y * scale * lent->stride + run->x * scale * channels;
  const uint8_t *from = context->buffers[i].data;
  const int64_t first_row = edges ? qs_min(2 * border, bottom) : bottom;
  const int64_t last_row = edges ? qs_max(bottom - border, first_row) : bottom;
  const int64_t first_column = qs_min(2 * border, right), last_column = qs_max(right - border, first_column);
  /* Rows, then columns, of the parts: above, left, right and below, or all at once. */
  const int64_t parts[][4] = {{top, first_row, left, right},
                              {first_row, last_row, left, first_column},
                              {first_row, last_row, last_column, right},
                              {last_row, bottom, left, right}};
  for (int p = 0; p < (edges ? 4 : 1); p++) {
    const int64_t y = parts[p][0], x = parts[p][2], rows = parts[p][1] - y, columns = parts[p][3] - x;
    qs_copy_rows(to + y * lent->stride + x * channels, lent->stride, from + y * row + x * channels, row,
                 columns * channels, rows);
  }
}

/* Copies the outputs back, if the step has gone well, and puts the tile's buffers in their places again. */
static void qs_return(qs_context *context, const qs_step *step, const qs_area *tile, const qs_area *run,
                      const qs_lent *lent, int level, int good) {
  for (int a = 0; a < step->num_buffers; a++) {
    const int i = step->arguments[a];
    if (lent[a].data == NULL) continue;
    /* What no step of the level reads is for neighbours alone. */
    const int edges = !(qs_readers[i] >> level & 1);
    if (good && a >= step->first_output) qs_give(context, i, tile, run, &lent[a], edges);
    context->shapes[i][0] = tile->height * lent[a].scale + 2 * qs_buffers[i].border;
    context->shapes[i][1] = tile->width * lent[a].scale + 2 * qs_buffers[i].border;
    context->buffers[i].data = lent[a].data;
  }
}

static int qs_run_patches(qs_context *context, int number, const qs_area *tile, const qs_area *run, uint8_t *copies) {
  const qs_step *step = &qs_steps[number];
  const int alone = run->height == tile->height && run->width == tile->width;
  qs_lent lent[QS_MAX_ARGS];
  double start = qs_stage_start(context);
  if (!alone) qs_lend(context, step, tile, run, copies, lent);
  qs_stage_end(context, QS_GATHER, start);
  start = qs_stage_start(context);
  int status = qs_run_step(context, number);
  qs_stage_end(context, QS_BODIES + qs_step_levels[number], start);
  start = qs_stage_start(context);
  if (!alone) qs_return(context, step, tile, run, lent, qs_step_levels[number], status == 0);
  qs_stage_end(context, QS_MERGE, start);
  return status;
}

/* A step on all patches of its level. */
static int qs_run_level(qs_context *context, int number, const qs_area *tile, uint8_t *copies) {
  const qs_work *work = context->work;
  const int64_t end = tile->x + tile->width, columns = work->columns.count, most = qs_run_width();
  int status = 0;
  for (int64_t row = 0; row < work->rows.count; row++) {
    const qs_patch *patches = work->patches + row * columns;
    const int64_t top = qs_max(patches->top, tile->y), bottom = qs_min(patches->bottom, tile->y + tile->height);
    for (int64_t i = 0; i < columns && top < bottom && status == 0;) {
      const int32_t level = patches[i].level;
      const int64_t left = qs_max(patches[i].left, tile->x);
      int64_t right = qs_min(patches[i++].right, end);
      if (level != qs_step_levels[number]) continue;
      for (; i < columns && patches[i].level == level && qs_min(patches[i].right, end) - left <= most; i++)
        right = qs_min(patches[i].right, end);
      const qs_area run = {top - tile->y, left - tile->x, bottom - top, right - left};
      if (run.width > 0) status = qs_run_patches(context, number, tile, &run, copies);
    }
  }
  return status;
}

static uint64_t qs_piece_bytes(int64_t height, int64_t width) {
  uint64_t arena = qs_arena_bytes(height, width);
  return arena ? arena + qs_copies_bytes(height, width) : 0;
}

static int qs_run_piece(qs_context *context, int64_t y, int64_t x, const uint8_t *input, int64_t height, int64_t width,
                        uint8_t *output, uint8_t *memory) {
  const qs_area tile = {y, x, height, width};
  uint8_t *copies = memory + qs_arena_bytes(height, width);
  int status = qs_bind(context, input, height, width, output, memory);
  if (status) return status;
  void *previous = qs_thread_owner;
  qs_scratch *previous_scratch = qs_thread_scratch;
  qs_thread_owner = context;
  qs_thread_scratch = context->pool.scratch;
  for (int i = context->first_step; i < context->end_step && status == 0; i++) {
    double start = qs_stage_start(context);
    if (qs_step_levels[i] >= 0) {
      status = qs_run_level(context, i, &tile, copies);
    } else {
      status = qs_run_step(context, i);
      qs_stage_end(context, QS_GATHER, start);
    }
  }
  qs_thread_owner = previous;
  qs_thread_scratch = previous_scratch;
  return status;
}

#include "tiles.c"

static int qs_upscale_patches(qs_context *context, const uint8_t *image, const qs_work *work, uint8_t *output,
                              int64_t tile) {
  context->work = work;
  qs_choose_steps(context, qs_level_steps[0][0], qs_level_steps[0][1]);
  return qs_upscale(context, image, work->rows.size, work->columns.size, output, tile,
                    context->memory_limit - work->bytes);
}
