"""Several networks as one plan: their steps one after the other, of which a run takes those of one network."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Feature, Plan, Step


@dataclass(frozen=True)
class Joined:
    """Networks, or parts of some, in one plan, and where each of them lies in it."""

    plan: Plan
    """Its kernels are the distinct ones of all networks; arena slots are shared, as only one network runs at a time,
    but for what passes between networks."""
    steps: Mapping[str, tuple[int, int]]
    """First and end (exclusive) of every network's steps."""
    buffers: Mapping[str, Mapping[str, str]]
    """The plan's names of every network's buffers."""

    def index(self, network: str, buffer: str) -> int:
        """The number of a network's buffer among those of the plan."""
        return list(self.plan.buffers).index(self.buffers[network][buffer])


def join(plans: Mapping[str, Plan], inner: Collection[str] = ()) -> Joined:
    """One plan of the networks `plans` of one instruction set, with names such as `<network>/<name>` in it.

    All read `input` and write `output`, but those of `inner` write the buffer `<network>/output` instead. That, further
    outputs and the buffers of features have each a slot of the arena of its own.
    """
    slots = 1 + max(
        (b.slot for plan in plans.values() for b in plan.buffers.values() if b.slot is not None), default=-1
    )
    buffers: dict[str, Buffer] = {}
    params: dict[str, np.ndarray] = {}
    steps: list[Step] = []
    features: list[Feature] = []
    places, renamed = {}, {}
    for network, plan in plans.items():
        shared = {INPUT} if network in inner else {INPUT, OUTPUT}
        names = {name: name if name in shared else f"{network}/{name}" for name in plan.buffers}
        for name, buffer in plan.buffers.items():
            slot = buffer.slot
            if slot is None and name not in shared:
                slots, slot = slots + 1, slots
            buffers[names[name]] = replace(buffer, name=names[name], slot=slot)
        params.update({f"{network}/{name}": value for name, value in plan.params.items()})
        places[network], renamed[network] = (len(steps), len(steps) + len(plan.steps)), names
        steps += [_renamed(step, network, names) for step in plan.steps]
        features += [replace(f, name=f"{network}/{f.name}", buffer=names[f.buffer]) for f in plan.features]
    whole = [plan for network, plan in plans.items() if network not in inner]
    halo, upscale = max(plan.halo for plan in whole), whole[0].upscale
    return Joined(Plan(whole[0].isa, buffers, tuple(steps), params, halo, upscale, tuple(features)), places, renamed)


def _renamed(step: Step, network: str, names: Mapping[str, str]) -> Step:
    return replace(
        step,
        name=f"{network}/{step.name}",
        input=names[step.input],
        skips=tuple(names[name] for name in step.skips),
        outputs=tuple(names[name] for name in step.outputs),
        params=tuple(f"{network}/{name}" for name in step.params),
    )
