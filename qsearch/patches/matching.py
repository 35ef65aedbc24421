"""Where a query's pixels find their like in a reference, and the reference seen there: RefER's flow, in integers.

Nothing here is float but one multiplication by a float32 per key, as in every requantization, so that any machine gives
the same bytes. Divisions round to nearest, halves up: ⌊(2a + b) / 2b⌋.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qsearch.patches.conv8 import TOP

ONE = 1 << 20
"""The integer that stands for exp(0)."""
CELL_FLOW = 256
"""Steps of a cell's flow in a pixel."""
FLOW = 16
"""Steps of a pixel's flow, and of the sampling weights, in a pixel."""
_KEY_BITS = 23
"""Keys before normalization have at most so many bits: 4·127²·key² and the sum of their squares fit in 63."""

Codes = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """The frozen integers that turn features of two patches into a flow.

    Features are uint8 codes [h, w, C] on one grid of zero point `zero_point`.
    """

    weight: NDArray[np.int8]
    """[keys, C], the projection."""
    factor: NDArray[np.float32]
    """[keys]: from the projection's sum over a cell to a unit that all keys share."""
    table: NDArray[np.int64]
    """[D]: 2²⁰·exp(−d / (127²·τ)) for a distance d of products of keys below the largest; 0 from D on."""
    reduce: int
    """Pixels of a cell's side."""
    zero_point: int

    @staticmethod
    def of(weight: Tensor, temperature: float, reduce: int, zero_point: int) -> "Matching":
        """From the float projection [keys, C, 1, 1] and the softmax's temperature."""
        real = weight.detach().double().flatten(1).numpy()
        step = np.maximum(np.abs(real).max(1, initial=0), 1e-12) / TOP
        values = np.rint(real / step[:, None])
        # The projection of a cell is linear in the cell's sum, so that only sums are projected.
        largest = (np.abs(values).sum(1) * step).max() / step.max() * TOP * reduce**2
        gain = 2.0 ** np.floor(_KEY_BITS - 1 - np.log2(max(largest, 1.0)))
        unit = TOP**2 * temperature
        length = min(int(np.ceil(unit * np.log(2 * ONE))), 2 * (TOP + len(real)) ** 2) + 1
        table = np.rint(ONE * np.exp(-np.arange(length) / unit)).astype(np.int64)
        factor = (step / step.max() * gain).astype(np.float32)
        return Matching(values.astype(np.int8), factor, table, reduce, zero_point)

    def keys(self, codes: Codes) -> NDArray[np.float32]:
        """Integers −127 … 127 [cells, keys], of every cell a vector of length 127; zeros where all are zero."""
        sums = _cell_sums(codes.astype(np.int64) - self.zero_point, self.reduce)
        # float64 holds the integer sums exactly and multiplies fast.
        products = sums.astype(np.float64) @ self.weight.T.astype(np.float64)
        return _normalized(np.rint(products.astype(np.float32) * self.factor).astype(np.int64)).astype(np.float32)

    def flow(self, query: NDArray[np.float32], reference: NDArray[np.float32], size: tuple[int, int]) -> Integers:
        """Displacement [h, w, 2] (rows, columns) in sixteenths of a pixel, from the keys of patches of `size`."""
        volume = (query @ reference.T).astype(np.int64)
        distance = np.minimum(volume.max(1, keepdims=True) - volume, len(self.table))
        weights = np.append(self.table, 0)[distance].astype(np.float64)
        cells = _cells(size, self.reduce)
        place = np.indices(cells).reshape(2, -1).T
        total = weights.sum(1)[:, None].astype(np.int64)
        moment = (weights @ place.astype(np.float64)).astype(np.int64) - place * total
        coarse = divided(moment * (self.reduce * CELL_FLOW), total).reshape(*cells, 2)
        return _enlarged(coarse, self.reduce)[: size[0], : size[1]]

    def warped(self, query: Codes, reference: Codes, keys: NDArray[np.float32] | None = None) -> Codes:
        """The reference's codes where each of the query's pixels finds its like; `keys` are those of the reference."""
        known = self.keys(reference) if keys is None else keys
        return warp(reference, self.flow(self.keys(query), known, query.shape[:2]))


def warp(codes: Codes, flow: Integers) -> Codes:
    """uint8 [h, w, C] sampled bilinearly at every pixel's place plus `flow`, which stays inside; halves up."""
    rows, columns = codes.shape[:2]
    y, dy = np.divmod(np.clip(FLOW * np.arange(rows)[:, None] + flow[..., 0], 0, FLOW * (rows - 1)), FLOW)
    x, dx = np.divmod(np.clip(FLOW * np.arange(columns)[None] + flow[..., 1], 0, FLOW * (columns - 1)), FLOW)
    below, right = np.minimum(y + 1, rows - 1), np.minimum(x + 1, columns - 1)
    total = np.full(codes.shape, FLOW**2 // 2, np.uint16)
    for row, row_weight in ((y, FLOW - dy), (below, dy)):
        for column, column_weight in ((x, FLOW - dx), (right, dx)):
            # The weights add up to 256: 255·256 + 128 fits in 16 bits.
            total += codes[row, column] * (row_weight * column_weight).astype(np.uint16)[..., None]
    return (total // FLOW**2).astype(np.uint8)


def divided(a: Integers, b: Integers | int) -> Integers:
    """a / b for positive b, to nearest, halves up."""
    return (2 * a + b) // (2 * b)


def _cells(size: tuple[int, int], reduce: int) -> tuple[int, int]:
    return -(-size[0] // reduce), -(-size[1] // reduce)


def _cell_sums(values: Integers, reduce: int) -> Integers:
    """[cells, C]: the sums over cells; those at the end may have fewer pixels."""
    rows, columns, channels = values.shape
    cells = _cells((rows, columns), reduce)
    padded = np.zeros((cells[0] * reduce, cells[1] * reduce, channels), np.int64)
    padded[:rows, :columns] = values
    return padded.reshape(cells[0], reduce, cells[1], reduce, channels).sum((1, 3)).reshape(-1, channels)


def _normalized(keys: Integers) -> Integers:
    """127·key / |key| to nearest: its magnitude is ⌊(⌊√(4·127²·key² / |key|²)⌋ + 1) / 2⌋."""
    squares = keys * keys
    length = np.maximum(squares.sum(1, keepdims=True), 1)
    doubled = np.floor(np.sqrt((4 * TOP * TOP * squares // length).astype(np.float64))).astype(np.int64)
    return np.sign(keys) * ((doubled + 1) // 2)


def _enlarged(coarse: Integers, reduce: int) -> Integers:
    """Flow of cells [.., .., 2] in 256ths to flow of pixels in sixteenths, bilinearly between the cells' centres."""
    value = coarse
    for axis in (0, 1):
        cells = coarse.shape[axis]
        # A pixel's centre between those of cells, in (2·reduce)ths of a cell.
        place = np.maximum(2 * np.arange(cells * reduce) + 1 - reduce, 0)
        first, share = np.divmod(place, 2 * reduce)
        share = share.reshape(-1, *[1] * (2 - axis))
        after = np.minimum(first + 1, cells - 1)
        value = value.take(first, axis) * (2 * reduce - share) + value.take(after, axis) * share
    return divided(value, CELL_FLOW // FLOW * (2 * reduce) ** 2)
