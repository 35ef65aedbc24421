/* Patches that are never apart: step by step over the whole image, or over a tile of it, each patch at its level, with
 * its true neighbours. The steps of all levels write one buffer, each the pixels of its level.
 *
 * Kernels want buffers without gaps: one gets copies of a run of neighbouring patches, with the ring that it reads
 * around them, and what it writes is copied back. Every thread takes runs of its own, which stay in its cache. */

/* Pixels of a run, unless one patch has more: few enough that its copies stay in a core's own cache. */
enum { QS_RUN_PIXELS = 8192 };

/* A step on all runs of its level. */
typedef struct {
  qs_context *context;
  int number; /* of the step */
  qs_area tile;
  const qs_area *runs; /* their origin is the tile's */
  uint8_t *copies;
  uint64_t copies_bytes; /* of every thread */
  double times[QS_MAX_THREADS][3]; /* milliseconds of gathering, kernels and merging, of every thread */
} qs_job;

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

/* Pixels of a buffer for one of the input, along either axis. */
static int64_t qs_scale(const qs_job *job, int buffer) {
  return (job->context->shapes[buffer][0] - 2 * qs_buffers[buffer].border) / job->tile.height;
}

/* Where the buffer of argument `a` comes first. */
static int qs_first_place(const qs_step *step, int a) {
  for (int before = 0; before < a; before++)
    if (step->arguments[before] == step->arguments[a]) return before;
  return a;
}

/* Copies of a step's buffers: what it reads is filled. */
static void qs_gather_run(const qs_job *job, const qs_area *run, uint8_t *copies, DLTensor *tensors,
                          int64_t shapes[][3]) {
  const qs_context *context = job->context;
  const qs_step *step = &qs_steps[job->number];
  for (int a = 0; a < step->num_buffers; a++) {
    const int i = step->arguments[a], first = qs_first_place(step, a);
    tensors[a] = tensors[first];
    if (first < a) continue;
    const int64_t twice = 2 * qs_buffers[i].border, scale = qs_scale(job, i);
    shapes[a][0] = run->height * scale + twice;
    shapes[a][1] = run->width * scale + twice;
    shapes[a][2] = qs_buffers[i].channels;
    tensors[a] = context->buffers[i];
    tensors[a].shape = shapes[a];
    tensors[a].data = copies;
    /* Of a joined buffer a step writes some channels: the others must come back as they were. */
    if (a < step->first_output || qs_joined[i]) {
      const int64_t stride = qs_row_bytes(i, scale, job->tile.width), row = qs_row_bytes(i, scale, run->width);
      const uint8_t *map = context->buffers[i].data;
      qs_copy_rows(copies, row, map + run->y * scale * stride + run->x * scale * qs_buffers[i].channels, stride, row,
                   shapes[a][0]);
    }
    copies += qs_area_bytes(i, scale, run->height, run->width);
  }
}

/* Copies what the run gives of buffer i: its pixels, and the border where the tile ends. With `edges` only those that
 * other runs can reach: a border wide along its sides. */
static void qs_give(const qs_job *job, int i, const qs_area *run, const DLTensor *tensor, int edges) {
  const int64_t border = qs_buffers[i].border, channels = qs_buffers[i].channels, scale = qs_scale(job, i);
  const int64_t top = run->y ? border : 0, left = run->x ? border : 0;
  const int64_t bottom = tensor->shape[0] - (run->y + run->height < job->tile.height ? border : 0);
  const int64_t right = tensor->shape[1] - (run->x + run->width < job->tile.width ? border : 0);
  const int64_t stride = qs_row_bytes(i, scale, job->tile.width), row = qs_row_bytes(i, scale, run->width);
  uint8_t *to = (uint8_t *)job->context->buffers[i].data + run->y * scale * stride + run->x * scale * channels;
  const uint8_t *from = tensor->data;
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
    qs_copy_rows(to + y * stride + x * channels, stride, from + y * row + x * channels, row, columns * channels, rows);
  }
}

static double qs_job_clock(const qs_context *context) {
  return context->stage_ms || context->step_ms ? qs_now_ms() : 0;
}

