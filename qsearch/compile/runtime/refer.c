/* References at the high level, then queries at the low one, which borrow from them: after every segment of the low
 * network but the last, RefER repairs values with the feature that the high one had there. Patches run in one piece.
 *
 * Of every reference that a query names are kept its features and their keys, and where patches are averaged its
 * result, as these are merged row by row. */
#include "matching.c"
#include "merge.c"

enum { QS_MATCHING = QS_BODIES + QS_NUM_LEVELS, QS_WARP, QS_FUSION }; /* stages */

typedef struct {
  const qs_work *work;
  int64_t rows, columns; /* of a patch */
  int32_t *number;       /* [patches], of what is kept of a patch, or -1 */
  uint8_t *kept;
  uint64_t kept_bytes; /* of one reference */
  int16_t *keys;       /* of a query */
  int32_t *flow;
  uint64_t bytes;
} qs_refer;

static qs_matching qs_matching_of(const qs_context *context, const qs_repair *r) {
  return (qs_matching){context->params[r->weight].data, context->params[r->factor].data,
                       context->params[r->table].data, r->keys, r->channels, r->reduce, r->zero_point, r->length};
}

static int64_t qs_num_cells(const qs_refer *refer, const qs_repair *r) {
  return qs_cells(refer->rows, r->reduce) * qs_cells(refer->columns, r->reduce);
}

static uint64_t qs_keys_bytes(const qs_refer *refer, const qs_repair *r) {
  return (uint64_t)qs_num_cells(refer, r) * (uint64_t)((r->keys + 1) / 2) * 2 * sizeof(int16_t);
}

/* Where in what is kept of a reference the codes of a RefER begin, after which come its keys; behind the last RefER the
 * result begins. */
static uint64_t qs_kept_offset(const qs_refer *refer, int repair) {
  uint64_t offset = 0;
  for (int i = 0; i < repair; i++)
    offset += qs_round_up((uint64_t)(refer->rows * refer->columns * qs_repairs[i].channels)) +
              qs_round_up(qs_keys_bytes(refer, &qs_repairs[i]));
  return offset;
}

static uint8_t *qs_kept_codes(const qs_refer *refer, int32_t number, int repair) {
  return refer->kept + (uint64_t)number * refer->kept_bytes + qs_kept_offset(refer, repair);
}

static int16_t *qs_kept_keys(const qs_refer *refer, int32_t number, int repair) {
  return (int16_t *)(qs_kept_codes(refer, number, repair) +
                     qs_round_up((uint64_t)(refer->rows * refer->columns * qs_repairs[repair].channels)));
}

/* Places everything in `memory`, or with NULL only counts. */
static void qs_lay_out_refer(qs_refer *refer, uint8_t *memory, int64_t wanted) {
  uint64_t used = 0, keys = 0, flow = 0, u = QS_UPSCALE;
  for (int i = 0; i < QS_NUM_REPAIRS; i++) {
    const uint64_t own = qs_keys_bytes(refer, &qs_repairs[i]), cells = (uint64_t)qs_num_cells(refer, &qs_repairs[i]);
    keys = own > keys ? own : keys;
    flow = cells > flow ? cells : flow;
  }
  refer->number = qs_take(memory, &used, (uint64_t)refer->work->count * sizeof(int32_t));
  refer->keys = qs_take(memory, &used, keys);
  refer->flow = qs_take(memory, &used, flow * 2 * sizeof(int32_t));
  refer->kept_bytes = qs_kept_offset(refer, QS_NUM_REPAIRS) +
                      (QS_AVERAGE ? qs_round_up((uint64_t)(refer->rows * refer->columns * 3) * u * u) : 0);
  refer->kept = qs_take(memory, &used, (uint64_t)wanted * refer->kept_bytes);
  refer->bytes = used;
}

/* Numbers the references that some query names. */
static int64_t qs_number_references(const qs_work *work, int32_t *number) {
  int32_t wanted = 0;
  for (int64_t i = 0; i < work->count; i++) number[i] = -1;
  for (int64_t i = 0; i < work->count; i++) {
    int32_t *of_reference = &number[work->patches[i].reference];
    if (work->patches[i].level && *of_reference < 0) *of_reference = wanted++;
  }
  return wanted;
}

/* Memory for the references, then every buffer in its place, with the borders that no step writes. */
static int qs_start_refer(qs_context *context, const qs_work *work, qs_refer *refer) {
  *refer = (qs_refer){.work = work, .rows = work->rows.side, .columns = work->columns.side};
  const uint64_t arena = qs_arena_bytes(refer->rows, refer->columns);
  if (arena == 0) return qs_fail(context, QS_BAD_SIZE, "a buffer of a patch would pass 2 GiB");
  int64_t wanted = qs_number_references(work, work->scratch);
  qs_lay_out_refer(refer, NULL, wanted);
  const uint64_t needed = work->bytes + arena + refer->bytes;
  if (needed > context->memory_limit)
    return qs_fail(context, QS_NO_MEMORY, "RefER needs %l KiB of working memory for the %l references of this image",
                   (int64_t)((needed + 1023) >> 10), wanted);
  int status = qs_reserve(context, arena);
  if (status) return status;
  uint8_t *memory = aligned_alloc(QS_ALIGN, refer->bytes);
  if (memory == NULL)
    return qs_fail(context, QS_NO_MEMORY, "cannot allocate %l MiB of working memory", (int64_t)(refer->bytes >> 20));
  qs_lay_out_refer(refer, memory, wanted);
  qs_number_references(work, refer->number);
  status = qs_bind(context, work->in, refer->rows, refer->columns, work->out, context->memory);
  for (int i = 0; i < QS_NUM_FILLS && status == 0; i++) {
    const qs_fill *fill = &qs_fills[i];
    const int64_t *shape = context->shapes[fill->buffer];
    uint8_t *to = (uint8_t *)context->buffers[fill->buffer].data + fill->first;
    for (int64_t p = 0; p < shape[0] * shape[1]; p++, to += shape[2])
      qs_copy(to, context->params[fill->values].data, fill->count);
  }
  return status;
}

