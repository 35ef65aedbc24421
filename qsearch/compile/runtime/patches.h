/* The image is split into patches, it is decided for each at which level it runs, and their results are merged. */
enum {
  @name@_NUM_LEVELS = @levels@, /* versions of the network, the one of most bits first */
  @name@_NUM_STAGES = @stages@, /* of the work: decision, gathering, merging, then the patches of every level@refer@ */
};

typedef struct {
  int64_t top, left, bottom, right; /* the input pixels, bottom and right excluded, that the patch gives to the result */
  int32_t level, cluster, reference; /* reference: the number of a patch, a reference's own; -1 without clusters */
} @name@_patch;

/* Any image, patch by patch; output is [height*UPSCALE][width*UPSCALE][3]. @tile@ */
int @name@_upscale_image(@name@_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                         int64_t tile);

/* How many patches an image of this size has, and what is decided for each of them, row by row. */
int64_t @name@_num_patches(int64_t height, int64_t width);
int @name@_decide(@name@_context *context, const uint8_t *image, int64_t height, int64_t width,
                  @name@_patch *patches);

/* What is shown of a level, such as its bits; NULL for one that there is not. */
const char *@name@_level_name(int level);

/* From now on the milliseconds of every stage are added to stage_ms[NUM_STAGES]; NULL ends that. */
void @name@_set_stage_profile(@name@_context *context, double *stage_ms);
