"""Small configurations of patches, and their artefacts for this machine, one of each per test process."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.allocation import uniform
from qsearch.compile.kernels import plain
from qsearch.patches import (
    Classifier,
    ClustBlock,
    Clustering,
    EdgeRule,
    Layout,
    ReferencedProgram,
    ReferencedTwin,
    gather,
    levels_of,
)
from qsearch.patches.artefact import build_patch_artefact
from qsearch.patches.assign import Reading
from qsearch.patches.clustblock import MID_GREY
from qsearch.patches.stored import StoredPatches
from qsearch.target import load_target
from tests.patches.networks import joined, textures, tiny
from tests.small_networks import random_images

SEAMLESS = Layout(16, 0, "seamless")
_FOLDER = tempfile.TemporaryDirectory(prefix="qsearch-patches-")


@cache
def classifier() -> Classifier:
    """Random weights serve, where it only matters that it decides; none of its five classes is the likeliest of all."""
    patches = [*random_images(4, 16, 16), *gather(ramp(64, 64), Layout(16).split(64, 64))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        block = ClustBlock(5).eval().requires_grad_(False)
    pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float()
    features = block.maps((pixels - MID_GREY) / MID_GREY)[-1].mean((2, 3))
    block.linear.weight *= 100
    block.linear.bias[:] = -block.linear.weight @ features.mean(0)
    return Classifier.freeze(block, patches)


@cache
def edges() -> StoredPatches:
    """Three levels by edges, cropped."""
    return StoredPatches.of(tiny(), levels_of(tiny(), "8-5-3"), Layout(16, 4), EdgeRule((20000, 8000)))


@cache
def clusters(reading: Reading = "A", share: float | None = None) -> StoredPatches:
    """Two levels by clusters, averaged."""
    policy = Clustering(classifier(), reading, share)
    return StoredPatches.of(tiny(), levels_of(tiny(), "8-4"), Layout(18, 7, "average"), policy)


@cache
def seamless() -> StoredPatches:
    """Three levels by edges, which read their neighbours."""
    return StoredPatches.of(tiny(), levels_of(tiny(), "8-5-3"), SEAMLESS, EdgeRule((20000, 8000)))


@cache
def seamless_clusters() -> StoredPatches:
    """Two levels by clusters, which read their neighbours, of a network that joins values."""
    policy = Clustering(classifier(), share=0.3)
    return StoredPatches.of(joined(), levels_of(joined(), "8-4"), SEAMLESS, policy)


@cache
def referenced_program(network: str = "joined") -> ReferencedProgram:
    """Four repairs and values that cross them, or one of the network `tiny`; the fusions move the image by much."""
    calibrated = {"joined": joined, "tiny": tiny}[network]()
    high, low = (uniform(calibrated.sites, bits, bits) for bits in (8, 4))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        twin = ReferencedTwin(calibrated, high, low, 1)
        twin.train()(torch.rand(4, 3, 12, 12), torch.tensor([0, 1, 0, 1]))
        for refer in twin.refer_modules().values():
            torch.nn.init.normal_(refer.fuse.get_parameter("weight"), std=0.1)
    return ReferencedProgram.of(calibrated, twin.eval(), ("8", "4"))


@cache
def referenced(network: str = "joined") -> StoredPatches:
    """References and queries with RefER, cropped."""
    program, policy = referenced_program(network), Clustering(classifier())
    calibrated = {"joined": joined, "tiny": tiny}[network]()
    return StoredPatches.of_referenced(calibrated, program, Layout(18, 4), policy)


def averaged(patches: StoredPatches) -> StoredPatches:
    """The same with another layout, whose patches overlap by more than half."""
    return replace(patches, layout=Layout(14, 9, "average"))


@cache
def edges_artefact() -> Path:
    """The artefact of `edges`, named `edges`. Do not change it: copy it first."""
    return _artefact("edges", edges())


@cache
def clusters_artefact() -> Path:
    """The artefact of `clusters`, named `clusters`. Do not change it: copy it first."""
    return _artefact("clusters", clusters())


@cache
def seamless_artefact() -> Path:
    """The artefact of `seamless`, named `seamless`. Do not change it: copy it first."""
    return _artefact("seamless", seamless())


@cache
def seamless_clusters_artefact() -> Path:
    """The artefact of `seamless_clusters`, named `joined`. Do not change it: copy it first."""
    return _artefact("joined", seamless_clusters())


@cache
def referenced_artefact() -> Path:
    """The artefact of `referenced`, named `referenced`. Do not change it: copy it first."""
    return _artefact("referenced", referenced())


def _artefact(name: str, patches: StoredPatches) -> Path:
    return build_patch_artefact(patches, Path(_FOLDER.name) / name, load_target("host"), name=name, choose=plain)


def ramp(height: int, width: int) -> NDArray[np.uint8]:
    """Noise that becomes stronger from left to right, on a grey that becomes lighter from top to bottom."""
    noise = np.random.default_rng(1).integers(-128, 128, (height, width, 3)) * np.linspace(0, 1, width)[None, :, None]
    return np.clip(noise + np.linspace(30, 220, height)[:, None, None], 0, 255).astype(np.uint8)


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Images that are easily got wrong, by what is special about them."""
    return {
        "ramp": ramp(61, 83),
        "textures": textures(61, 83),
        "a few patches": random_images(1, 33, 50, seed=5)[0],
        "smaller than a patch": random_images(1, 5, 9)[0],
        "one pixel": random_images(1, 1, 1)[0],
        "one row": random_images(1, 1, 70)[0],
        "one patch": random_images(1, 16, 16)[0],
        "one more column": random_images(1, 16, 17)[0],
        "grey": np.full((40, 40, 3), 128, np.uint8),
        "all alike": np.tile(random_images(1, 8, 8)[0], (6, 5, 1)),
    }
