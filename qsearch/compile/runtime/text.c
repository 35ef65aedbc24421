/* See text.h. */
#include "text.h"

#include <stdint.h>

typedef struct {
  char *out;
  size_t size, used; /* used counts the characters that did not fit, too */
} qs_text;

static void qs_put(qs_text *text, const char *s) {
  for (; *s; s++, text->used++)
    if (text->used + 1 < text->size) text->out[text->used] = *s;
}

/* At least `least` digits. */
static void qs_put_number(qs_text *text, int64_t value, int least) {
  char digits[32], *s = digits + sizeof digits - 1;
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  *s = 0;
  for (; rest || least > 0; rest /= 10, least--) *--s = (char)('0' + rest % 10);
  if (value < 0) *--s = '-';
  qs_put(text, s);
}

size_t qs_format_list(char *out, size_t size, const char *format, va_list arguments) {
  qs_text text = {out, size, 0};
  for (; *format; format++) {
    char plain[2] = {*format, 0};
    if (*format != '%') {
      qs_put(&text, plain);
      continue;
    }
    switch (*++format) {
      case 's': qs_put(&text, va_arg(arguments, const char *)); break;
      case 'd': qs_put_number(&text, va_arg(arguments, int), 1); break;
      case 'l': qs_put_number(&text, va_arg(arguments, int64_t), 1); break;
      case 'f': {
        int64_t parts = (int64_t)(va_arg(arguments, double) * 1e4 + 0.5);
        qs_put_number(&text, parts / 10000, 1);
        qs_put(&text, ".");
        qs_put_number(&text, parts % 10000, 4);
      }
    }
  }
  if (size) out[text.used < size ? text.used : size - 1] = 0;
  return text.used;
}

size_t qs_format(char *out, size_t size, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  size_t used = qs_format_list(out, size, format, arguments);
  va_end(arguments);
  return used;
}
