"""From accumulators to uint8 values: shift, bias, skip operands, requantization; and the borders of the outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Bordered, tensor
from qsearch.compile.kernels.isa import Expr, Narrowing
from qsearch.compile.specs import ConvSpec

# Adding 1.5·2^23 to a float32 below 2^22 rounds it half to even and leaves the integer in its low bits.
ROUND = 12582912.0


@dataclass(frozen=True)
class _Output:
    """An output buffer with the parameters of its requantization."""

    stored: Bordered
    m: Expr
    m_neg: Expr | None
    bounds: Expr
    piecewise: bool


@dataclass(frozen=True)
class _Clip:
    """Clip bounds relative to the zero point, as float32, the zero point, and the pieces of a piecewise quantizer."""

    lowest: Expr
    highest: Expr
    zero_point: Expr
    pieces: "_Pieces | None"


@dataclass(frozen=True)
class _Pieces:
    """Breakpoints, the step ratio outside them, its half, and 2^16 / ratio rounded up."""

    low: Expr
    high: Expr
    ratio: Expr
    half: Expr
    reciprocal: Expr


@dataclass(frozen=True)
class Channels:
    """Parameters of the channels of one vector, in registers."""

    bias: Expr
    shift: Expr
    factors: tuple[Expr, ...]
    m: tuple[Expr, ...]
    m_neg: tuple[Expr | None, ...]


class Epilogue:
    """All arguments of a kernel after its input, and what happens to a vector of accumulators.

    Per-channel parameters have `total` lanes and are read `lanes` at a time.
    """

    def __init__(self, spec: ConvSpec, size: tuple[Expr, Expr], lanes: int, total: int, weight_bytes: int) -> None:
        self.spec, self.lanes = spec, lanes
        self.height, self.width = size
        self.skips = [
            tensor(f"skip{i}", self._shape(skip.border, skip.channels, 1), "uint8") for i, skip in enumerate(spec.skips)
        ]
        buffers = [
            # An image is the caller's memory, at any address.
            tensor(f"output{i}", self._shape(o.border, o.pitch, spec.shuffle), "uint8", aligned=o.pitch % 4 == 0)
            for i, o in enumerate(spec.outputs)
        ]
        self.weight = tensor("weight", (weight_bytes,), "int8")
        self._bias, self._shift = tensor("bias", (total,), "int32"), tensor("shift", (total,), "int32")
        self._factors = [tensor(f"k{i}", (total,), "int32") for i in range(len(spec.skips))]
        self._outputs: list[_Output] = []
        for i, (output, buffer) in enumerate(zip(spec.outputs, buffers, strict=True)):
            m = tensor(f"m{i}", (total,), "float32")
            m_neg = tensor(f"m_neg{i}", (total,), "float32") if spec.prelu else None
            bounds = tensor(f"bounds{i}", (6 if output.piecewise else 3,), "int32")
            pad = tensor(f"pad{i}", (output.channels,), "uint8") if output.border else None
            stored = Bordered(buffer, output.border, output.channels, pad, output.offset)
            self._outputs.append(_Output(stored, m, m_neg, bounds, output.piecewise))
        self._clips: list[_Clip] = []

    def _shape(self, border: int, channels: int, shuffle: int) -> tuple[Expr, ...]:
        return self.height * shuffle + 2 * border, self.width * shuffle + 2 * border, channels

    def begin(self) -> None:
        """Loads the clip bounds, for all that follows in this block of statements."""
        self._clips = []
        for output in self._outputs:
            zero_point, lo, hi = (output.bounds[i] for i in range(3))
            lowest, highest = (T.Bind(T.cast(bound - zero_point, "float32")) for bound in (lo, hi))
            self._clips.append(_Clip(lowest, highest, T.Bind(zero_point), self._load_pieces(output)))

    def _load_pieces(self, output: _Output) -> _Pieces | None:
        if not output.piecewise:
            return None
        low, high, ratio = (T.Bind(output.bounds[i]) for i in (3, 4, 5))
        # (x · ⌈2^16 / ratio⌉) >> 16 is x // ratio for all x below 2^16 / ratio, and x is below 2·255.
        return _Pieces(low, high, ratio, T.Bind(ratio // 2), T.Bind((ratio + 65535) // ratio))

    def end(self, y: Expr, count: Expr = 1) -> None:
        """Writes the borders of all outputs that belong to `count` accumulator rows from `y` on."""
        r = self.spec.shuffle
        for output in self._outputs:
            output.stored.write_borders(y * r, count * r, self.height * r, self.width * r)

    def channels(self, lane: Expr) -> Channels:
        """Loads the parameters of `lanes` channels from `lane` on."""

        def load(parameter: Expr, dtype: str) -> Expr:
            return T.Bind(parameter.vload([lane], f"{dtype}x{self.lanes}"))

        return Channels(
            bias=load(self._bias, "int32"),
            shift=load(self._shift, "int32"),
            factors=tuple(load(k, "int32") for k in self._factors),
            m=tuple(load(output.m, "float32") for output in self._outputs),
            m_neg=tuple(None if o.m_neg is None else load(o.m_neg, "float32") for o in self._outputs),
        )

    def finish(self, sums: Expr, skips: Sequence[Expr], channels: Channels) -> list[tuple[Bordered, Expr]]:
        """Every output's uint8 vector for int32 `sums` and uint8 `skips`."""
        value = self.accumulator(sums, skips, channels)
        found = []
        for output, clip, m, m_neg in zip(self._outputs, self._clips, channels.m, channels.m_neg, strict=True):
            # As int32 the lowest byte is the value; the others are anything.
            word = T.Bind(self._quantized(clip, value, m, m_neg))
            found.append((output.stored, T.Bind(T.cast(word, f"uint8x{self.lanes}"))))
        return found

    def rounded(self, index: int, value: Expr, channels: Channels, narrowing: Narrowing) -> Expr:
        """Accumulators (see `accumulator`) as int32 values of output `index`, for `joined`."""
        clip, scale = self._clips[index], (channels.m[index], channels.m_neg[index])
        if clip.pieces is not None:
            return T.bitwise_and(self._quantized(clip, value, *scale), T.broadcast(T.int32(255), self.lanes))
        return narrowing.round(T.min(self._scaled(value, *scale), T.broadcast(clip.highest, self.lanes)))

    def joined(self, index: int, rounded: Sequence[Expr], narrowing: Narrowing) -> tuple[Bordered, Expr]:
        """The uint8 vector of several `rounded` vectors of output `index`, in the order of `narrowing`."""
        output, clip = self._outputs[index], self._clips[index]
        if clip.pieces is not None:
            return output.stored, narrowing.join(rounded, T.int32(0))
        lowest = T.broadcast(T.cast(output.bounds[1], "uint8"), self.lanes * narrowing.vectors)
        return output.stored, T.max(narrowing.join(rounded, clip.zero_point), lowest)

    def accumulator(self, sums: Expr, skips: Sequence[Expr], channels: Channels) -> Expr:
        """int32 `sums` with shift, bias and uint8 `skips`."""
        value = T.shift_left(sums, channels.shift) + channels.bias
        for factor, skip in zip(channels.factors, skips, strict=True):
            value = value + factor * T.cast(skip, f"int32x{self.lanes}")
        return T.Bind(value)

    def _scaled(self, value: Expr, m: Expr, m_neg: Expr | None) -> Expr:
        lanes = self.lanes
        factor = m
        if m_neg is not None:
            # Selected as integers: TVM's analysis of a bound value fails on a selection of floats.
            bits = [T.reinterpret(scale, dtype=f"int32x{lanes}") for scale in (m_neg, m)]
            factor = T.reinterpret(T.Select(value < T.broadcast(T.int32(0), lanes), *bits), dtype=f"float32x{lanes}")
        return T.cast(value, f"float32x{lanes}") * factor

    def _quantized(self, clip: _Clip, value: Expr, m: Expr, m_neg: Expr | None) -> Expr:
        lanes = self.lanes
        scaled = self._scaled(value, m, m_neg)
        # Clipping to integers before rounding gives the same integer and keeps the sum in the range of ROUND. It also
        # stands between the product and the addition, which LLVM would otherwise fuse into one rounding.
        clipped = T.min(T.max(scaled, T.broadcast(clip.lowest, lanes)), T.broadcast(clip.highest, lanes))
        bits = T.reinterpret(clipped + T.broadcast(T.float32(ROUND), lanes), dtype=f"int32x{lanes}")
        value = bits + T.broadcast(clip.zero_point, lanes)
        if clip.pieces is not None:
            # The low half of `bits` is the integer; above it stands the exponent of ROUND.
            value = self._snapped(clip.pieces, T.bitwise_and(value, T.broadcast(T.int32(255), lanes)))
        return value

    def _snapped(self, pieces: _Pieces, value: Expr) -> Expr:
        """See `qsearch.integer.ops.snap`."""
        wide = {name: T.broadcast(getattr(pieces, name), self.lanes) for name in pieces.__dataclass_fields__}
        value = T.Bind(value)

        def steps(beyond: Expr) -> Expr:
            distance = T.max(beyond, T.broadcast(T.int32(0), self.lanes)) + wide["half"]
            return T.shift_right(distance * wide["reciprocal"], T.broadcast(T.int32(16), self.lanes))

        outside = steps(value - wide["high"]) - steps(wide["low"] - value)
        return T.max(T.min(value, wide["high"]), wide["low"]) + outside * wide["ratio"]