/* Run `task` by the calling thread. */
static int qs_run_task(int task, TVMParallelGroupEnv *env, void *data) {
  (void)env;
  qs_job *job = data;
  const qs_step *step = &qs_steps[job->number];
  const qs_area *run = &job->runs[task];
  qs_scratch *first = job->context->pool.scratch;
  const int64_t thread = first ? qs_thread_scratch - first : 0;
  DLTensor tensors[QS_MAX_ARGS];
  int64_t shapes[QS_MAX_ARGS][3];
  double times[4];
  times[0] = qs_job_clock(job->context);
  qs_gather_run(job, run, job->copies + (uint64_t)thread * job->copies_bytes, tensors, shapes);
  times[1] = qs_job_clock(job->context);
  int status = qs_call_kernel(job->context, step, tensors);
  times[2] = qs_job_clock(job->context);
  for (int a = step->first_output; a < step->num_buffers && status == 0; a++) {
    const int i = step->arguments[a];
    /* What no step of the level reads is for neighbours alone. */
    qs_give(job, i, run, &tensors[a], !(qs_readers[i] >> qs_step_levels[job->number] & 1));
  }
  times[3] = qs_job_clock(job->context);
  for (int stage = 0; stage < 3; stage++) job->times[thread][stage] += times[stage + 1] - times[stage];
  return status;
}

/* The runs of a level in a tile; returns their number. */
static int64_t qs_find_runs(const qs_work *work, int32_t level, const qs_area *tile) {
  const int64_t end = tile->x + tile->width, columns = work->columns.count, most = qs_run_width();
  int64_t count = 0;
  for (int64_t row = 0; row < work->rows.count; row++) {
    const qs_patch *patches = work->patches + row * columns;
    const int64_t top = qs_max(patches->top, tile->y), bottom = qs_min(patches->bottom, tile->y + tile->height);
    for (int64_t i = 0; i < columns && top < bottom;) {
      const int32_t own = patches[i].level;
      const int64_t left = qs_max(patches[i].left, tile->x);
      int64_t right = qs_min(patches[i++].right, end);
      if (own != level) continue;
      for (; i < columns && patches[i].level == level && qs_min(patches[i].right, end) - left <= most; i++)
        right = qs_min(patches[i].right, end);
      if (left < right) work->runs[count++] = (qs_area){top - tile->y, left - tile->x, bottom - top, right - left};
    }
  }
  return count;
}

/* Time of all threads is told as shares of the time that has passed. */
static void qs_job_end(const qs_job *job, double start) {
  double *stage_ms = job->context->stage_ms, *step_ms = job->context->step_ms, sums[3] = {0}, total = 0;
  for (int thread = 0; thread < QS_MAX_THREADS; thread++)
    for (int stage = 0; stage < 3; stage++) sums[stage] += job->times[thread][stage];
  for (int stage = 0; stage < 3; stage++) total += sums[stage];
  if (total <= 0) return;
  const double share = (qs_now_ms() - start) / total;
  if (step_ms) step_ms[job->number] += sums[1] * share;
  if (stage_ms == NULL) return;
  stage_ms[QS_GATHER] += sums[0] * share;
  stage_ms[QS_BODIES + qs_step_levels[job->number]] += sums[1] * share;
  stage_ms[QS_MERGE] += sums[2] * share;
}

/* A step on all patches of its level. */
static int qs_run_level(qs_context *context, int number, const qs_area *tile, uint8_t *copies) {
  const int level = qs_step_levels[number];
  const int64_t count = qs_find_runs(context->work, level, tile);
  const qs_area *runs = context->work->runs;
  const double start = qs_job_clock(context);
  int status = 0;
  if (count == 1 && runs->height == tile->height && runs->width == tile->width) {
    status = qs_run_step(context, number);
    qs_stage_end(context, QS_BODIES + level, start);
    return status;
  }
  qs_job job = {context, number, *tile, runs, copies, qs_copies_bytes(tile->height, tile->width), {{0}}};
  context->error[0] = 0;
  if (context->pool.num_threads > 1 && context->pool.scratch && count >= 2 * context->pool.num_threads) {
    qs_pool_plan(&context->pool, 1);
    context->pool.num_tasks = (int)count;
    status = qs_pool_launch(&context->pool, qs_run_task, &job);
  } else { /* the kernels share out each run */
    for (int64_t i = 0; i < count && status == 0; i++) {
      qs_pool_plan(&context->pool, runs[i].height * qs_scale(&job, qs_steps[number].arguments[0]));
      status = qs_run_task((int)i, NULL, &job);
    }
  }
  qs_job_end(&job, start);
  return status ? qs_kernel_failed(context, &qs_steps[number]) : 0;
}

static uint64_t qs_piece_bytes(const qs_context *context, int64_t height, int64_t width) {
  uint64_t arena = qs_arena_bytes(height, width);
  return arena ? arena + (uint64_t)context->pool.num_threads * qs_copies_bytes(height, width) : 0;
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
