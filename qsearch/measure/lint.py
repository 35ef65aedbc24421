"""Operations of a network that cost more on a device than they bring: each rule against a measured alternative.

A rule proposes another operation for a layer; both are in the device's operation table, so what it would save is the
difference of two figures of one kind, measured or modelled. What it would cost in quality no table knows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qsearch.compile import kernels
from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.specs import ConvSpec, OutSpec, stored
from qsearch.measure.modelled import choice_for
from qsearch.measure.operations import Operation, OperationTable, Size
from qsearch.measure.profiling import Layer, Report, Timed, fill
from qsearch.target import Target

# A finding must save this share of the network's time, and more than the intervals of what it compares.
_LEAST_SHARE = 0.01
_LARGE_KERNEL = 7


@dataclass(frozen=True)
class Finding:
    """One way to save time; equal layers are one finding."""

    rule: str
    layers: tuple[str, ...]
    operation: str
    alternative: str
    """The operation in its place; empty where there is none."""
    saves: float
    """Milliseconds of the whole network, measured or modelled as the table is."""
    advice: str


@dataclass(frozen=True)
class _Proposal:
    """What stands in place of `layers`; its time counts `factor` times."""

    rule: str
    layers: tuple[Layer, ...]
    alternative: Layer | None
    advice: str
    factor: float = 1.0


_Rebuild = Callable[[ConvSpec, Convolution], tuple[ConvSpec, Convolution] | None]


def lint(
    layers: Sequence[Layer],
    table: OperationTable,
    target: Target,
    timed: Timed | None = None,
    report: Report | None = None,
    folder: Path | None = None,
) -> list[Finding]:
    """The findings about a network whose layers are `layers`, the dearest first; measures what `table` lacks.

    `folder` is where tables are kept, by default beside the compiled kernels.
    """
    proposals = list(_proposals(layers, target))
    alternatives = [proposal.alternative for proposal in proposals if proposal.alternative]
    fill(table, [*layers, *alternatives], target, timed, report, folder)
    least = _LEAST_SHARE * sum(_time(table, layer)[0] for layer in layers)
    found: dict[tuple[str, str, str], Finding] = {}
    for proposal in proposals:
        saves, noise = _saving(proposal, table)
        if saves <= noise:
            continue
        operation = " and ".join(dict.fromkeys(layer.operation.label for layer in proposal.layers))
        other = proposal.alternative.operation.label if proposal.alternative else ""
        before = found.get((proposal.rule, operation, other))
        names = tuple(layer.name for layer in proposal.layers)
        found[proposal.rule, operation, other] = Finding(
            proposal.rule, (before.layers if before else ()) + names, operation, other,
            (before.saves if before else 0.0) + saves, proposal.advice,
        )  # fmt: skip
    return sorted((finding for finding in found.values() if finding.saves > least), key=lambda item: -item.saves)


def _time(table: OperationTable, layer: Layer) -> tuple[float, float]:
    """Milliseconds of a layer and how far its interval reaches."""
    time = table.times[layer.operation.key]
    return time.ms, max(time.high_ms - time.ms, time.ms - time.low_ms)


def _saving(proposal: _Proposal, table: OperationTable) -> tuple[float, float]:
    here = [_time(table, layer) for layer in proposal.layers]
    there = _time(table, proposal.alternative) if proposal.alternative else (0.0, 0.0)
    saves = sum(ms for ms, _ in here) - there[0] * proposal.factor
    return saves, sum(reach**2 for _, reach in [*here, there]) ** 0.5


def _proposals(layers: Sequence[Layer], target: Target) -> Iterator[_Proposal]:
    choose = choice_for(target)

    def other(layer: Layer, rebuilt: tuple[ConvSpec, Convolution] | None, size: Size | None = None) -> Layer | None:
        if rebuilt is None:
            return None
        spec = choose(rebuilt[0], target.isa, rebuilt[1])
        return Layer(layer.name, Operation(spec, size or layer.operation.size), rebuilt[1])

    for layer in layers:
        spec = layer.operation.spec
        if not isinstance(spec, ConvSpec) or layer.conv is None:
            continue
        if _is_identity(layer.conv):
            yield _Proposal("identity convolution", (layer,), None, "drop it: its output is its input")
            continue
        for rule, rebuild, advice in _RULES:
            alternative = other(layer, rebuild(_bare(spec), layer.conv))
            if alternative is not None and alternative.operation != layer.operation:
                yield _Proposal(rule, (layer,), alternative, advice)
        alternative = other(layer, _full_lanes(_bare(spec), layer.conv, _lanes(target.isa)))
        if alternative is not None and isinstance(alternative.operation.spec, ConvSpec):
            used = spec.out_channels / alternative.operation.spec.out_channels
            advice = f"{alternative.operation.spec.out_channels} channels fill the vectors: the rest is paid for anyway"
            yield _Proposal("unused lanes", (layer,), alternative, advice, used)
    yield from _image_made_large(layers, other)


def _bare(spec: ConvSpec) -> ConvSpec:
    """The spec as it was before its form was chosen."""
    return replace(spec, algorithm="direct", groups=1)


def _lanes(isa: str) -> int:
    return kernels.ISAS[isa].lanes if isa in kernels.ISAS else 1


def _is_identity(conv: Convolution) -> bool:
    """Every output channel is one input channel, unchanged but for its scale, in order."""
    outputs, inputs, rows, columns = conv.weight.shape
    if outputs != inputs or conv.groups != 1:
        return False
    centre = conv.weight[:, :, rows // 2, columns // 2]
    diagonal = np.diag(np.diag(centre))
    return bool((np.diag(centre) != 0).all()) and np.count_nonzero(conv.weight) == np.count_nonzero(diagonal)


def _without_skips(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    if not spec.skips:
        return None
    return replace(spec, skips=()), replace(conv, skip_factors=[])


def _without_prelu(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    return (replace(spec, prelu=False), conv) if spec.prelu else None


def _one_output(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    if len(spec.outputs) < 2:
        return None
    return replace(spec, outputs=spec.outputs[:1]), replace(conv, outputs=list(conv.outputs)[:1])


def _uniform(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    if not any(output.piecewise for output in spec.outputs):
        return None
    outputs = [replace(value, bounds=value.bounds[:3]) for value in conv.outputs]
    plain = tuple(replace(output, piecewise=False) for output in spec.outputs)
    return replace(spec, outputs=plain), replace(conv, outputs=outputs)


def _not_joined(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    if not any(output.joined for output in spec.outputs):
        return None
    alone = tuple(
        replace(output, channels=stored(output.channels), offset=0, joined=0) if output.joined else output
        for output in spec.outputs
    )
    outputs = [_padded(value, output) for value, output in zip(conv.outputs, alone, strict=True)]
    return replace(spec, outputs=alone), replace(conv, outputs=outputs)


def _small_kernel(spec: ConvSpec, conv: Convolution) -> tuple[ConvSpec, Convolution] | None:
    rows, columns = spec.kernel
    if max(rows, columns) < _LARGE_KERNEL or spec.padding != (rows // 2, columns // 2):
        return None
    top, left = rows // 2 - 1, columns // 2 - 1
    weight = np.ascontiguousarray(conv.weight[:, :, top : top + 3, left : left + 3])
    return replace(spec, kernel=(3, 3), padding=(1, 1), in_border=1), replace(conv, weight=weight)


_RULES: tuple[tuple[str, _Rebuild, str], ...] = (
    ("skip operand", _without_skips, "without the residual the kernel would read one tensor less"),
    ("PReLU", _without_prelu, "a ReLU is a clip bound and costs nothing"),
    ("second output", _one_output, "give all readers of the value the same bits: then it is written once"),
    ("piecewise quantizer", _uniform, "a uniform quantizer needs no second rounding"),
    ("joined output", _not_joined, "written to a tensor of its own the channels would lie side by side"),
    ("large kernel", _small_kernel, "a 3×3 convolution in its place"),
)


def _full_lanes(spec: ConvSpec, conv: Convolution, lanes: int) -> tuple[ConvSpec, Convolution] | None:
    """The convolution with as many output channels as fill its vectors; None where it has them, or cannot."""
    count = -(-spec.out_channels // lanes) * lanes
    simple = spec.shuffle == 1 and conv.groups == 1 and not any(output.joined for output in spec.outputs)
    if count == spec.out_channels or not simple or any(skip.repeat > 1 for skip in spec.skips):
        return None
    outputs = tuple(replace(output, channels=count) for output in spec.outputs)
    skips = tuple(replace(skip, channels=count) for skip in spec.skips)
    return replace(spec, out_channels=count, outputs=outputs, skips=skips), _with_channels(conv, count, outputs)


def _with_channels(conv: Convolution, count: int, outputs: Sequence[OutSpec]) -> Convolution:
    """`conv` with its output channels repeated, or cut, to `count`."""
    which = np.arange(count) % len(conv.weight)
    return replace(
        conv,
        weight=conv.weight[which],
        bias=conv.bias[which],
        shift=conv.shift[which],
        skip_factors=[factors[which] for factors in conv.skip_factors],
        outputs=[
            _padded(replace(value, m=value.m[which], m_neg=value.m_neg[which]), output)
            for value, output in zip(conv.outputs, outputs, strict=True)
        ],
    )


def _padded(value: Requantization, output: OutSpec) -> Requantization:
    """Pad values for the channels of `output`."""
    if value.pad is None:
        return replace(value, pad=np.zeros(output.channels, np.uint8)) if output.border else value
    return replace(value, pad=np.resize(value.pad, output.channels))


def _image_made_large(
    layers: Sequence[Layer], other: Callable[[Layer, tuple[ConvSpec, Convolution], Size], Layer | None]
) -> Iterator[_Proposal]:
    """A last convolution in the size of the result, against one that makes all its pixels in the size of the image."""
    small, last = layers[0].operation, layers[-1]
    spec, conv = last.operation.spec, last.conv
    factor = last.operation.size[0] // small.size[0]
    if not isinstance(spec, ConvSpec) or conv is None or factor < 2 or spec.shuffle > 1 or spec.skips:
        return
    replaced = tuple(
        layer
        for layer in layers
        if isinstance(layer.operation.spec, ConvSpec)
        and (layer.operation.spec.shuffle > 1 or layer.operation.pixels > small.pixels)
    )
    upsampler = replaced[0].operation.spec
    channels = spec.out_channels * factor**2
    before = replaced[0].conv
    if not isinstance(upsampler, ConvSpec) or before is None or before.groups != 1:
        return
    outputs = (OutSpec(spec.out_channels, 0),)
    bare = replace(_bare(upsampler), out_channels=channels, outputs=outputs, shuffle=factor, prelu=False, skips=())
    values = replace(before, outputs=list(before.outputs)[:1], skip_factors=[])
    alternative = other(last, (bare, _with_channels(values, channels, outputs)), replaced[0].operation.size)
    advice = f"one convolution to {channels} channels and a shuffle by {factor}, before the pixels are many"
    yield _Proposal("image made at the size of the result", replaced, alternative, advice)
