/* Levels by clusters: a classifier of textures, an integer network like every other, gives every patch its class; the
 * patches that stand for their cluster have level 0 and the others level 1. The same integers as in
 * qsearch/patches/classifier.py and assign.py: what is no integer is one correctly rounded multiplication. */
#include "rounding.h"

enum { QS_ONE = 1 << 16, QS_SHARE_PARTS = 1000000 };

/* The scratch: probabilities [count][QS_CLASSES], then the number of every label. */
static uint64_t qs_decision_bytes(const qs_work *work) {
  uint64_t labels = (uint64_t)work->count + QS_CLASSES;
  return ((uint64_t)work->count * QS_CLASSES + labels) * sizeof(int32_t);
}

/* Softmax in integers: E[max - logit] / sum of E. */
static void qs_softmax(const int64_t logits[QS_CLASSES], int32_t probabilities[QS_CLASSES]) {
  int64_t most = logits[0], powers[QS_CLASSES], total = 0;
  for (int c = 1; c < QS_CLASSES; c++) most = qs_max(most, logits[c]);
  for (int c = 0; c < QS_CLASSES; c++) {
    powers[c] = most - logits[c] < QS_NUM_POWERS ? qs_powers[most - logits[c]] : 0;
    total += powers[c];
  }
  for (int c = 0; c < QS_CLASSES; c++) probabilities[c] = (int32_t)(powers[c] * QS_ONE / total);
}

/* What the linear layer and softmax make of the classifier's last map. */
static void qs_classify(const qs_context *context, int32_t probabilities[QS_CLASSES]) {
#pragma STDC FP_CONTRACT OFF
  const uint8_t *map = context->buffers[QS_FEATURES].data;
  const int64_t *shape = context->shapes[QS_FEATURES], pixels = shape[0] * shape[1];
  int64_t sums[QS_FEATURE_CHANNELS] = {0}, logits[QS_CLASSES];
  for (int64_t i = 0; i < pixels; i++)
    for (int c = 0; c < QS_FEATURE_CHANNELS; c++) sums[c] += map[i * shape[2] + c];
  const double factor = QS_CLASS_FACTOR / (double)pixels;
  for (int k = 0; k < QS_CLASSES; k++) {
    int64_t product = 0;
    for (int c = 0; c < QS_FEATURE_CHANNELS; c++) product += sums[c] * qs_class_weights[k][c];
    double logit = (double)product * factor;
    logits[k] = qs_nearest(logit) + qs_class_biases[k];
  }
  qs_softmax(logits, probabilities);
}

static int qs_probabilities(qs_context *context, const uint8_t *image, qs_work *work) {
  uint64_t arena = qs_arena_bytes(work->rows.side, work->columns.side);
  if (arena == 0) return qs_fail(context, QS_BAD_SIZE, "a buffer of a patch would pass 2 GiB");
  if (arena > context->memory_limit - work->bytes)
    return qs_fail(context, QS_NO_MEMORY, "a patch in one piece needs %l KiB of working memory",
                   (int64_t)((arena + work->bytes) >> 10));
  int status = qs_reserve(context, arena);
  qs_choose_steps(context, QS_CLASSIFIER_FIRST, QS_CLASSIFIER_END);
  for (int64_t i = 0; i < work->count && status == 0; i++) {
    qs_gather(work, image, i);
    status = qs_run(context, work->in, work->rows.side, work->columns.side, NULL, context->memory);
    if (status == 0) qs_classify(context, (int32_t *)work->scratch + i * QS_CLASSES);
  }
  return status;
}

static int64_t qs_affinity(const int32_t *p, const int32_t *q) {
  int64_t sum = 0;
  for (int c = 0; c < QS_CLASSES; c++) sum += (int64_t)p[c] * q[c];
  return sum;
}

#if QS_READING_B
/* The patch of greatest affinity is the reference, and who is one has no other. */
static void qs_label(const qs_work *work, const int32_t *p) {
  qs_patch *patches = work->patches;
  for (int64_t i = 0; i < work->count; i++) {
    int64_t best = -1;
    for (int64_t j = 0; j < work->count; j++) {
      int64_t affinity = qs_affinity(p + i * QS_CLASSES, p + j * QS_CLASSES);
      if (affinity > best) best = affinity, patches[i].reference = (int32_t)j;
    }
  }
  for (int64_t i = 0; i < work->count; i++) patches[i].level = 1;
  for (int64_t i = 0; i < work->count; i++) patches[patches[i].reference].level = 0;
  for (int64_t i = 0; i < work->count; i++) {
    if (patches[i].level == 0) patches[i].reference = (int32_t)i;
    patches[i].cluster = patches[i].reference;
  }
}
#else
/* References of a class with so many patches. */
static int64_t qs_num_references(int64_t members) {
  return QS_SHARE ? qs_max(1, (2 * QS_SHARE * members + QS_SHARE_PARTS) / (2 * QS_SHARE_PARTS)) : 1;
}

/* How many patches of the same class come before patch i: likelier ones, and of equal ones those of lower number. */
static int64_t qs_rank(const qs_work *work, const int32_t *p, int64_t i, int64_t *members) {
  const int32_t label = work->patches[i].cluster, own = p[i * QS_CLASSES + label];
  int64_t before = 0;
  *members = 0;
  for (int64_t j = 0; j < work->count; j++) {
    if (work->patches[j].cluster != label) continue;
    const int32_t other = p[j * QS_CLASSES + label];
    ++*members;
    before += other > own || (other == own && j < i);
  }
  return before;
}

/* The likeliest class is the cluster, its likeliest patches are the references, and others have the one of greatest
 * affinity. */
static void qs_label(const qs_work *work, const int32_t *p) {
  qs_patch *patches = work->patches;
  for (int64_t i = 0; i < work->count; i++) {
    int32_t best = 0;
    for (int32_t c = 1; c < QS_CLASSES; c++)
      if (p[i * QS_CLASSES + c] > p[i * QS_CLASSES + best]) best = c;
    patches[i].cluster = best;
  }
  for (int64_t i = 0; i < work->count; i++) {
    int64_t members, rank = qs_rank(work, p, i, &members);
    patches[i].level = rank >= qs_num_references(members);
    patches[i].reference = (int32_t)i;
  }
  for (int64_t i = 0; i < work->count; i++) {
    int64_t best = -1;
    for (int64_t j = 0; j < work->count && patches[i].level; j++) {
      if (patches[j].level || patches[j].cluster != patches[i].cluster) continue;
      int64_t affinity = qs_affinity(p + i * QS_CLASSES, p + j * QS_CLASSES);
      if (affinity > best) best = affinity, patches[i].reference = (int32_t)j;
    }
  }
}
#endif

static int qs_decide_levels(qs_context *context, const uint8_t *image, qs_work *work) {
  int status = qs_probabilities(context, image, work);
  if (status) return status;
  qs_label(work, work->scratch);
  /* Clusters are numbered by their first patches. */
  int32_t *numbers = (int32_t *)work->scratch + work->count * QS_CLASSES, found = 0;
  for (int64_t i = 0; i < work->count + QS_CLASSES; i++) numbers[i] = -1;
  for (int64_t i = 0; i < work->count; i++) {
    int32_t *number = &numbers[work->patches[i].cluster];
    if (*number < 0) *number = found++;
    work->patches[i].cluster = *number;
  }
  return 0;
}
