"""Copies an image into a bordered buffer of 4-padded channels, where the first convolutions read it."""

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Bordered, gather, store, tensor
from qsearch.compile.kernels.isa import Expr
from qsearch.compile.specs import ImageSpec, stored

PIXELS = 16


class Image:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec
        self.height, self.width = T.int32(), T.int32()
        self.image = tensor("image", (self.height, self.width, spec.channels), "uint8", aligned=False)
        channels = stored(spec.channels)
        shape = (self.height + 2 * spec.border, self.width + 2 * spec.border, channels)
        buffer = tensor("buffer", shape, "uint8")
        pad = tensor("pad", (channels,), "uint8") if spec.border else None
        self.output = Bordered(buffer, spec.border, channels, pad)

    def task(self, y: Expr) -> None:
        """Row `y` of the buffer and the borders that belong to it."""
        with T.If(self.width >= PIXELS):
            with T.Then(), T.serial((self.width + (PIXELS - 1)) // PIXELS) as tile:
                self._copy(y, T.Bind(T.min(tile * PIXELS, self.width - PIXELS)), PIXELS)
            with T.Else(), T.serial(self.width) as x:
                self._copy(y, x, 1)
        self.output.write_borders(y, 1, self.height, self.width)

    def _copy(self, y: Expr, x: Expr, pixels: int) -> None:
        channels, border = self.spec.channels, self.output.border
        dtype = f"uint8x{pixels}" if pixels > 1 else "uint8"
        # `channels` vectors hold exactly `pixels` pixels; padding lanes repeat the pixel's last channel.
        loaded = [self.image.vload([y, x, vector * pixels], dtype) for vector in range(channels)]
        lanes = [p * channels + min(c, channels - 1) for p in range(pixels) for c in range(self.output.channels)]
        place = [y + border, x + border, 0]
        store(self.output.buffer, place, len(lanes), gather(loaded, pixels, lanes))
