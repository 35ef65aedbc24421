"""One small artefact, built once per test process: every build links with zig, which takes a second."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.allocation import Allocation, SiteAllocation
from qsearch.compile.artefact import build_artefact
from qsearch.target import load_target
from tests.random_programs import Layer, build_program

_FOLDER = tempfile.TemporaryDirectory(prefix="qsearch-artefact-")
ALLOCATION = Allocation(sites={"head.weight": SiteAllocation(bits=4)})


@cache
def small_program() -> GraphModule:
    """An integer program with a halo of 5 pixels, skips, PReLU, two quantizers and a shuffle by 3."""
    layers = [
        Layer(12, kernel=(5, 5), prelu=True),
        Layer(12, quantizers=2),
        Layer(12, skips=1),
        Layer(3, skips=1, shuffle=3),
    ]
    program = build_program(layers, seed=4)
    for name, value in list(program.named_buffers()):
        setattr(program, name, value.clone())  # numpy arrays may be shared
    return program


@cache
def small_artefact() -> Path:
    """The artefact of `small_program` for this machine, named `small`. Do not change it: copy it first."""
    folder = Path(_FOLDER.name) / "artefact"
    psnr = {"psnr_y_db": 30.0, "protocol": "none: random weights"}
    return build_artefact(
        small_program(), folder, load_target("host"), name="small", allocation=ALLOCATION, model="random", psnr=psnr
    )


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """A random image."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
