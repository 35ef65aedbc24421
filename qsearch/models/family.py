"""What an architecture's file tells the registry: how to recognise a state dict and how to build the network for it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """One architecture; a module of `qsearch.models` that defines `FAMILY` is found by the registry."""

    name: str
    build: Callable[..., nn.Module]
    """Makes the network from hyperparameters; the module has `upscale: int` and `white: float`."""
    translate: Callable[[StateDict], StateDict | None]
    """The state dict with our key names and units, or None where the keys are not this architecture's."""
    hyperparameters: Callable[[StateDict], dict[str, Any]]
    """What `build` needs, read from the shapes of a translated state dict; KeyError names a key that is missing."""
    named: str
    """Regular expression of names like `edsr_r16f64_x4`; its integer groups are hyperparameters."""
    example: str
    """One name that `named` matches, for messages."""
    parsed: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda groups: {
        key: int(value) for key, value in groups.items() if value is not None
    }
    """Hyperparameters from the groups of `named`; by default each group is an integer of that name."""
    head: Callable[[StateDict, int | None], StateDict] = lambda state, upscale: state
    """Of a translated state dict with heads for several upscales, the part for one (None: the largest); ValueError says
    which there are."""

    def parse(self, name: str) -> dict[str, Any] | None:
        """Hyperparameters in the name of a configuration, None when the name is not this family's."""
        match = re.fullmatch(self.named, name)
        return self.parsed(match.groupdict()) if match else None


def renamed(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> StateDict:
    """`state` with the first matching (pattern, replacement) applied to each whole key; other keys stay."""
    result = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            if re.fullmatch(pattern, key):
                key = re.sub(pattern, replacement, key)
                break
        result[key] = value
    return result


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different values the one group of `pattern` takes over the keys it matches."""
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


def stage_upscale(state: Mapping[str, Tensor], weights: list[str]) -> int:
    """Product of the pixel shuffles after the convolutions `weights` (each makes r² times its input channels)."""
    upscale = 1
    for name in weights:
        out_channels, in_channels = state[name].shape[:2]
        upscale *= round((out_channels / in_channels) ** 0.5)
    return upscale


def shuffle_stages(upscale: int) -> list[int]:
    """The pixel shuffles that make an upscale: 4 is twice 2."""
    return [2, 2] if upscale == 4 else [upscale]
