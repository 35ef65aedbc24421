/* The little of printf that a network and its command line need, so that the C library's, which is larger than all of the
 * runtime, is not linked. */
#ifndef QS_TEXT_H
#define QS_TEXT_H
#include <stdarg.h>
#include <stddef.h>

#define qs_format_list QS_NAME(format_list)
#define qs_format QS_NAME(format)

/* Both know %s, %d (int), %l (int64_t) and %f (a double that is not negative, with four decimals), always terminate, and
 * return the length of the whole text. */
__attribute__((visibility("hidden"))) size_t qs_format_list(char *out, size_t size, const char *format,
                                                            va_list arguments);
__attribute__((visibility("hidden"))) size_t qs_format(char *out, size_t size, const char *format, ...);

#endif
