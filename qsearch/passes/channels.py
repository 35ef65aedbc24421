"""How many channels a value has, and convolutions that only pick channels."""

import torch
from torch import nn
from torch.fx import Node

from qsearch.passes.operators import Concat, FusedConv, RepeatChannels, SelectChannels

IMAGE_CHANNELS = 3


def channels_of(root: nn.Module, node: Node) -> int:
    """Channels of the value of `node`, whose graph calls the modules of `root`."""
    if node.op == "placeholder":
        return IMAGE_CHANNELS
    module = root.get_submodule(str(node.target))
    if isinstance(module, FusedConv):
        return module.bias.numel()
    if isinstance(module, SelectChannels):
        return module.stop - module.start
    if isinstance(module, Concat):
        return sum(channels_of(root, source) for source in node.args)  # type: ignore[arg-type, misc]
    source = channels_of(root, node.args[0])  # type: ignore[arg-type]
    if isinstance(module, nn.PixelShuffle):
        return source // module.upscale_factor**2
    return source * module.n if isinstance(module, RepeatChannels) else source


def selection(name: str, channels: int, start: int, stop: int) -> FusedConv:
    """A 1×1 convolution of `channels` channels that gives those from `start` to `stop` as they are."""
    whole = (start, stop) == (0, channels)
    conv = nn.Conv2d(channels, stop - start, 1, groups=channels if whole else 1, bias=False)
    conv.weight.data = torch.ones(channels, 1, 1, 1) if whole else torch.eye(channels)[start:stop, :, None, None]
    fused = FusedConv(name, conv, (0, 0))
    fused.identity = True
    return fused
