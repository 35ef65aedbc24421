"""Channels of convolutions in the order of TensorFlow's depth-to-space: sub-pixels first, colours or features last."""

from collections.abc import Sequence

from torch import Tensor

from qsearch.measure.peers.steps import Step, readers_of, replaced


def depth_last(steps: Sequence[Step]) -> list[Step]:
    """`steps` in which every shuffle and repeat says whether its channels are `depth_last`.

    They are where everything from a convolution (or the repeated image) to the shuffle has no other reader; weights,
    biases and slopes are then permuted. A grouped convolution cannot be: its channels belong to groups.
    """
    made = {step.result: step for step in steps}
    changed: dict[str, Step] = {}
    for step in steps:
        if step.kind == "shuffle":
            chain = _chain(steps, made, step.inputs[0], step["r"])
            changed[step.result] = replaced(step, depth_last=chain is not None)
            changed |= {member.result: _permuted(member, step["r"] ** 2) for member in chain or ()}
        elif step.kind == "repeat":
            changed.setdefault(step.result, replaced(step, depth_last=False))
    return [changed.get(step.result, step) for step in steps]


def _chain(steps: Sequence[Step], made: dict[str, Step], value: str, r: int) -> list[Step] | None:
    """The steps whose channels must change, from the shuffle's source back; None where one cannot."""
    step = made.get(value)
    if step is None or len(readers_of(steps, value)) != 1:
        return None
    if step.kind == "conv":
        return [step] if step["groups"] == 1 else None
    if step.kind == "repeat":
        return [step] if step["n"] == r * r else None
    if step.kind not in ("relu", "prelu", "clip", "add"):
        return None
    chains = [_chain(steps, made, source, r) for source in step.inputs]
    return None if None in chains else [step, *(member for chain in chains for member in chain or ())]


def _permuted(step: Step, area: int) -> Step:
    def order(value: Tensor) -> Tensor:
        """Channel c·area + s becomes channel s·channels + c."""
        return value.unflatten(0, (-1, area)).transpose(0, 1).flatten(0, 1)

    if step.kind == "conv":
        return replaced(step, weight=order(step["weight"]), bias=order(step["bias"]))
    if step.kind == "repeat":
        return replaced(step, depth_last=True)
    if step.kind == "prelu" and step["slope"].numel() > 1:
        return replaced(step, slope=order(step["slope"]))
    return step
