"""IMDN (Hui et al., ACM MM 2019): every block splits off channels step by step, then joins and weighs them."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.models.family import Family, StateDict, count, renamed

SLOPE = 0.05


class IMDN(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…1 to `[N, 3, H·upscale, W·upscale]`, not clipped.

    Without `attention` no block weighs its channels by global statistics, and every layer has an integer form.
    """

    white = 1.0

    def __init__(self, upscale: int = 4, channels: int = 64, blocks: int = 6, attention: bool = True) -> None:
        super().__init__()
        self.upscale = upscale
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(DistillationBlock(channels, attention) for _ in range(blocks))
        self.join = nn.Conv2d(channels * blocks, channels, 1)
        self.act = nn.LeakyReLU(SLOPE)
        self.tail = nn.Conv2d(channels, channels, 3, padding=1)
        self.up = nn.Conv2d(channels, 3 * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        x, results = first, []
        for block in self.blocks:
            x = block(x)
            results.append(x)
        x = self.tail(self.act(self.join(torch.cat(results, 1)))) + first
        return self.shuffle(self.up(x))


class DistillationBlock(nn.Module):
    """Three convolutions that each keep a quarter of their channels and pass on the rest, and one for the last rest."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.kept = channels // 4
        self.rest = channels - self.kept
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(self.rest, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(self.rest, channels, 3, padding=1)
        self.conv4 = nn.Conv2d(self.rest, self.kept, 3, padding=1)
        self.attention = ContrastAttention(self.kept * 4) if attention else nn.Identity()
        self.conv5 = nn.Conv2d(self.kept * 4, channels, 1)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = [], x
        for conv in (self.conv1, self.conv2, self.conv3):
            part, rest = torch.split(self.act(conv(rest)), [self.kept, self.rest], dim=1)
            kept.append(part)
        joined = torch.cat([*kept, self.conv4(rest)], 1)
        return self.conv5(self.attention(joined)) + x


class ContrastAttention(nn.Module):
    """Weighs every channel by a function of its standard deviation plus mean over the whole image."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        contrast = (x - mean).pow(2).mean((2, 3), keepdim=True).sqrt()
        return x * torch.sigmoid(self.expand(self.relu(self.squeeze(contrast + mean))))


_PARTS = {f"c{n}": f"conv{n}" for n in range(1, 6)} | {
    "cca.conv_du.0": "attention.squeeze",
    "cca.conv_du.2": "attention.expand",
}


def _translate(state: StateDict) -> StateDict | None:
    if "blocks.0.conv5.weight" in state and "join.weight" in state:
        return state
    if "fea_conv.weight" not in state or "IMDB1.c5.weight" not in state:
        return None
    result: StateDict = {}
    for key, value in state.items():
        if match := re.fullmatch(r"IMDB(\d+)\.(c\d|cca\.conv_du\.\d)\.(weight|bias)", key):
            number, part, name = match.groups()
            result[f"blocks.{int(number) - 1}.{_PARTS[part]}.{name}"] = value
    names = {"fea_conv": "first", "c.0": "join", "LR_conv": "tail", "upsampler.0": "up"}
    rest = {key: value for key, value in state.items() if not key.startswith("IMDB")}
    rules = [(rf"{old.replace('.', '[.]')}\.(weight|bias)", rf"{new}.\1") for old, new in names.items()]
    return {**result, **renamed(rest, rules)}


def _hyperparameters(state: StateDict) -> dict[str, Any]:
    return {
        "upscale": round((len(state["up.weight"]) / 3) ** 0.5),
        "channels": len(state["first.weight"]),
        "blocks": count(state, r"blocks\.(\d+)\.conv5\.weight"),
        "attention": "blocks.0.attention.squeeze.weight" in state,
    }


FAMILY = Family(
    name="imdn",
    build=IMDN,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"imdn(?P<lite>_lite)?_x(?P<upscale>[234])",
    example="imdn_lite_x4",
    parsed=lambda groups: {"upscale": int(groups["upscale"]), "attention": not groups["lite"]},
)
