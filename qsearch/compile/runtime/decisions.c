/* What the command line of a network for patches prints besides that of every network. */

/* One JSON line: for every patch its box [top, left, bottom, right] in input pixels, its level and its cluster. */
static int print_decisions(QS_NAME(context) * context, const qs_image *in) {
  int64_t count = QS_NAME(num_patches)(in->height, in->width);
  QS_NAME(patch) *patches = malloc((size_t)count * sizeof *patches);
  int status = patches ? QS_NAME(decide)(context, in->pixels, in->height, in->width, patches) : 0;
  if (patches == NULL || status) return free(patches), patches ? status : -1;
  print("{\"width\": %l, \"height\": %l, \"patches\": [", in->width, in->height);
  for (int64_t i = 0; i < count; i++) {
    const QS_NAME(patch) *p = &patches[i];
    print("%s{\"box\": [%l, %l, %l, %l], \"level\": %d, \"bits\": \"%s\"", i ? ", " : "", p->top, p->left, p->bottom,
          p->right, p->level, QS_NAME(level_name)(p->level));
    if (p->cluster >= 0) print(", \"cluster\": %d, \"reference\": %d", p->cluster, p->reference);
    print("}");
  }
  print("]}\n");
  free(patches);
  return 0;
}

/* Milliseconds of an image by stage: they add up to nearly all of its time. */
static void print_stages(const double *stage_ms, int rounds) {
  static const char *const names[] = {"decision", "gather", "merge"};
  print("\"stages\": {");
  for (int i = 0; i < 3; i++) print("\"%s_ms\": %f, ", names[i], stage_ms[i] / rounds);
  print("\"bodies_ms\": {");
  for (int i = 0; i < QS_NAME(NUM_LEVELS); i++)
    print("%s\"%s\": %f", i ? ", " : "", QS_NAME(level_name)(i), stage_ms[3 + i] / rounds);
  print("}");
  static const char *const of_refer[] = {"matching", "warp", "fusion"};
  const int first = 3 + QS_NAME(NUM_LEVELS);
  for (int i = first; i < QS_NAME(NUM_STAGES); i++)
    print("%s\"%s\": %f", i == first ? ", \"refer_ms\": {" : ", ", of_refer[i - first], stage_ms[i] / rounds);
  print(QS_NAME(NUM_STAGES) > first ? "}}, " : "}, ");
}
