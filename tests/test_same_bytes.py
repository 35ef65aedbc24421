"""What is searched is what is shipped: reference, host kernels, executable and exact ONNX agree on real photographs."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from qsearch.allocation import Allocation, uniform
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.compile.run_artefact import run_executable
from qsearch.images import read_lr_images, read_pairs
from qsearch.integer.onnx_export import export_onnx
from qsearch.integer.storage import run_program
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.target import load_target


def mixed(network: CalibratedNetwork) -> Allocation:
    """Bits that differ from site to site, so that values have readers of different bits."""
    low = uniform(network.sites, 5, 4, 8)
    free = [site.name for site in network.sites if len(site.choices) > 1]
    return low.replace({name: 3 + index % 6 for index, name in enumerate(free)})


@pytest.mark.parametrize("model", ["abpn_x3", "rnet9_x4"])
def test_no_byte_differs_on_set5(model: str, shared_data: Path, tmp_path: Path) -> None:
    loaded = load(model if model == "abpn_x3" else shared_data / "weights" / f"{model}.pt")
    network = CalibratedNetwork.make(loaded, read_lr_images(shared_data / "calibration", 2))
    program = network.program(mixed(network))
    host = HostNetwork(program)
    artefact = build_artefact(program, tmp_path / "artefact", load_target("host"), name=model)
    session = onnxruntime.InferenceSession(export_onnx(program, "exact").SerializeToString())
    for pair in read_pairs(shared_data / "benchmarks" / "Set5" / f"x{loaded.upscale}", loaded.upscale):
        planes = np.ascontiguousarray(pair.lr.transpose(2, 0, 1)[None])
        expected = run_program(program, torch.from_numpy(planes)).numpy()
        image = expected[0].transpose(1, 2, 0)
        assert np.array_equal(host.run(pair.lr), image), pair.name
        assert np.array_equal(run_executable(artefact, pair.lr), image), pair.name
        assert np.array_equal(session.run(None, {"image": planes})[0], expected), pair.name
