/* Images of any size in bounded memory: boxes that lie inside the image and overlap by the halo, of which only the part
 * that no artificial edge can reach is kept. The bytes equal those of the whole image in one piece. How a box runs say
 * qs_piece_bytes and qs_run_piece, of pieces.c or seamless.c. */
#include "qs_network.h"

typedef struct {
  int64_t count, length; /* boxes along one axis, and the pixels of each */
} qs_axis;

/* Boxes of equal length that cover `size` pixels, `count` of them or fewer. */
static qs_axis qs_split(int64_t size, int64_t count, int64_t least) {
  int64_t inner = size - 2 * QS_HALO;
  if (count <= 1 || inner < 1) return (qs_axis){1, size};
  int64_t length = qs_max((inner + count - 1) / count + 2 * QS_HALO, qs_max(least, 2 * QS_HALO + 1));
  if (length >= size) return (qs_axis){1, size};
  int64_t step = length - 2 * QS_HALO;
  return (qs_axis){(inner + step - 1) / step, length};
}

/* Start of box i, and through `core` the first pixel of the part that is kept of it. */
static int64_t qs_box_start(qs_axis axis, int64_t size, int64_t i, int64_t *core) {
  int64_t step = axis.length - 2 * QS_HALO;
  *core = i == 0 ? 0 : i == axis.count ? size : i * step + QS_HALO;
  return qs_min(i * step, size - axis.length);
}

/* Working memory of a grid of boxes; 0 where a buffer would pass 2 GiB. */
static uint64_t qs_box_bytes(const qs_context *context, int64_t height, int64_t width) {
  uint64_t arena = qs_piece_bytes(context, height, width);
  uint64_t pixels = (uint64_t)height * (uint64_t)width * 3;
  return arena ? arena + qs_round_up(pixels) + qs_round_up(pixels * QS_UPSCALE * QS_UPSCALE) : 0;
}

/* The grid with the fewest computed pixels among those that fit in `limit` bytes. */
static int qs_grid_for_memory(qs_context *context, int64_t height, int64_t width, uint64_t limit, qs_axis grid[2]) {
  int64_t best = INT64_MAX;
  for (int64_t ny = 1, last_length = 0; ny <= height; ny++) {
    qs_axis rows = qs_split(height, ny, QS_MIN_HEIGHT);
    if (rows.length == last_length) continue;
    last_length = rows.length;
    if (best != INT64_MAX && rows.count * rows.length * width >= best) break;
    for (int64_t nx = 1, last_length = 0; nx <= width; nx++) {
      qs_axis columns = qs_split(width, nx, QS_MIN_WIDTH);
      if (columns.length == last_length) continue;
      last_length = columns.length;
      int64_t cost = rows.count * rows.length * columns.count * columns.length;
      if (cost >= best) break;
      uint64_t bytes = qs_box_bytes(context, rows.length, columns.length);
      if (bytes != 0 && bytes <= limit) {
        best = cost;
        grid[0] = rows;
        grid[1] = columns;
        break;
      }
    }
  }
  if (best != INT64_MAX) return 0;
  return qs_fail(context, QS_NO_MEMORY, "no tile of this network fits in %l KiB", (int64_t)(limit >> 10));
}

static int qs_grid_for_tile(qs_context *context, int64_t height, int64_t width, int64_t tile, qs_axis grid[2]) {
  int64_t least = qs_max(2 * QS_HALO + 1, qs_max(QS_MIN_HEIGHT, QS_MIN_WIDTH));
  if (tile < least)
    return qs_fail(context, QS_BAD_SIZE, "a tile of %l pixels is too small: this network needs at least %l", tile,
                   least);
  int64_t sizes[2] = {height, width}, step = tile - 2 * QS_HALO;
  for (int axis = 0; axis < 2; axis++) {
    int64_t count = tile >= sizes[axis] ? 1 : (sizes[axis] - 2 * QS_HALO + step - 1) / step;
    grid[axis] = qs_split(sizes[axis], count, axis ? QS_MIN_WIDTH : QS_MIN_HEIGHT);
  }
  return 0;
}

static int qs_run_boxes(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                        const qs_axis grid[2]) {
  const int64_t u = QS_UPSCALE, rows = grid[0].length, columns = grid[1].length;
  uint64_t bytes = qs_box_bytes(context, rows, columns);
  if (bytes == 0) return qs_fail(context, QS_BAD_SIZE, "a buffer would pass 2 GiB: use smaller tiles");
  uint64_t arena_bytes = qs_piece_bytes(context, rows, columns);
  int status = qs_reserve(context, bytes - arena_bytes + qs_host_bytes(arena_bytes));
  if (status) return status;
  uint8_t *box_in = context->memory, *box_out = box_in + qs_round_up((uint64_t)(rows * columns * 3));
  uint8_t *arena = box_out + qs_round_up((uint64_t)(rows * columns * 3 * u * u));
  for (int64_t i = 0; i < grid[0].count && status == 0; i++) {
    int64_t top, bottom, y = qs_box_start(grid[0], height, i, &top);
    qs_box_start(grid[0], height, i + 1, &bottom);
    for (int64_t j = 0; j < grid[1].count && status == 0; j++) {
      int64_t left, right, x = qs_box_start(grid[1], width, j, &left);
      qs_box_start(grid[1], width, j + 1, &right);
      qs_copy_rows(box_in, columns * 3, image + (y * width + x) * 3, width * 3, columns * 3, rows);
      status = qs_run_piece(context, y, x, box_in, rows, columns, box_out, arena);
      if (status) return status;
      qs_copy_rows(output + (top * width * u + left) * 3 * u, width * u * 3,
                   box_out + ((top - y) * columns * u + (left - x)) * 3 * u, columns * u * 3, (right - left) * u * 3,
                   (bottom - top) * u);
    }
  }
  return status;
}

/* In tiles of that side, or where it is 0, in those that need at most `limit` bytes of working memory. */
static int qs_upscale(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                      int64_t tile, uint64_t limit) {
  qs_axis grid[2];
  int status = qs_check_size(context, height, width);
  if (status == 0)
    status = tile > 0 ? qs_grid_for_tile(context, height, width, tile, grid)
                      : qs_grid_for_memory(context, height, width, limit, grid);
  if (status) return status;
  if (grid[0].count > 1 || grid[1].count > 1) return qs_run_boxes(context, image, height, width, output, grid);
  status = qs_reserve(context, qs_host_bytes(qs_piece_bytes(context, height, width)));
  return status ? status : qs_run_piece(context, 0, 0, image, height, width, output, context->memory);
}
