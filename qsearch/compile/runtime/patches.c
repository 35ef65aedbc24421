/* An image patch by patch, each at the level that is decided for it. The generated file says how the image is split
 * (split.c), which of edges.c and clusters.c decides, and which of levels.c, refer.c and seamless.c upscales.
 *
 * Memory besides the two images: one patch and its result, the decisions, the arena of one patch (or of a tile of it;
 * where patches are seamless of the image, or of a tile of it), where patches are averaged, sums for as many rows of the
 * result as a row of patches has, and with RefER what is kept of references. */
#include <string.h>

#include "qs_network.h"

enum { QS_DECISION, QS_GATHER, QS_MERGE, QS_BODIES };

typedef QS_NAME(patch) qs_patch;

/* Pixels of the input: a tile of the image, or a part of it. */
typedef struct {
  int64_t y, x, height, width;
} qs_area;

/* The memory of one image, one block. */
typedef struct qs_work {
  qs_cut rows, columns;
  int64_t count;
  qs_patch *patches;
  uint8_t *in, *out; /* one patch and its result */
  uint32_t *sums;    /* [rows.side * upscale][columns.size * upscale][3] where patches are averaged */
  uint32_t *givers;  /* [columns.size], of every column of the image */
  void *scratch;     /* of the decision */
  qs_area *runs;     /* of patches that seamless.c runs together, as many as there are patches at most */
  uint64_t bytes;
} qs_work;

static double qs_stage_start(const qs_context *context) { return context->stage_ms ? qs_now_ms() : 0; }

static void qs_stage_end(qs_context *context, int stage, double start) {
  if (context->stage_ms) context->stage_ms[stage] += qs_now_ms() - start;
}

/* Copies patch `index` to work->in; edges that decide about seamless patches need none. */
static inline void qs_gather(const qs_work *work, const uint8_t *image, int64_t index) {
  int64_t y = qs_cut_begin(&work->rows, index / work->columns.count);
  int64_t x = qs_cut_begin(&work->columns, index % work->columns.count);
  qs_copy_rows(work->in, work->columns.side * 3, image + (y * work->columns.size + x) * 3, work->columns.size * 3,
               work->columns.side * 3, work->rows.side);
}

/* Runs the steps from `first` to `end` (exclusive) on work->in. */
static void qs_choose_steps(qs_context *context, int first, int end) {
  context->first_step = first;
  context->end_step = end;
}

#include QS_POLICY

static void *qs_take(uint8_t *memory, uint64_t *used, uint64_t bytes) {
  void *taken = memory ? memory + *used : NULL;
  *used += qs_round_up(bytes);
  return taken;
}

/* Places everything in `memory`, or with NULL only counts. */
static void qs_lay_out(qs_work *work, uint8_t *memory) {
  const uint64_t u = QS_UPSCALE, pixels = (uint64_t)(work->rows.side * work->columns.side * 3);
  uint64_t used = 0;
  work->patches = qs_take(memory, &used, (uint64_t)work->count * sizeof(qs_patch));
  work->in = qs_take(memory, &used, pixels);
  work->out = qs_take(memory, &used, pixels * u * u);
#if QS_AVERAGE
  work->sums = qs_take(memory, &used, (uint64_t)(work->rows.side * work->columns.size * 3) * u * u * sizeof(uint32_t));
  work->givers = qs_take(memory, &used, (uint64_t)work->columns.size * sizeof(uint32_t));
#endif
  work->scratch = qs_take(memory, &used, qs_decision_bytes(work));
#if QS_SEAMLESS
  work->runs = qs_take(memory, &used, (uint64_t)work->count * sizeof(qs_area));
#endif
  work->bytes = used;
}

static int qs_start_work(qs_context *context, int64_t height, int64_t width, qs_work *work) {
  int status = qs_check_size(context, height, width);
  if (status) return status;
  *work = (qs_work){.rows = qs_cut_side(height), .columns = qs_cut_side(width)};
  work->count = work->rows.count * work->columns.count;
  if (work->count > INT32_MAX) return qs_fail(context, QS_BAD_SIZE, "the image has too many patches");
  qs_lay_out(work, NULL);
  if (work->bytes >= context->memory_limit)
    return qs_fail(context, QS_NO_MEMORY, "the patches of this image need more than %l KiB of working memory",
                   (int64_t)(context->memory_limit >> 10));
  uint8_t *memory = aligned_alloc(QS_ALIGN, work->bytes);
  if (memory == NULL)
    return qs_fail(context, QS_NO_MEMORY, "cannot allocate %l MiB of working memory", (int64_t)(work->bytes >> 20));
  qs_lay_out(work, memory);
  return 0;
}

static void qs_end_work(const qs_work *work) { free(work->patches); /* the start of the block */ }

static int qs_decide(qs_context *context, const uint8_t *image, qs_work *work) {
  for (int64_t i = 0; i < work->count; i++) {
    qs_patch *p = &work->patches[i];
    qs_cut_given(&work->rows, i / work->columns.count, &p->top, &p->bottom);
    qs_cut_given(&work->columns, i % work->columns.count, &p->left, &p->right);
    p->cluster = p->reference = -1;
  }
  double start = qs_stage_start(context);
  int status = qs_decide_levels(context, image, work);
  qs_stage_end(context, QS_DECISION, start);
  return status;
}

#include QS_BODIES_OF

int QS_NAME(upscale_image)(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                           int64_t tile) {
  qs_work work;
  int status = qs_start_work(context, height, width, &work);
  if (status) return status;
  status = qs_decide(context, image, &work);
  if (status == 0) status = qs_upscale_patches(context, image, &work, output, tile);
  qs_end_work(&work);
  return status;
}

int64_t QS_NAME(num_patches)(int64_t height, int64_t width) {
  return height < 1 || width < 1 ? 0 : qs_cut_side(height).count * qs_cut_side(width).count;
}

int QS_NAME(decide)(qs_context *context, const uint8_t *image, int64_t height, int64_t width, qs_patch *patches) {
  qs_work work;
  int status = qs_start_work(context, height, width, &work);
  if (status) return status;
  status = qs_decide(context, image, &work);
  memcpy(patches, work.patches, (size_t)work.count * sizeof *patches);
  qs_end_work(&work);
  return status;
}

const char *QS_NAME(level_name)(int level) {
  return level >= 0 && level < QS_NUM_LEVELS ? qs_level_names[level] : NULL;
}

void QS_NAME(set_stage_profile)(qs_context *context, double *stage_ms) { context->stage_ms = stage_ms; }
