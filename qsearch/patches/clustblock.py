"""ClustBlock: the small float classifier of texture classes, and its training without labels."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.network import CalibratedNetwork
from qsearch.patches.features import patch_features
from qsearch.patches.kmeans import kmeans
from qsearch.patches.split import Layout, gather

CHANNELS = (16, 32, 32)
MID_GREY = 128
"""The grey level that the network sees as 0, also beyond the patch's border."""
STEPS, BATCH, LEARNING_RATE = 400, 64, 2e-3
MOST_PATCHES = 4096


class ClustBlock(nn.Module):
    """Logits [N, classes] of uint8 patches [N, 3, h, w] of any size: three 3×3 convolutions of stride 2, mean, linear.

    Pixels enter as (q − 128)/128. The inner layers have a ReLU each.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(inputs, CHANNELS, strict=True)
        )
        self.linear = nn.Linear(CHANNELS[-1], classes)

    def forward(self, patches: Tensor) -> Tensor:
        x = (patches.float() - MID_GREY) / MID_GREY
        return self.linear(self.maps(x)[-1].mean((2, 3)))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output of every convolution, after its ReLU."""
        found = []
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
            found.append(x)
        return found


def training_patches(images: Sequence[NDArray[np.uint8]], layout: Layout, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Patches of LR images, all of the layout's size and at most 4096; raises `QsearchError` where there is none."""
    found = []
    step = layout.patch - layout.overlap
    for image in images:
        if min(image.shape[:2]) >= layout.patch:
            # Images of other sizes would be split into smaller patches.
            height, width = (side - (side - layout.overlap) % step for side in image.shape[:2])
            found += gather(image[:height, :width], layout.split(height, width))
    if not found:
        raise QsearchError(f"no image is as large as a patch of {layout.patch} pixels: use larger images")
    chosen = np.random.default_rng(seed).permutation(len(found))[:MOST_PATCHES]
    return [found[index] for index in np.sort(chosen)]


def train_clustblock(
    network: CalibratedNetwork,
    patches: Sequence[NDArray[np.uint8]],
    classes: int = 16,
    seed: int = 0,
    steps: int = STEPS,
) -> tuple[ClustBlock, float]:
    """A classifier of `patches` (uint8 [h, w, 3], one size), and the share of them that it labels as k-means does.

    The labels are k-means classes of what the float network makes of the patches. The same patches, seed and number of
    threads give the same classifier.
    """
    features = patch_features(network.calibration.graph, patches, network.model.white)
    labels = torch.from_numpy(kmeans(features, classes, seed)[0])
    pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = ClustBlock(classes)
        optimizer = torch.optim.Adam(block.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(pixels), (min(BATCH, len(pixels)),))
            loss = F.cross_entropy(block(pixels[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    block.eval().requires_grad_(False)
    with torch.inference_mode():
        agreed = (block(pixels).argmax(1) == labels).float().mean()
    return block, float(agreed)
