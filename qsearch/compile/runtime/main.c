/* The command line of one network. The generated file that includes this one names the network. */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qs_ppm.h"

enum { EXIT_USER = 2, EXIT_UNSUPPORTED = 3 };

typedef struct {
  const char *files[2];
  int num_files, threads, raw, rounds, profile, decisions; /* rounds: 0 for files */
  int64_t tile, width, height, memory_mib;
} options;

static const char *usage =
    "usage: %s IN OUT [--raw WxH] [--threads N] [--tile N] [--memory MIB]\n"
    "       %s --bench ROUNDS | --profile ROUNDS [IN | --size WxH] [--threads N] [--tile N] [--memory MIB]\n"
    "\n"
    "Upscales an RGB image %d times per axis.\n"
    "  IN, OUT       binary PPM (P6), or raw RGB bytes with --raw; - is standard input or output\n"
    "  --raw WxH     input and output are bytes R, G, B without a header; this is the size of the input\n"
    "  --threads N   threads (default: every available CPU)\n"
    "  --tile N      largest side of a tile, in input pixels (default: chosen by --memory)\n"
    "  --memory MIB  working memory besides the two images (default %d)\n"
    "  --bench N     time N runs after a warm-up and print one JSON line\n"
    "  --profile N   the same for every layer\n"
    "  --size WxH    size of the image of --bench and --profile, which is noise (default 320x180)\n"
#ifdef QS_PATCHED
    "  --decisions   print what is decided for every patch of IN as JSON; there is no OUT\n"
    "Time depends on the image: give --bench and --profile IN.\n"
#endif
    "The bytes of the output do not depend on threads, tiles and memory.\n";

static void say(int handle, const char *text) {
  if (write(handle, text, strlen(text)) < 0) return; /* nobody is left to tell */
}

/* Lines of at most 2047 bytes to standard output. */
static void print(const char *format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  qs_format_list(text, sizeof text, format, arguments);
  va_end(arguments);
  say(STDOUT_FILENO, text);
}

static int fail(const char *program, const char *subject, const char *reason) {
  const char *parts[] = {program, ": ", subject ? subject : "", subject ? ": " : "", reason, "\n"};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) say(STDERR_FILENO, parts[i]);
  return EXIT_USER;
}

/* A positive decimal number that is the whole text, or 0. */
static int64_t parse_number(const char *text, int64_t most) {
  int64_t value = 0;
  for (const char *s = text; *s; s++) {
    if (*s < '0' || *s > '9' || value > most) return 0;
    value = value * 10 + (*s - '0');
  }
  return value > most ? 0 : value;
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
      print(usage, argv[0], argv[0], QS_NAME(UPSCALE), (int)(QS_MEMORY_LIMIT >> 20));
      return 1;
    }
    if (strncmp(name, "--", 2) != 0) {
      if (o->num_files == 2) return 1 + fail(argv[0], name, "one input and one output only");
      o->files[o->num_files++] = name;
      continue;
    }
#ifdef QS_PATCHED
    if (strcmp(name, "--decisions") == 0) {
      o->decisions = 1;
      continue;
    }