static void qs_end_refer(const qs_refer *refer) { free(refer->number); /* the start of the block */ }

#include "repair.c"

/* The steps of a part of the low network, or of a fusion, once what they take is in its place. */
static int qs_run_part(qs_context *context, const qs_refer *refer, const qs_part *part) {
  for (int i = part->first_move; i < part->end_move; i++) qs_place(context, refer, &qs_moves[i]);
  qs_choose_steps(context, part->first_step, part->end_step);
  return qs_run(context, refer->work->in, refer->rows, refer->columns, refer->work->out, context->memory);
}

static int qs_run_query(qs_context *context, const qs_refer *refer, int64_t index) {
  const int32_t number = refer->number[refer->work->patches[index].reference];
  int status = 0;
  for (int i = 0; i <= QS_NUM_REPAIRS && status == 0; i++) {
    double start = qs_stage_start(context);
    status = qs_run_part(context, refer, &qs_segments[i]);
    qs_stage_end(context, QS_BODIES + 1, start);
    if (i == QS_NUM_REPAIRS || status) break;
    status = qs_match_and_warp(context, refer, i, number);
    start = qs_stage_start(context);
    if (status == 0) status = qs_run_part(context, refer, &qs_repairs[i].fusion);
    if (status == 0) status = qs_repair_values(context, refer, i);
    qs_stage_end(context, QS_FUSION, start);
  }
  return status;
}

/* A reference; what queries borrow is kept. */
static int qs_run_reference(qs_context *context, const qs_refer *refer, int64_t index) {
  double start = qs_stage_start(context);
  qs_choose_steps(context, qs_level_steps[0][0], qs_level_steps[0][1]);
  int status = qs_run(context, refer->work->in, refer->rows, refer->columns, refer->work->out, context->memory);
  qs_stage_end(context, QS_BODIES, start);
  start = qs_stage_start(context);
  for (int i = 0; i < QS_NUM_REPAIRS && status == 0 && refer->number[index] >= 0; i++)
    status = qs_keep(context, refer, i, refer->number[index]);
  qs_stage_end(context, QS_MATCHING, start);
  return status;
}

/* Upscales a patch to work->out. */
static int qs_refer_patch(qs_context *context, const uint8_t *image, const qs_refer *refer, int64_t index) {
  double start = qs_stage_start(context);
  qs_gather(refer->work, image, index);
  qs_stage_end(context, QS_GATHER, start);
  return refer->work->patches[index].level ? qs_run_query(context, refer, index)
                                           : qs_run_reference(context, refer, index);
}

static void qs_merge_patch(qs_context *context, const qs_work *work, int64_t index, const uint8_t *result,
                           uint8_t *output) {
  double start = qs_stage_start(context);
  qs_scatter(work, index, result, output);
  qs_stage_end(context, QS_MERGE, start);
}

/* First the references that are borrowed from, then all other patches. */
static int qs_refer_patches(qs_context *context, const uint8_t *image, const qs_refer *refer, uint8_t *output) {
  const qs_work *work = refer->work;
  const int64_t result_bytes = refer->rows * refer->columns * 3 * QS_UPSCALE * QS_UPSCALE;
  int status = 0;
  for (int64_t i = 0; i < work->count && status == 0; i++) {
    if (refer->number[i] < 0) continue;
    status = qs_refer_patch(context, image, refer, i);
    if (status) return status;
    if (QS_AVERAGE)
      qs_copy(qs_kept_codes(refer, refer->number[i], QS_NUM_REPAIRS), work->out, result_bytes);
    else
      qs_merge_patch(context, work, i, work->out, output);
  }
  const int64_t rows = qs_rows_at_once(work), columns = work->columns.count;
  for (int64_t row = 0; row < work->rows.count; row += rows) {
    for (int64_t i = row * columns; i < (row + rows) * columns; i++) {
      const int known = refer->number[i] >= 0;
      status = known ? 0 : qs_refer_patch(context, image, refer, i);
      if (status) return status;
      if (!known)
        qs_merge_patch(context, work, i, work->out, output);
      else if (QS_AVERAGE)
        qs_merge_patch(context, work, i, qs_kept_codes(refer, refer->number[i], QS_NUM_REPAIRS), output);
    }
    double start = qs_stage_start(context);
    qs_finish_row(work, row, output);
    qs_stage_end(context, QS_MERGE, start);
  }
  return 0;
}

static int qs_upscale_patches(qs_context *context, const uint8_t *image, const qs_work *work, uint8_t *output,
                              int64_t tile) {
  const int64_t side = qs_max(work->rows.side, work->columns.side);
  if (tile && tile < side)
    return qs_fail(context, QS_BAD_SIZE, "with RefER a patch runs in one piece: a tile needs at least %l pixels", side);
  qs_refer refer;
  int status = qs_start_refer(context, work, &refer);
  if (status == 0) status = qs_refer_patches(context, image, &refer, output);
  if (refer.number) qs_end_refer(&refer);
  return status;
}
