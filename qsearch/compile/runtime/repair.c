/* What RefER does to one patch, outside the compiled kernels; rows of cells and of pixels are shared among threads. */

typedef struct qs_job {
  int (*rows_done)(const struct qs_job *job, int64_t from, int64_t to);
  qs_context *context;
  const qs_refer *refer;
  const qs_repair *repair;
  const qs_move *move;
  const qs_reader *reader;
  qs_matching matching;
  const uint8_t *codes;
  const int16_t *known;
  int16_t *keys;
  int64_t rows, down, across; /* to share; cells */
} qs_job;

static int qs_job_task(int id, TVMParallelGroupEnv *env, void *data) {
  const qs_job *job = data;
  return job->rows_done(job, job->rows * id / env->num_task, job->rows * (id + 1) / env->num_task);
}

static int qs_share(qs_job *job, int (*rows_done)(const qs_job *, int64_t, int64_t), int64_t rows) {
  qs_pool *pool = &job->context->pool;
  qs_scratch *previous = qs_thread_scratch;
  qs_thread_scratch = pool->scratch;
  job->rows_done = rows_done;
  job->rows = rows;
  qs_pool_plan(pool, rows);
  int status = pool->num_threads == 1 ? rows_done(job, 0, rows) : qs_pool_launch(pool, qs_job_task, job);
  qs_thread_scratch = previous;
  return status;
}

static uint8_t *qs_data(const qs_job *job, int buffer) { return job->context->buffers[buffer].data; }

static int qs_place_rows(const qs_job *job, int64_t from, int64_t to) {
  const qs_buffer *place = &qs_buffers[job->move->to];
  const int64_t columns = job->refer->columns, width = columns + 2 * place->border, border = place->border;
  const int64_t channels = qs_buffers[job->move->from].channels;
  for (int64_t y = from; y < to; y++) {
    const uint8_t *source = qs_data(job, job->move->from) + y * columns * channels;
    uint8_t *target = qs_data(job, job->move->to) + ((y + border) * width + border) * place->channels + job->move->first;
    if (channels == place->channels)
      qs_copy(target, source, columns * channels);
    else
      qs_copy_rows(target, place->channels, source, channels, channels, columns);
  }
  return 0;
}

/* Puts a value where the steps of a part take it. */
static void qs_place(qs_context *context, const qs_refer *refer, const qs_move *move) {
  qs_job job = {.context = context, .refer = refer, .move = move};
  qs_share(&job, qs_place_rows, refer->rows);
}

static int qs_keys_rows(const qs_job *job, int64_t from, int64_t to) {
  qs_keys(&job->matching, job->codes, job->refer->rows, job->refer->columns, from, to, job->keys);
  return 0;
}

static qs_job qs_matching_job(qs_context *context, const qs_refer *refer, const qs_repair *r, const uint8_t *codes,
                              int16_t *keys) {
  return (qs_job){.context = context,
                  .refer = refer,
                  .repair = r,
                  .matching = qs_matching_of(context, r),
                  .codes = codes,
                  .keys = keys,
                  .down = qs_cells(refer->rows, r->reduce),
                  .across = qs_cells(refer->columns, r->reduce)};
}

/* Keeps a reference's feature and its keys. */
static int qs_keep(qs_context *context, const qs_refer *refer, int repair, int32_t number) {
  const qs_repair *r = &qs_repairs[repair];
  uint8_t *codes = qs_kept_codes(refer, number, repair);
  qs_copy(codes, context->buffers[r->reference].data, refer->rows * refer->columns * r->channels);
  qs_job job = qs_matching_job(context, refer, r, codes, qs_kept_keys(refer, number, repair));
  return qs_share(&job, qs_keys_rows, job.down);
}

static int qs_flow_rows(const qs_job *job, int64_t from, int64_t to) {
  int32_t *volume = qs_workspace_alloc(0, 0, (uint64_t)(job->down * job->across) * sizeof(int32_t), 0, 0);
  if (volume == NULL) return -1;
  qs_flow(&job->matching, job->keys, job->known, job->down, job->across, from, to, volume, job->refer->flow);
  return qs_workspace_free(0, 0, volume);
}

