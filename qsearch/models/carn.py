"""CARN and CARN-M (Ahn et al., ECCV 2018): cascading residual blocks joined by 1×1 convolutions."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.models.edsr import DIV2K_MEAN
from qsearch.models.family import Family, StateDict, count, shuffle_stages

STAGES = 3


class CARN(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…1 to `[N, 3, H·upscale, W·upscale]`, not clipped.

    With `mobile` it is CARN-M: convolutions of `groups` groups in blocks that share their weights.
    """

    white = 1.0
    mean: Tensor

    def __init__(self, upscale: int = 4, channels: int = 64, groups: int = 1, mobile: bool = False) -> None:
        super().__init__()
        self.upscale = upscale
        self.entry = nn.Conv2d(3, channels, 3, padding=1)
        self.B = nn.ModuleList(CascadingBlock(channels, groups, mobile) for _ in range(STAGES))
        self.C = nn.ModuleList(nn.Conv2d(channels * (i + 2), channels, 1) for i in range(STAGES))
        stages = shuffle_stages(upscale)
        self.up = nn.ModuleList(nn.Conv2d(channels, channels * r * r, 3, padding=1, groups=groups) for r in stages)
        self.relu = nn.ReLU()
        self.shuffles = nn.ModuleList(nn.PixelShuffle(r) for r in stages)
        self.exit = nn.Conv2d(channels, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x - self.mean)
        joined = x
        for block, conv in zip(self.B, self.C, strict=True):
            joined = torch.cat([joined, block(x)], 1)
            x = self.relu(conv(joined))
        for conv, shuffle in zip(self.up, self.shuffles, strict=True):
            x = shuffle(self.relu(conv(x)))
        return self.exit(x) + self.mean


class CascadingBlock(nn.Module):
    """Three residual blocks, each followed by a 1×1 convolution of everything before it; `shared`: one block thrice."""

    def __init__(self, channels: int, groups: int, shared: bool) -> None:
        super().__init__()
        self.b = nn.ModuleList(ResidualBlock(channels, groups, shared) for _ in range(1 if shared else STAGES))
        self.c = nn.ModuleList(nn.Conv2d(channels * (i + 2), channels, 1) for i in range(STAGES))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = x
        for stage, conv in enumerate(self.c):
            joined = torch.cat([joined, self.b[stage % len(self.b)](x)], 1)
            x = self.relu(conv(joined))
        return x


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions added to their input; with `pointwise` they are grouped and a 1×1 convolution mixes them."""

    def __init__(self, channels: int, groups: int, pointwise: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.mix = nn.Conv2d(channels, channels, 1) if pointwise else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        if self.mix is not None:
            y = self.mix(self.relu(y))
        return self.relu(y + x)


_POSITIONS = {"0": "conv1", "1": "conv2", "2": "mix"}


def _translate(state: StateDict) -> StateDict | None:
    if "B.0.c.0.weight" in state:
        return state
    if "entry.weight" not in state or "B.0.c1.weight" not in state:
        return None
    result = {key: value for key, value in state.items() if not key.startswith("B.")}
    for key, value in state.items():
        if block := re.fullmatch(r"B\.(\d+)\.b(\d)\.(\d)\.(weight|bias)", key):
            stage, index, position, name = block.groups()
            result[f"B.{stage}.b.{int(index) - 1}.{_POSITIONS[position]}.{name}"] = value
        elif join := re.fullmatch(r"B\.(\d+)\.c(\d)\.(weight|bias)", key):
            stage, index, name = join.groups()
            result[f"B.{stage}.c.{int(index) - 1}.{name}"] = value
    result.setdefault("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1))
    return result


def _head(state: StateDict, upscale: int | None) -> StateDict:
    """`state` with the convolutions `up.<upscale>.<stage>` of one head as `up.<stage>`, those of the others removed."""
    heads = sorted({int(match[1]) for key in state if (match := re.fullmatch(r"up\.(\d+)\.\d+\.weight", key))})
    if not heads:
        return state
    chosen = f"up.{upscale or heads[-1]}."
    rest = {key: value for key, value in state.items() if not key.startswith("up.")}
    kept = {"up." + key.removeprefix(chosen): value for key, value in state.items() if key.startswith(chosen)}
    if not kept:
        raise ValueError(f"it has heads for {', '.join(f'×{head}' for head in heads)}")
    return {**rest, **kept}


def _hyperparameters(state: StateDict) -> dict[str, Any]:
    channels = len(state["entry.weight"])
    stages = [len(state[f"up.{stage}.weight"]) for stage in range(count(state, r"up\.(\d+)\.weight"))]
    upscale = 1
    for out_channels in stages:
        upscale *= round((out_channels / channels) ** 0.5)
    return {
        "upscale": upscale,
        "channels": channels,
        "groups": channels // state["B.0.b.0.conv1.weight"].shape[1],
        "mobile": "B.0.b.0.mix.weight" in state,
    }


FAMILY = Family(
    name="carn",
    build=CARN,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"carn(?P<mobile>_m)?_x(?P<upscale>[234])",
    example="carn_m_x4",
    parsed=lambda groups: {
        "upscale": int(groups["upscale"]),
        "groups": 4 if groups["mobile"] else 1,
        "mobile": bool(groups["mobile"]),
    },
    head=_head,
)
