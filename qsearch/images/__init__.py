"""Images: reading and saving, LR/HR pairs, MATLAB's bicubic, and tiles with a halo."""

from qsearch.images._bicubic import downscale, resize_bicubic
from qsearch.images._contrast import stretched
from qsearch.images._files import image_files, read_image, save_image
from qsearch.images._pairs import Pair, iterate_pairs, mod_crop, read_lr_images, read_pairs
from qsearch.images._tiles import Box, Tile, tiles

__all__ = [
    "Box",
    "Pair",
    "Tile",
    "downscale",
    "image_files",
    "iterate_pairs",
    "mod_crop",
    "read_image",
    "read_lr_images",
    "read_pairs",
    "resize_bicubic",
    "save_image",
    "stretched",
    "tiles",
]
