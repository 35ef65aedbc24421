/* @name@: ×@upscale@ image network, uint8 RGB in, uint8 RGB out, integers only. Link with lib@name@.a and -lpthread.
 *
 * Images are [height][width][3], row by row without gaps. A context is used by one thread at a time; different contexts,
 * of this network and of others, may run at the same time. Functions that return int return 0 or a status below;
 * @name@_error then gives the reason in one line.@engine@ */
#ifndef @name@_H
#define @name@_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum {
  @name@_UPSCALE = @upscale@,       /* output pixels per input pixel and axis */
  @name@_MIN_HEIGHT = @min_height@, /* smallest image */
  @name@_MIN_WIDTH = @min_width@,
  @name@_HALO = @halo@,             /* input pixels around a region that its output depends on */
  @name@_NUM_STEPS = @num_steps@,   /* kernel calls for one image or tile */
};

enum @name@_status {
  @name@_OK = 0,
  @name@_BAD_SIZE = 1,      /* image or tile too small or too large */
  @name@_NO_MEMORY = 2,     /* allocation failed, or the memory limit is too low */
  @name@_KERNEL_FAILED = 3, /* never expected */
};

typedef struct @name@_context @name@_context;

/* NULL where this processor can run the network, else one line that names the missing instruction set. */
const char *@name@_unsupported(void);

/* num_threads 0 takes every available CPU. NULL where memory is short or the processor is unsupported. */
@name@_context *@name@_create(int num_threads);
void @name@_destroy(@name@_context *context);
void @name@_set_threads(@name@_context *context, int num_threads);
int @name@_threads(const @name@_context *context);

/* Bytes of working memory that @name@_upscale_image may use for itself (default @memory_limit@); it sets the tile size. */
void @name@_set_memory_limit(@name@_context *context, uint64_t bytes);

@images@
/* From now on the milliseconds of every step are added to step_ms[NUM_STEPS]; NULL ends that. */
int @name@_set_profile(@name@_context *context, double *step_ms);
const char *@name@_step_name(int step);

/* Why the last call with this context failed. */
const char *@name@_error(const @name@_context *context);

#ifdef __cplusplus
}
#endif
#endif
