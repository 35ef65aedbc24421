"""EDSR (Lim et al., CVPRW 2017) and its plain relatives: residual blocks without batch normalisation."""

from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.models.family import Family, StateDict, count, renamed, shuffle_stages, stage_upscale

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class EDSR(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…1 to `[N, 3, H·upscale, W·upscale]`, not clipped."""

    white = 1.0
    mean: Tensor

    def __init__(
        self,
        upscale: int = 4,
        blocks: int = 16,
        channels: int = 64,
        *,
        head_bias: bool = True,
        block_bias: bool = True,
        relu_after_add: bool = False,
        relu_in_upsampler: bool = False,
        body_tail: bool = True,
        residual_scale: float = 1.0,
        mean_shift: bool = True,
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.head = nn.Conv2d(3, channels, 3, padding=1, bias=head_bias)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, block_bias, relu_after_add, residual_scale) for _ in range(blocks)
        )
        self.tail = nn.Conv2d(channels, channels, 3, padding=1) if body_tail else nn.Identity()
        stages = shuffle_stages(upscale)
        self.up = nn.ModuleList(nn.Conv2d(channels, channels * r * r, 3, padding=1) for r in stages)
        self.up_act = nn.ReLU() if relu_in_upsampler else nn.Identity()
        self.shuffles = nn.ModuleList(nn.PixelShuffle(r) for r in stages)
        self.out = nn.Conv2d(channels, 3, 3, padding=1)
        self.mean_shift = mean_shift
        if mean_shift:
            self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.mean_shift:
            x = x - self.mean
        x = self.head(x)
        y = x
        for block in self.blocks:
            y = block(y)
        x = self.tail(y) + x
        for conv, shuffle in zip(self.up, self.shuffles, strict=True):
            x = shuffle(self.up_act(conv(x)))
        x = self.out(x)
        return x + self.mean if self.mean_shift else x


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions added to their input."""

    def __init__(self, channels: int, bias: bool, relu_after_add: bool, residual_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.relu_after_add = nn.ReLU() if relu_after_add else nn.Identity()
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        if self.residual_scale != 1.0:
            y = y * self.residual_scale
        return self.relu_after_add(y + x)


def _translate(state: StateDict) -> StateDict | None:
    if "head.0.weight" in state and "body.0.body.0.weight" in state:
        return _from_edsr_pytorch(state)
    if "conv_first.weight" in state and "conv_after_body.weight" in state and "body.0.conv1.weight" in state:
        return _from_basicsr(state)
    first = state.get("blocks.0.0.weight", state.get("blocks.0.conv1.weight"))
    if "head.weight" not in state or first is None or "blocks.0.bn1.weight" in state or "p.weight" in state:
        return None
    return renamed(
        state,
        [
            (r"blocks\.(\d+)\.0\.(weight|bias)", r"blocks.\1.conv1.\2"),
            (r"blocks\.(\d+)\.1\.(weight|bias)", r"blocks.\1.conv2.\2"),
        ],
    )


def _from_edsr_pytorch(state: StateDict) -> StateDict:
    """The key names of the official repository, whose images are 0…255."""
    tail = count(state, r"body\.(\d+)\.body\.0\.weight")
    state = renamed(
        state,
        [
            (r"head\.0\.(weight|bias)", r"head.\1"),
            (r"body\.(\d+)\.body\.0\.(weight|bias)", r"blocks.\1.conv1.\2"),
            (r"body\.(\d+)\.body\.2\.(weight|bias)", r"blocks.\1.conv2.\2"),
            (rf"body\.{tail}\.(weight|bias)", r"tail.\1"),
            (r"tail\.0\.0\.(weight|bias)", r"up.0.\1"),
            (r"tail\.0\.2\.(weight|bias)", r"up.1.\1"),
            (r"tail\.1\.(weight|bias)", r"out.\1"),
        ],
    )
    shift = {key: state.pop(key) for key in list(state) if key.startswith(("sub_mean.", "add_mean."))}
    for key, value in shift.items():
        if key.endswith(".weight") and not torch.allclose(value.flatten(1), torch.eye(3), atol=1e-6):
            raise QsearchError(f"{key} divides by a standard deviation: only a mean shift is supported")
    mean = -shift["sub_mean.bias"] / 255.0 if "sub_mean.bias" in shift else torch.tensor(DIV2K_MEAN)
    return _per_unit(state, mean)


def _from_basicsr(state: StateDict) -> StateDict:
    """The key names of BasicSR, whose features are 0…255; its mean is configuration and nearly always DIV2K's."""
    state = renamed(
        state,
        [
            (r"conv_first\.(weight|bias)", r"head.\1"),
            (r"body\.(\d+)\.(conv[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
            (r"conv_after_body\.(weight|bias)", r"tail.\1"),
            (r"upsample\.0\.(weight|bias)", r"up.0.\1"),
            (r"upsample\.2\.(weight|bias)", r"up.1.\1"),
            (r"conv_last\.(weight|bias)", r"out.\1"),
        ],
    )
    return _per_unit(state, state.pop("mean", torch.tensor(DIV2K_MEAN)))


def _per_unit(state: StateDict, mean: Tensor) -> StateDict:
    """From images 0…255 to 0…1: without its biases the network is positively homogeneous."""
    state = {key: value / 255.0 if key.endswith(".bias") else value for key, value in state.items()}
    return {**state, "mean": mean.reshape(1, 3, 1, 1).float()}


def _hyperparameters(state: StateDict) -> dict[str, Any]:
    ups = [f"up.{stage}.weight" for stage in range(count(state, r"up\.(\d+)\.weight"))]
    channels = len(state["head.weight"])
    block_bias = "blocks.0.conv1.bias" in state
    return {
        "upscale": stage_upscale(state, ups),
        "blocks": count(state, r"blocks\.(\d+)\.conv1\.weight"),
        "channels": channels,
        "head_bias": "head.bias" in state,
        "block_bias": block_bias,
        # No key tells where the ReLUs are; the published networks without block biases have them here.
        "relu_after_add": not block_bias,
        "relu_in_upsampler": not block_bias,
        "body_tail": "tail.weight" in state,
        # Nor is the residual scale a key; the authors use 0.1 for their 256-channel networks and 1 otherwise.
        "residual_scale": 0.1 if channels >= 256 else 1.0,
        "mean_shift": "mean" in state,
    }


FAMILY = Family(
    name="edsr",
    build=EDSR,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"edsr_r(?P<blocks>\d+)f(?P<channels>\d+)_x(?P<upscale>[234])",
    example="edsr_r16f64_x4",
)
