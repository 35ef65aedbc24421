"""How parameters lie in params.bin: weights with as many bits as they have, and before the transforms of Winograd."""

from dataclasses import dataclass

import numpy as np

from qsearch.compile import kernels
from qsearch.compile.plan import Plan
from qsearch.compile.specs import ConvSpec

_ALIGN = 64
_READ_PAST = 8  # bytes that the unpacking of the last values may read too many


@dataclass(frozen=True)
class Transform:
    """Packed weights as a small matrix times stored ones, part by part.

    A part of `sizes[i]` bytes per row has `matrix.shape[1]` stored rows, and `matrix.shape[0]` unpacked ones.
    """

    factors: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def matrix(self) -> np.ndarray:
        """int64 [unpacked rows, stored rows]."""
        return np.array(self.factors)

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """The packed weights of `stored`, both one-dimensional int8."""
        return self._by_parts(stored, self.matrix)

    def undo(self, packed: np.ndarray) -> np.ndarray | None:
        """The int8 values that `apply` turns into `packed`, or None where there are none."""
        stored = self._by_parts(packed, np.linalg.pinv(self.matrix.astype(np.float64)))
        return stored if np.array_equal(self.apply(stored), packed) else None

    def _by_parts(self, values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        parts, start = [], 0
        for size in self.sizes:
            rows = values[start : start + size * matrix.shape[1]].reshape(-1, size)
            parts.append(np.rint(matrix @ rows.astype(matrix.dtype)).astype(np.int8).ravel())
            start += rows.size
        return np.concatenate(parts)


@dataclass(frozen=True)
class Stored:
    """Where a parameter lies in params.bin, how many bits a value takes there, and what is made of the values.

    `bits` are 0 where the bytes are used as they are.
    """

    offset: int
    bits: int
    transform: Transform | None = None


@dataclass(frozen=True)
class Block:
    """The content of params.bin, where each parameter lies in it, and the bytes of all weights there."""

    content: bytes
    places: dict[str, Stored]
    weight_bytes: int


def pack_parameters(plan: Plan) -> Block:
    """All parameters of `plan` in one block, every array aligned to 64 bytes; the runtime unpacks it once."""
    block, places, weight_bytes = bytearray(), {}, 0
    transforms = _transforms(plan)
    for name, value in plan.params.items():
        data, place = _store(value, len(block), transforms.get(name))
        places[name] = place
        weight_bytes += len(data) if value.dtype == np.int8 else 0
        block += data
        block += bytes(-len(block) % _ALIGN)
    return Block(bytes(block) + bytes(_READ_PAST), places, weight_bytes)


def weight_bytes(plan: Plan) -> dict[str, int]:
    """Bytes of the weights of `plan`: `stored` in params.bin, `unpacked` in memory while a network runs."""
    unpacked = sum(value.nbytes for value in plan.params.values() if value.dtype == np.int8)
    return {"stored": pack_parameters(plan).weight_bytes, "unpacked": unpacked}


def _store(value: np.ndarray, offset: int, transform: Transform | None) -> tuple[bytes, Stored]:
    if value.dtype != np.int8:
        return np.ascontiguousarray(value).tobytes(), Stored(offset, 0)
    stored = transform.undo(value) if transform else None
    values = value if stored is None else stored
    bits = signed_bits(values)
    if stored is None and bits == 8:
        return np.ascontiguousarray(value).tobytes(), Stored(offset, 0)
    return pack_signed(values, bits), Stored(offset, bits, None if stored is None else transform)


def _transforms(plan: Plan) -> dict[str, Transform]:
    """The transforms of all weights that have one, by the parameter's name."""
    found = {}
    for step in plan.steps:
        linear = kernels.linear_weights(step.spec, plan.isa) if isinstance(step.spec, ConvSpec) else None
        if linear is not None:
            matrix, sizes = linear
            name = step.params[step.spec.param_names.index("weight")]
            found[name] = Transform(tuple(map(tuple, matrix.tolist())), tuple(sizes))
    return found


def signed_bits(values: np.ndarray) -> int:
    """Bits of the narrowest two's complement integer that holds every one of `values` (1 for none)."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return 1 + max((-low - 1).bit_length() if low < 0 else 0, high.bit_length())


def pack_signed(values: np.ndarray, bits: int) -> bytes:
    """`values` as two's complement integers of `bits`, from the lowest bit of the first byte on, without gaps."""
    fields = np.ascontiguousarray(values).reshape(-1, 1).view(np.uint8)
    return np.packbits(np.unpackbits(fields, axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()
