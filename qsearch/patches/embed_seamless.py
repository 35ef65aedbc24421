"""The C data of seamless patches in an executable, and what they add to its working memory."""

from collections.abc import Sequence
from dataclasses import replace

from qsearch.compile.joined import Joined
from qsearch.compile.memory import tile_bytes
from qsearch.compile.plan import OUTPUT, Plan, Step
from qsearch.compile.specs import ConvSpec
from qsearch.patches.embed_refer import table

SEAMLESS = "seamless"
"""The network of all levels among those of an executable."""
_RUN_PIXELS, _SLACK, _ALIGN = 8192, 64, 64
"""As in seamless.c."""
_ALL = 0xFFFFFFFF
"""Every level."""


def named_steps(joined: Joined, levels: Sequence[str]) -> Joined:
    """The same with steps named as where every level is a network of its own, such as `8/head`."""
    first, end = joined.steps[SEAMLESS]

    def named(step: Step) -> Step:
        name = step.name.removeprefix(f"{SEAMLESS}/")
        if step.level is not None:
            name = f"{levels[step.level]}/{name.removeprefix(f'level{step.level}_')}"
        return replace(step, name=name)

    steps = tuple(named(step) if first <= index < end else step for index, step in enumerate(joined.plan.steps))
    return replace(joined, plan=replace(joined.plan, steps=steps))


def step_levels(plan: Plan) -> list[str]:
    """C for seamless.c: the level of every step, −1 for all; of every buffer the levels that read it, one bit each, and
    whether several steps write it by channels.
    """
    outputs = [
        (name, spec)
        for step in plan.steps
        if isinstance(step.spec, ConvSpec)
        for name, spec in zip(step.outputs, step.spec.outputs, strict=True)
    ]
    joined = {name for name, spec in outputs if spec.joined}
    readers = dict.fromkeys(plan.buffers, 0) | {OUTPUT: _ALL}
    for step in plan.steps:
        for name in (step.input, *step.skips):
            readers[name] |= _ALL if step.level is None else 1 << step.level
    levels = (-1 if step.level is None else step.level for step in plan.steps)
    return [
        f"static const int8_t qs_step_levels[] = {table(levels)};",
        f"static const uint32_t qs_readers[] = {table(readers[name] for name in plan.buffers)};",
        f"static const uint8_t qs_joined[] = {table(int(name in joined) for name in plan.buffers)};",
    ]


def seamless_tile_bytes(joined: Joined, patch: int, height: int, width: int, threads: int) -> int:
    """Working memory in bytes of a tile of `height` × `width` input pixels, every thread's copies of a run included."""
    sizes = joined.plan.sizes(height, width)
    rows, columns = min(height, patch), min(width, max(1, _RUN_PIXELS // patch**2) * patch)
    first, end = joined.steps[SEAMLESS]

    def copied(name: str) -> int:
        buffer = joined.plan.buffers[name]
        scale = sizes[name][0] // height
        across, down, channels = buffer.shape((rows * scale, columns * scale))
        return -(-(across * down * channels + _SLACK) // _ALIGN) * _ALIGN

    of_steps = (
        sum(copied(name) for name in (step.input, *step.skips, *step.outputs)) for step in joined.plan.steps[first:end]
    )
    return tile_bytes(joined.plan, height, width) + threads * max(of_steps)
