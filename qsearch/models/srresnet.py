"""SRResNet (Ledig et al., CVPR 2017): residual blocks with batch normalisation and PReLU, 9×9 first and last layers.

SRGAN's generator is the same network, trained otherwise; FQSR Lite has 10 blocks and a 3×3 head (`srresnet_r10h3_x4`).
"""

from typing import Any

from torch import Tensor, nn

from qsearch.models.family import Family, StateDict, count, renamed, shuffle_stages, stage_upscale


class SRResNet(nn.Module):
    """Upscale float `[N, 3, H, W]` in 0…1 to `[N, 3, H·upscale, W·upscale]`, not clipped.

    The last layer makes -1…1, as in the paper; the result is brought to 0…1.
    """

    white = 1.0

    def __init__(self, upscale: int = 4, blocks: int = 16, channels: int = 64, head: int = 9) -> None:
        super().__init__()
        self.upscale = upscale
        self.head = nn.Conv2d(3, channels, head, padding=head // 2)
        self.head_act = nn.PReLU(channels)
        self.blocks = nn.ModuleList(NormalizedBlock(channels) for _ in range(blocks))
        self.tail = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.tail_bn = nn.BatchNorm2d(channels)
        self.up = nn.ModuleList(UpsampleStage(channels, r) for r in shuffle_stages(upscale))
        self.out = nn.Conv2d(channels, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head_act(self.head(x))
        y = x
        for block in self.blocks:
            y = block(y)
        x = self.tail_bn(self.tail(y)) + x
        for stage in self.up:
            x = stage(x)
        return (self.out(x) + 1.0) * 0.5


class NormalizedBlock(nn.Module):
    """Two 3×3 convolutions without biases, each normalised, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))) + x


class UpsampleStage(nn.Module):
    """A 3×3 convolution, a pixel shuffle and a PReLU."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shuffle(self.conv(x)))


def _translate(state: StateDict) -> StateDict | None:
    if "tail_bn.running_var" in state:
        return state
    if "midbn.running_var" not in state:
        return None
    positions = {"0": "conv1", "1": "bn1", "2": "act", "3": "conv2", "4": "bn2"}
    return renamed(
        state,
        [
            *[(rf"blocks\.(\d+)\.{at}\.(\w+)", rf"blocks.\1.{name}.\2") for at, name in positions.items()],
            (r"p\.weight", "head_act.weight"),
            (r"mid\.weight", "tail.weight"),
            (r"midbn\.(\w+)", r"tail_bn.\1"),
            (r"up\.(\d+)\.0\.(\w+)", r"up.\1.conv.\2"),
            (r"up\.(\d+)\.1\.(\w+)", r"up.\1.act.\2"),
        ],
    )


def _hyperparameters(state: StateDict) -> dict[str, Any]:
    ups = [f"up.{stage}.conv.weight" for stage in range(count(state, r"up\.(\d+)\.conv\.weight"))]
    return {
        "upscale": stage_upscale(state, ups),
        "blocks": count(state, r"blocks\.(\d+)\.conv1\.weight"),
        "channels": len(state["head.weight"]),
        "head": state["head.weight"].shape[-1],
    }


FAMILY = Family(
    name="srresnet",
    build=SRResNet,
    translate=_translate,
    hyperparameters=_hyperparameters,
    named=r"(?:srresnet|srgan)_r(?P<blocks>\d+)(?:f(?P<channels>\d+))?(?:h(?P<head>[3579]))?_x(?P<upscale>[234])",
    example="srresnet_r16_x4",
)