static int qs_warp_rows(const qs_job *job, int64_t from, int64_t to) {
  const qs_buffer *place = &qs_buffers[job->repair->warped];
  const int64_t columns = job->refer->columns, width = columns + 2 * place->border, border = place->border;
  uint8_t *warped = qs_data(job, job->repair->warped) + (border * width + border) * place->channels;
  qs_warp(&job->matching, job->codes, job->refer->flow, job->refer->rows, columns, from, to,
          warped + job->repair->warped_first, width * place->channels, place->channels);
  return 0;
}

/* The reference as the query's pixels find it goes to where the fusion takes it. */
static int qs_match_and_warp(qs_context *context, const qs_refer *refer, int repair, int32_t number) {
  const qs_repair *r = &qs_repairs[repair];
  double start = qs_stage_start(context);
  qs_job job = qs_matching_job(context, refer, r, context->buffers[r->query].data, refer->keys);
  qs_share(&job, qs_keys_rows, job.down);
  job.codes = qs_kept_codes(refer, number, repair);
  job.known = qs_kept_keys(refer, number, repair);
  if (qs_share(&job, qs_flow_rows, job.down))
    return qs_fail(context, QS_NO_MEMORY, "cannot allocate %l KiB for the comparison of patches",
                   job.down * job.across * (int64_t)sizeof(int32_t) >> 10);
  qs_stage_end(context, QS_MATCHING, start);
  start = qs_stage_start(context);
  qs_share(&job, qs_warp_rows, refer->rows);
  qs_stage_end(context, QS_WARP, start);
  return 0;
}

/* A code that the fusion leaves where it was without it stays as it is. This is one pixel. */
QS_HOT static void qs_keep_unmoved(const qs_reader *reader, const uint8_t *restrict fused, const uint8_t *restrict base,
                                   const int32_t *restrict k, const float *restrict m, int channels,
                                   uint8_t *restrict value) {
#pragma STDC FP_CONTRACT OFF
  const float lo = (float)(reader->lo - reader->zero), hi = (float)(reader->hi - reader->zero), magic = 0x1.8p23f;
  const int32_t base_zero = reader->base_zero, zero = reader->zero;
  for (int c = 0; c < channels; c++) {
    float code = (float)(k[c] * (base[c] - base_zero)) * m[c];
    code = code < lo ? lo : code;
    code = code > hi ? hi : code;
    code = code + magic - magic; /* to nearest, halves to even */
    /* Without a branch, which nothing could predict. */
    const uint8_t same = (uint8_t)-(fused[c] == (int32_t)code + zero);
    value[c] = (uint8_t)(fused[c] ^ ((fused[c] ^ value[c]) & same));
  }
}

static int qs_repair_rows(const qs_job *job, int64_t from, int64_t to) {
  const qs_reader *reader = job->reader;
  const int channels = job->repair->channels;
  const DLTensor *params = job->context->params;
  const int64_t first = from * job->refer->columns, end = to * job->refer->columns;
  const uint8_t *fused = qs_data(job, reader->fused), *base = qs_data(job, job->repair->base);
  uint8_t *value = qs_data(job, reader->value);
  if (reader->k >= 0) {
    for (int64_t p = first * channels; p < end * channels; p += channels)
      qs_keep_unmoved(reader, fused + p, base + p, params[reader->k].data, params[reader->m].data, channels, value + p);
  } else if (reader->unmoved >= 0) {
    const uint8_t *unmoved = params[reader->unmoved].data;
    for (int64_t p = first * channels; p < end * channels; p += channels)
      for (int64_t c = 0; c < channels; c++) {
        const uint8_t same = (uint8_t)-(fused[p + c] == unmoved[c * 256 + base[p + c]]);
        value[p + c] = (uint8_t)(fused[p + c] ^ ((fused[p + c] ^ value[p + c]) & same));
      }
  } else {
    qs_copy(value + first * channels, fused + first * channels, (end - first) * channels);
  }
  return 0;
}

/* Repairs all values of a RefER, the base last. */
static int qs_repair_values(qs_context *context, const qs_refer *refer, int repair) {
  qs_job job = {.context = context, .refer = refer, .repair = &qs_repairs[repair]};
  for (int i = job.repair->first_reader; i < job.repair->end_reader; i++) {
    job.reader = &qs_readers[i];
    qs_share(&job, qs_repair_rows, refer->rows);
  }
  return 0;
}
