/* A tile of an image runs as an image of its own. */

/* Its working memory besides its input and output; 0 where a buffer would pass 2 GiB. */
static uint64_t qs_piece_bytes(const qs_context *context, int64_t height, int64_t width) {
  (void)context;
  return qs_arena_bytes(height, width);
}

/* The tile whose first pixel is (y, x) of the image. */
static int qs_run_piece(qs_context *context, int64_t y, int64_t x, const uint8_t *input, int64_t height, int64_t width,
                        uint8_t *output, uint8_t *memory) {
  (void)y, (void)x;
  return qs_run(context, input, height, width, output, memory);
}
