/* The command line of one network. The generated file that includes this one names the network. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qs_ppm.h"

enum { EXIT_USER = 2 };

typedef struct {
  const char *files[2];
  int num_files, threads, bench;
  int64_t tile, width, height, memory_mib;
} options;

static const char *usage =
    "usage: %s IN OUT [--size WxH] [--threads N] [--tile N] [--memory MIB]\n"
    "       %s --bench ROUNDS [--size WxH] [--threads N] [--tile N] [--memory MIB]\n"
    "\n"
    "Upscales an RGB image %d times per axis.\n"
    "  IN, OUT       binary PPM (P6), or raw RGB bytes with --size; - is standard input or output\n"
    "  --size WxH    size of a raw input, or of the image of --bench (default 320x180)\n"
    "  --threads N   threads (default: every available CPU)\n"
    "  --tile N      largest side of a tile, in input pixels (default: chosen by --memory)\n"
    "  --memory MIB  working memory besides the two images (default %d)\n"
    "  --bench N     time N runs after a warm-up and print one JSON line\n"
    "The bytes of the output do not depend on threads, tiles and memory.\n";

static int fail(const char *program, const char *subject, const char *reason) {
  fprintf(stderr, "%s: %s%s%s\n", program, subject ? subject : "", subject ? ": " : "", reason);
  return EXIT_USER;
}

/* A positive number that is the whole text, or 0. */
static int64_t parse_number(const char *text, int64_t most) {
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  return errno || end == text || *end || value < 1 || value > most ? 0 : value;
}

static int parse_size(const char *text, options *o) {
  char buffer[64];
  const char *x = strchr(text, 'x');
  if (x == NULL || (size_t)(x - text) >= sizeof buffer) return 0;
  memcpy(buffer, text, (size_t)(x - text));
  buffer[x - text] = 0;
  o->width = parse_number(buffer, INT_MAX);
  o->height = parse_number(x + 1, INT_MAX);
  return o->width > 0 && o->height > 0;
}

/* Returns 0, or the status to exit with plus one. */
static int parse(int argc, char **argv, options *o) {
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
    int good;
    if (strcmp(name, "--help") == 0) {
      printf(usage, argv[0], argv[0], QS_NAME(UPSCALE), (int)(QS_MEMORY_LIMIT >> 20));
      return 1;
    }
    if (strncmp(name, "--", 2) != 0) {
      if (o->num_files == 2) return 1 + fail(argv[0], name, "one input and one output only");
      o->files[o->num_files++] = name;
      continue;
    }
    if (strcmp(name, "--size") == 0)
      good = parse_size(value, o);
    else if (strcmp(name, "--threads") == 0)
      good = (o->threads = (int)parse_number(value, 256)) > 0;
    else if (strcmp(name, "--tile") == 0)
      good = (o->tile = parse_number(value, INT_MAX)) > 0;
    else if (strcmp(name, "--memory") == 0)
      good = (o->memory_mib = parse_number(value, INT_MAX)) > 0;
    else if (strcmp(name, "--bench") == 0)
      good = (o->bench = (int)parse_number(value, 1000000)) > 0;
    else
      return 1 + fail(argv[0], name, "unknown option; see --help");
    if (!good) return 1 + fail(argv[0], name, "needs a positive number (or WxH for --size); see --help");
    i++;
  }
  if (o->num_files != (o->bench ? 0 : 2)) {
    return 1 + fail(argv[0], NULL, o->bench ? "--bench takes no files" : "needs an input and an output; see --help");
  }
  return 0;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Not getrusage: its maximum starts with that of the process that called exec. */
static long peak_rss_bytes(void) {
  long kib = 0;
  char line[256];
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (strncmp(line, "VmHWM:", 6) == 0) kib = strtol(line + 6, NULL, 10);
  if (file) fclose(file);
  return kib * 1024;
}

static int bench(QS_NAME(context) * context, const qs_image *in, qs_image *out, const options *o) {
  double *times = malloc((size_t)o->bench * sizeof *times);
  if (times == NULL) return -1;
  for (int i = -2; i < o->bench; i++) {
    double start = now_ms();
    int status = QS_NAME(upscale_image)(context, in->pixels, in->height, in->width, out->pixels, o->tile);
    if (status) return free(times), status;
    if (i >= 0) times[i] = now_ms() - start;
  }
  qsort(times, (size_t)o->bench, sizeof *times, compare);
#define PERCENTILE(p) times[(o->bench - 1) * (p) / 100]
  double median = (times[(o->bench - 1) / 2] + times[o->bench / 2]) / 2;
  printf("{\"network\": \"%s\", \"latency_ms\": %.4f, \"p10_ms\": %.4f, \"p90_ms\": %.4f, \"min_ms\": %.4f, "
         "\"rounds\": %d, \"threads\": %d, \"width\": %lld, \"height\": %lld, \"peak_rss_bytes\": %ld}\n",
         QS_NETWORK, median, PERCENTILE(10), PERCENTILE(90), times[0], o->bench, QS_NAME(threads)(context),
         (long long)in->width, (long long)in->height, peak_rss_bytes());
  free(times);
  return 0;
}

/* Pixels without pattern, the same on every machine. */
static void fill(qs_image *image) {
  uint32_t state = 1;
  for (int64_t i = 0; i < image->width * image->height * 3; i++) {
    state = state * 1664525u + 1013904223u;
    image->pixels[i] = (uint8_t)(state >> 24);
  }
}

int main(int argc, char **argv) {
  options o = {0};
  int stop = parse(argc, argv, &o);
  if (stop) return stop - 1;
  const char *wrong = QS_NAME(unsupported)();
  if (wrong) return fail(argv[0], NULL, wrong);
  int raw = o.width > 0 && !o.bench;
  qs_image in = {o.width ? o.width : 320, o.height ? o.height : 180, NULL}, out;
  wrong = !o.bench ? qs_image_read(o.files[0], raw, &in) : qs_image_new(&in, in.width, in.height) ? "no memory" : NULL;
  if (wrong) return fail(argv[0], o.bench ? "--size" : o.files[0], wrong);
  if (o.bench) fill(&in);
  if (qs_image_new(&out, in.width * QS_NAME(UPSCALE), in.height * QS_NAME(UPSCALE)))
    return fail(argv[0], o.files[0], "image too large for the memory");
  QS_NAME(context) *context = QS_NAME(create)(o.threads);
  if (context == NULL) return fail(argv[0], NULL, "cannot start: no memory");
  if (o.memory_mib) QS_NAME(set_memory_limit)(context, (uint64_t)o.memory_mib << 20);
  int status = o.bench ? bench(context, &in, &out, &o)
                       : QS_NAME(upscale_image)(context, in.pixels, in.height, in.width, out.pixels, o.tile);
  if (status) return fail(argv[0], o.bench ? "--bench" : o.files[0], QS_NAME(error)(context));
  wrong = o.bench ? NULL : qs_image_write(o.files[1], raw, &out);
  if (wrong) return fail(argv[0], o.files[1], wrong);
  QS_NAME(destroy)(context);
  return 0;
}
