"""Several networks as one plan: their steps one after the other, of which a run takes those of one network."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Plan, Step


@dataclass(frozen=True)
class Joined:
    """Networks in one plan, and where each of them lies in it."""

    plan: Plan
    """Its kernels are the distinct ones of all networks; the arena slots are shared, as only one network runs."""
    steps: Mapping[str, tuple[int, int]]
    """First and end (exclusive) of every network's steps."""


def join(plans: Mapping[str, Plan], inner: Collection[str] = ()) -> Joined:
    """One plan of the networks `plans` of one instruction set, with names such as `<network>/<name>` in it.

    All read `input` and write `output`, but those of `inner` write the buffer `<network>/output` of the arena instead.
    """
    slots = 1 + max(
        (b.slot for plan in plans.values() for b in plan.buffers.values() if b.slot is not None), default=-1
    )
    buffers: dict[str, Buffer] = {}
    params: dict[str, np.ndarray] = {}
    steps: list[Step] = []
    places = {}
    for network, plan in plans.items():
        shared = {INPUT} if network in inner else {INPUT, OUTPUT}
        names = {name: name if name in shared else f"{network}/{name}" for name in plan.buffers}
        for name, buffer in plan.buffers.items():
            slot = slots if network in inner and name == OUTPUT else buffer.slot
            buffers[names[name]] = replace(buffer, name=names[name], slot=slot)
        params.update({f"{network}/{name}": value for name, value in plan.params.items()})
        places[network] = len(steps), len(steps) + len(plan.steps)
        steps += [_renamed(step, network, names) for step in plan.steps]
    whole = [plan for network, plan in plans.items() if network not in inner]
    halo = max(plan.halo for plan in whole)
    return Joined(Plan(whole[0].isa, buffers, tuple(steps), params, halo, whole[0].upscale), places)


def _renamed(step: Step, network: str, names: Mapping[str, str]) -> Step:
    return replace(
        step,
        name=f"{network}/{step.name}",
        input=names[step.input],
        skips=tuple(names[name] for name in step.skips),
        outputs=tuple(names[name] for name in step.outputs),
        params=tuple(f"{network}/{name}" for name in step.params),
    )
