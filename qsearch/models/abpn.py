"""ABPN (Du et al., CVPRW 2021): an int8-friendly network that adds its result to the repeated input, the anchor."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.models.family import Family, StateDict, renamed


class ABPN(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…`white` to `[N, 3, H·upscale, W·upscale]`, clipped to 0…`white`.

    Seven 3×3 convolutions, ReLU between them; each colour's `upscale²` sub-pixels start as copies of the pixel.
    """

    def __init__(self, upscale: int = 3, channels: int = 28, white: float = 255.0) -> None:
        super().__init__()
        self.upscale = upscale
        self.white = white
        subpixels = 3 * upscale**2
        widths = [3, *[channels] * 5, subpixels, subpixels]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.relu = nn.ReLU()
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        anchor = x.repeat_interleave(self.upscale**2, 1)
        for conv in self.convs[:-1]:
            x = self.relu(conv(x))
        x = self.convs[-1](x) + anchor
        return torch.clamp(self.shuffle(x), 0.0, self.white)


def _translate(state: StateDict) -> StateDict | None:
    if "convs.6.weight" in state:
        return state
    if "6.weight" not in state or "7.weight" in state or state["6.weight"].ndim != 4:
        return None
    # Weights from TensorFlow: depth_to_space puts the colour last, PixelShuffle puts it first.
    state = renamed(state, [(r"(\d)\.(weight|bias)", r"convs.\1.\2")])
    for name in ("convs.6.weight", "convs.6.bias"):
        if name in state:
            subpixels = len(state[name]) // 3
            state[name] = state[name].unflatten(0, (subpixels, 3)).transpose(0, 1).flatten(0, 1).contiguous()
    return state


def _hyperparameters(state: StateDict) -> dict[str, Any]:
    return {
        "upscale": round((len(state["convs.6.weight"]) / 3) ** 0.5),
        "channels": len(state["convs.0.weight"]),
    }


FAMILY = Family(
    name="abpn",
    build=ABPN,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"abpn_f(?P<channels>\d+)_x(?P<upscale>[234])",
    example="abpn_f28_x3",
)
