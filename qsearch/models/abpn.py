"""ABPN (Du et al., CVPRW 2021): an int8-friendly network that adds its result to the repeated input, the anchor.

The other residuals are the baselines of the paper's Table 2.
"""

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qsearch.models.family import Family, StateDict, renamed

Residual = Literal["anchor", "none", "nearest", "bilinear", "feature"]
RESIDUALS: tuple[Residual, ...] = ("anchor", "none", "nearest", "bilinear", "feature")
"""What the last convolution's result is added to, in the order of their numbers in a checkpoint."""


class ABPN(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…`white` to `[N, 3, H·upscale, W·upscale]`, clipped to 0…`white`.

    Seven 3×3 convolutions, ReLU between them. `residual` is what they are corrections of: `anchor`, the pixel copied to
    each of its `upscale²` sub-pixels before these are put in place; `nearest`, the same after; `bilinear`, the image
    interpolated (black beyond its border); `feature`, the first convolution's result joins the fifth's instead; `none`.
    """

    def __init__(
        self, upscale: int = 3, channels: int = 28, white: float = 255.0, residual: Residual = "anchor"
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.white = white
        self.residual = residual
        subpixels = 3 * upscale**2
        widths = [3, *[channels] * 5, subpixels, subpixels]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.relu = nn.ReLU()
        self.shuffle = nn.PixelShuffle(upscale)
        if residual == "bilinear":
            self.bilinear = _bilinear(upscale)
        if residual != "anchor":
            self.register_buffer("residual_number", torch.tensor(RESIDUALS.index(residual)))

    def forward(self, x: Tensor) -> Tensor:
        y = first = self.relu(self.convs[0](x))
        for conv in self.convs[1:5]:
            y = self.relu(conv(y))
        if self.residual == "feature":
            y = y + first
        y = self.convs[6](self.relu(self.convs[5](y)))
        if self.residual == "anchor":
            y = y + x.repeat_interleave(self.upscale**2, 1)
        if self.residual == "bilinear":
            y = y + self.bilinear(x)
        y = self.shuffle(y)
        if self.residual == "nearest":
            y = y + self.shuffle(x.repeat_interleave(self.upscale**2, 1))
        return torch.clamp(y, 0.0, self.white)


def _bilinear(upscale: int) -> nn.Conv2d:
    """Bilinear interpolation with pixel centres kept, as a fixed convolution to sub-pixels."""
    conv = nn.Conv2d(3, 3 * upscale**2, 3, padding=1, bias=False)
    offsets = (torch.arange(upscale) + 0.5) / upscale - 0.5
    taps = (1 - (offsets.view(-1, 1) - torch.tensor([-1.0, 0.0, 1.0])).abs()).clamp_min(0)
    kernels = torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
    weight = torch.zeros(3, upscale**2, 3, 3, 3)
    for colour in range(3):
        weight[colour, :, colour] = kernels
    del conv.weight
    conv.register_buffer("weight", weight.flatten(0, 1))  # no parameter: training leaves it alone
    return conv


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
    number = int(state["residual_number"]) if "residual_number" in state else 0
    if not 0 <= number < len(RESIDUALS):
        raise ValueError(f"residual number {number}")
    return {
        "upscale": round((len(state["convs.6.weight"]) / 3) ** 0.5),
        "channels": len(state["convs.0.weight"]),
        "residual": RESIDUALS[number],
    }


def _parsed(groups: Any) -> dict[str, Any]:
    found = {key: int(groups[key]) for key in ("channels", "upscale") if groups[key]}
    return {**found, "residual": groups["residual"] or "anchor"}


FAMILY = Family(
    name="abpn",
    build=ABPN,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"abpn(?:_(?P<residual>anchor|none|nearest|bilinear|feature))?(?:_f(?P<channels>\d+))?_x(?P<upscale>[234])",
    example="abpn_f28_x3",
    parsed=_parsed,
)
