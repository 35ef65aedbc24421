/* Any image in tiles; output is [height*UPSCALE][width*UPSCALE][3]. tile is the side of the largest tile in input pixels,
 * 0 chooses it by the memory limit. The bytes do not depend on it. */
int @name@_upscale_image(@name@_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                         int64_t tile);

/* Bytes of working memory that @name@_run needs, or 0 where the size is too small or too large for one piece. */
uint64_t @name@_workspace_bytes(int64_t height, int64_t width);

/* The image in one piece, without any allocation. workspace is aligned to 64 bytes. */
int @name@_run(@name@_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
               void *workspace);
