"""A network whose kernels fit a budget of machine code.

The fastest form of every layer on its own makes a kernel for every epilogue and every range of values, and a small
network of many kernels. Where those exceed the budget, layers give up their form for one that takes less code, most
often one whose kernel others use already; the network loses as little time as that allows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as memoize
from pathlib import Path

from torch.fx import GraphModule

from qsearch.compile import cache, elf, kernels, plan, tuning
from qsearch.compile.packing import Convolution
from qsearch.compile.plan import Plan, Step
from qsearch.compile.specs import ConvSpec, KernelSpec

EXECUTABLE_BYTES = 90_000
"""Of a static executable without its parameters."""
# What the runtime and the C library take of them, with the tables of a network of some twenty layers.
_RUNTIME_BYTES = {"x86_64": 39_000, "aarch64": 40_000, "armv7": 45_000}

Size = Callable[[KernelSpec], int]
Costs = Mapping[ConvSpec, float]


@dataclass(frozen=True)
class Move:
    """A change of forms."""

    loss: float
    """Of time."""
    saved: int
    """Bytes, at most."""
    forms: list[ConvSpec]


def build(
    program: GraphModule,
    isa: str,
    arch: str,
    choose: kernels.Choose,
    budget: int | None = None,
    folder: Path | None = None,
) -> Plan:
    """`plan.build` with forms that `choose` knows the times of, and kernels of at most `budget` bytes of machine code
    where the layers have such forms, else as few as they can (default: what `EXECUTABLE_BYTES` leave for them).

    A `choose` without times (see `kernels.Timed`), and kernels that are no LLVM objects, are left as they are. `folder`
    is that of compiled kernels.
    """
    if not isinstance(choose, kernels.Timed) or isa not in kernels.ISAS:
        return plan.build(program, isa, choose)
    layers: list[Costs] = []

    def noted(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        layers.append(choose.costs(spec, isa, conv))
        return tuning.fastest(layers[-1])

    unlimited = plan.build(program, isa, noted)
    target = kernels.kernel_target(isa, arch)

    def size(spec: KernelSpec) -> int:
        return elf.code_bytes(cache.kernel_object(spec, isa, target, folder).read_bytes())

    steps = [(step, step.spec) for step in unlimited.steps if isinstance(step.spec, ConvSpec)]
    weighted = [
        {form: cost * _area(unlimited, step) for form, cost in costs.items()}
        for (step, _), costs in zip(steps, layers, strict=True)
    ]
    others = sum(size(spec) for spec in unlimited.kernels if not isinstance(spec, ConvSpec))
    forms = [form for _, form in steps]
    most = kernel_bytes(arch) if budget is None else budget
    fitting = fit(forms, weighted, size, most - others)
    if fitting == forms:
        return unlimited
    remaining = iter(fitting)
    return plan.build(program, isa, lambda *_: next(remaining))


def kernel_bytes(arch: str) -> int:
    """What `EXECUTABLE_BYTES` leave for the kernels of a network."""
    return EXECUTABLE_BYTES - _RUNTIME_BYTES[arch]


def _area(network: Plan, step: Step) -> float:
    """Pixels of a layer's input per pixel of the image."""
    buffer = network.buffers[step.input]
    return (buffer.scale_num / buffer.scale_den) ** 2


def fit(forms: list[ConvSpec], costs: Sequence[Costs], size: Size, budget: int) -> list[ConvSpec]:
    """`forms` of all layers, changed until their kernels have at most `budget` bytes together or nothing saves more.

    `costs` are the times of the forms that every layer has. Every change is the one that loses least time per byte.
    """
    size = memoize(size)
    while sum(map(size, set(forms))) > budget:
        move = _cheapest(_moves(forms, costs, size), forms, size)
        if move is None:
            break
        forms = move.forms
    return forms


def _moves(forms: list[ConvSpec], costs: Sequence[Costs], size: Size) -> Iterator[Move]:
    """Ways to give up one kernel: all its layers move to others in use, or also to one that is not."""
    used = list(dict.fromkeys(forms))
    for kernel in used:
        layers = [index for index, form in enumerate(forms) if form == kernel]
        rest = [form for form in used if form != kernel]
        more = dict.fromkeys(form for index in layers for form in costs[index] if form not in used)
        for choice in (rest, *([*rest, form] for form in more)):
            moved = _moved(forms, costs, layers, choice)
            if moved:
                loss = sum(costs[index][moved[index]] - costs[index][kernel] for index in layers)
                yield Move(max(loss, 0.0), size(kernel), moved)


def _cheapest(moves: Iterable[Move], forms: list[ConvSpec], size: Size) -> Move | None:
    """The move that loses least time per byte that it really saves; None where none saves any.

    Knowing a size takes a compiler: moves that lose more than the best one even if they saved all are not looked at.
    """
    before = sum(map(size, set(forms)))
    best = None
    for move in sorted(moves, key=_loss_per_byte):
        if best and _loss_per_byte(best) <= _loss_per_byte(move):
            break
        saved = before - sum(map(size, set(move.forms)))
        real = replace(move, saved=saved)
        if saved > 0 and (best is None or _loss_per_byte(real) < _loss_per_byte(best)):
            best = real
    return best


def _loss_per_byte(move: Move) -> float:
    return move.loss / move.saved


def _moved(
    forms: list[ConvSpec], costs: Sequence[Costs], layers: list[int], choice: list[ConvSpec]
) -> list[ConvSpec] | None:
    """`forms` with the fastest of `choice` for `layers`; None where one has none of them."""
    moved = list(forms)
    for index in layers:
        possible = [form for form in choice if form in costs[index]]
        if not possible:
            return None
        moved[index] = min(possible, key=costs[index].__getitem__)
    return moved