#endif
    int raw = strcmp(name, "--raw") == 0;
    if (raw || strcmp(name, "--size") == 0)
      o->raw |= raw, good = parse_size(value, o);
    else if (strcmp(name, "--threads") == 0)
      good = (o->threads = (int)parse_number(value, 256)) > 0;
    else if (strcmp(name, "--tile") == 0)
      good = (o->tile = parse_number(value, INT_MAX)) > 0;
    else if (strcmp(name, "--memory") == 0)
      good = (o->memory_mib = parse_number(value, INT_MAX)) > 0;
    else if (strcmp(name, "--bench") == 0)
      good = (o->rounds = (int)parse_number(value, 1000000)) > 0;
    else if (strcmp(name, "--profile") == 0)
      good = o->profile = (o->rounds = (int)parse_number(value, 1000000)) > 0;
    else
      return 1 + fail(argv[0], name, "unknown option; see --help");
    if (!good) return 1 + fail(argv[0], name, "needs a positive number (or WxH for --raw and --size); see --help");
    i++;
  }
  int wanted = o->rounds ? o->num_files == 1 : 2 - o->decisions;
  if (o->num_files != wanted)
    return 1 + fail(argv[0], NULL,
                    o->rounds      ? "--bench and --profile take an input at most, and no output"
                    : o->decisions ? "--decisions needs an input and no output"
                                   : "needs an input and an output; see --help");
  if (o->width && o->raw == (o->rounds > 0))
    return 1 + fail(argv[0], o->raw ? "--raw" : "--size", o->raw ? "--bench has --size" : "a raw image has --raw");
  return 0;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Ascending, in place (Shell, 1959, with Ciura's gaps): qsort is larger than the whole command line. */
static void sort(double *values, int count) {
  static const int gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
  for (size_t g = 0; g < sizeof gaps / sizeof gaps[0]; g++)
    for (int i = gaps[g]; i < count; i++) {
      double value = values[i];
      int k = i;
      for (; k >= gaps[g] && values[k - gaps[g]] > value; k -= gaps[g]) values[k] = values[k - gaps[g]];
      values[k] = value;
    }
}

/* Not getrusage: its maximum starts with that of the process that called exec. */
static int64_t peak_rss_bytes(void) {
  char text[4096] = {0};
  int handle = open("/proc/self/status", O_RDONLY);
  if (handle < 0) return 0;
  ssize_t length = read(handle, text, sizeof text - 1);
  close(handle);
  const char *line = text;
  while (*line && strncmp(line, "VmHWM:", 6) != 0) line++;
  int64_t kib = 0;
  for (; length > 0 && *line && *line != '\n'; line++)
    if (*line >= '0' && *line <= '9') kib = kib * 10 + (*line - '0');
  return kib * 1024;
}

#ifdef QS_PATCHED
#include "decisions.c"
#endif

/* The end of a JSON line. */
static void print_conditions(const char *before, const QS_NAME(context) * context, const qs_image *in,
                             const options *o) {
  print("%s\"rounds\": %d, \"threads\": %d, \"width\": %l, \"height\": %l, \"peak_rss_bytes\": %l}\n", before, o->rounds,
        QS_NAME(threads)(context), in->width, in->height, peak_rss_bytes());
}

static int bench(QS_NAME(context) * context, const qs_image *in, qs_image *out, const options *o) {
  double *times = malloc((size_t)o->rounds * sizeof *times);
  if (times == NULL) return -1;
  for (int i = -2; i < o->rounds; i++) {
    double start = now_ms();
    int status = QS_NAME(upscale_image)(context, in->pixels, in->height, in->width, out->pixels, o->tile);
    if (status) return free(times), status;
    if (i >= 0) times[i] = now_ms() - start;
  }
  sort(times, o->rounds);
#define PERCENTILE(p) times[(o->rounds - 1) * (p) / 100]
  double median = (times[(o->rounds - 1) / 2] + times[o->rounds / 2]) / 2;
  print("{\"network\": \"%s\", \"latency_ms\": %f, \"p10_ms\": %f, \"p90_ms\": %f, \"p99_ms\": %f, \"min_ms\": %f",
        QS_NETWORK, median, PERCENTILE(10), PERCENTILE(90), PERCENTILE(99), times[0]);
  print_conditions(", ", context, in, o);
  free(times);
  return 0;
}

static int profile(QS_NAME(context) * context, const qs_image *in, qs_image *out, const options *o) {
  double step_ms[QS_NAME(NUM_STEPS)] = {0};
#ifdef QS_PATCHED
  double stage_ms[QS_NAME(NUM_STAGES)] = {0};
#endif
  for (int i = -1; i < o->rounds; i++) {
    int status = i == 0 ? QS_NAME(set_profile)(context, step_ms) : 0;
#ifdef QS_PATCHED
    if (i == 0) QS_NAME(set_stage_profile)(context, stage_ms);
#endif
    if (status == 0)
      status = QS_NAME(upscale_image)(context, in->pixels, in->height, in->width, out->pixels, o->tile);
    if (status) return status;
  }
  print("{\"network\": \"%s\", ", QS_NETWORK);
#ifdef QS_PATCHED
  print_stages(stage_ms, o->rounds);
#endif
  print("\"steps\": [");
  for (int i = 0; i < QS_NAME(NUM_STEPS); i++)
    print("%s{\"name\": \"%s\", \"latency_ms\": %f}", i ? ", " : "", QS_NAME(step_name)(i), step_ms[i] / o->rounds);
  print_conditions("], ", context, in, o);
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
  if (wrong) return fail(argv[0], NULL, wrong), EXIT_UNSUPPORTED;
  qs_image in = {o.width ? o.width : 320, o.height ? o.height : 180, NULL}, out;
  wrong = o.num_files                              ? qs_image_read(o.files[0], o.raw, &in)
          : qs_image_new(&in, in.width, in.height) ? "no memory"
                                                   : NULL;
  if (wrong) return fail(argv[0], o.num_files ? o.files[0] : "--size", wrong);
  if (!o.num_files) fill(&in);
  if (qs_image_new(&out, in.width * QS_NAME(UPSCALE), in.height * QS_NAME(UPSCALE)))
    return fail(argv[0], o.files[0], "image too large for the memory");
  QS_NAME(context) *context = QS_NAME(create)(o.threads);
  if (context == NULL) return fail(argv[0], NULL, "cannot start: no memory");
  if (o.memory_mib) QS_NAME(set_memory_limit)(context, (uint64_t)o.memory_mib << 20);
  int status =
#ifdef QS_PATCHED
      o.decisions ? print_decisions(context, &in) :
#endif
      o.profile   ? profile(context, &in, &out, &o)
      : o.rounds  ? bench(context, &in, &out, &o)
                  : QS_NAME(upscale_image)(context, in.pixels, in.height, in.width, out.pixels, o.tile);
  if (status) return fail(argv[0], o.rounds ? "--bench" : o.files[0], QS_NAME(error)(context));
  wrong = o.rounds || o.decisions ? NULL : qs_image_write(o.files[1], o.raw, &out);
  if (wrong) return fail(argv[0], o.files[1], wrong);
  QS_NAME(destroy)(context);
  return 0;
}
