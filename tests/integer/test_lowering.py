"""The integer contract: the program computes what the fake-quantized graph shows, in integers, for every allocation."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.lowering import lower
from qsearch.integer.onnx_export import export_onnx
from qsearch.integer.storage import load_program, run_program, save_program
from qsearch.passes import prepare, sites
from qsearch.quant import Calibration, calibrate, fake_quantized
from tests.small_networks import SmallAnchor, SmallJoins, SmallNetwork, random_images, randomized


def calibrated(model: nn.Module) -> Calibration:
    return calibrate(prepare(randomized(model)), random_images(), white=1.0)


CALIBRATIONS = [
    calibrated(SmallNetwork()),
    calibrated(SmallNetwork(norm=False, relu_after=False, upscale=3)),
    calibrated(SmallAnchor()),
    calibrated(SmallJoins()),
]
IMAGE = torch.from_numpy(random_images(1, seed=7)[0]).permute(2, 0, 1)[None]


class Shallow(nn.Module):
    """Two layers with a skip operand: too shallow for a rounding tie to spread."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.act = nn.PReLU(12)
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head = self.act(self.head(x - 0.4))
        return nn.functional.pixel_shuffle(self.conv(head) + head, 2)


SHALLOW = [calibrated(Shallow()), CALIBRATIONS[2]]


@st.composite
def allocations(draw: st.DrawFn, among: list[Calibration] = CALIBRATIONS) -> tuple[Calibration, Allocation]:
    calibration = among[draw(st.integers(0, len(among) - 1))]
    chosen = {
        site.name: SiteAllocation(
            bits=draw(st.sampled_from(site.choices)),
            observer=draw(st.sampled_from([None, "minmax", "percentile", "mse"])),
        )
        for site in sites(calibration.graph)
    }
    return calibration, Allocation(sites=chosen)


@settings(max_examples=20, deadline=None)
@given(allocations(SHALLOW))
def test_the_program_is_the_fake_quantized_graph_in_integers(case: tuple[Calibration, Allocation]) -> None:
    """Only near-ties, frequent where few values meet few values, can fall to the other side."""
    calibration, allocation = case
    result = run_program(lower(calibration, allocation), IMAGE).float()
    shown = fake_quantized(calibration, allocation)(IMAGE / 255 * calibration.white)
    shown = (shown * (255 / calibration.white)).round().clamp(0, 255)
    assert (result != shown).float().mean() < 0.1


@settings(max_examples=12, deadline=None)
@given(allocations())
def test_stored_and_exact_onnx_give_the_same_bytes(case: tuple[Calibration, Allocation]) -> None:
    calibration, allocation = case
    program = lower(calibration, allocation)
    expected = run_program(program, IMAGE)
    with tempfile.TemporaryDirectory() as folder:
        save_program(program, folder)
        assert torch.equal(run_program(load_program(folder), IMAGE), expected)
    session = onnxruntime.InferenceSession(export_onnx(program, "exact").SerializeToString())
    assert np.array_equal(session.run(None, {"image": IMAGE.numpy()})[0], expected.numpy())


def test_qdq_onnx_without_skips_gives_the_same_bytes_at_8_bits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    calibration = calibrated(model)
    program = lower(calibration, uniform(sites(calibration.graph), 8, 8))
    session = onnxruntime.InferenceSession(export_onnx(program).SerializeToString())
    result = session.run(None, {"image": IMAGE.numpy()})[0]
    assert np.array_equal(result, run_program(program, IMAGE).numpy())


@pytest.mark.parametrize("bits", [8, 4])
def test_qdq_onnx_stays_close(bits: int) -> None:
    """Skips are added in float there, and the optimizer may round biases; without it only ties differ."""
    for calibration in CALIBRATIONS:
        program = lower(calibration, uniform(sites(calibration.graph), bits, bits))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(export_onnx(program).SerializeToString(), options)
        result = session.run(None, {"image": IMAGE.numpy()})[0].astype(int)
        assert np.abs(result - run_program(program, IMAGE).numpy().astype(int)).mean() < 0.1


def test_each_lattice_uses_at_most_two_to_the_bits_values() -> None:
    calibration = CALIBRATIONS[0]
    program = lower(calibration, uniform(sites(calibration.graph), 3, 3, 4))
    seen: list[int] = []

    class Count(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> torch.Tensor:
            value: torch.Tensor = super().run_node(n)
            if n.target is ops.requantize:
                seen.append(len(value.unique()))
            return value

    Count(program).run(IMAGE)
    assert max(seen[:-1]) <= 16
    assert sorted(seen[:-1])[len(seen) // 2 - 2] <= 8


def test_a_value_with_readers_of_different_bits_is_written_once_per_quantizer() -> None:
    calibration = CALIBRATIONS[0]
    same = lower(calibration, uniform(sites(calibration.graph), 8, 8, 8))
    different = lower(calibration, uniform(sites(calibration.graph), 4, 4, 8))

    def requantized_from_head(program: torch.fx.GraphModule) -> int:
        acc = next(node for node in program.graph.nodes if node.target is ops.conv_acc)
        return sum(user.target is ops.requantize for user in acc.users)

    assert requantized_from_head(same) == 1
    assert requantized_from_head(different) == 2


def test_an_allocation_of_another_network_is_refused() -> None:
    allocation = uniform(sites(CALIBRATIONS[2].graph), 8, 8)
    with pytest.raises(QsearchError, match="does not fit this network"):
        lower(CALIBRATIONS[0], allocation)


def test_a_damaged_program_file_is_named(tmp_path: Path) -> None:
    save_program(lower(CALIBRATIONS[2], uniform(sites(CALIBRATIONS[2].graph), 8, 8)), tmp_path)
    parameters = tmp_path / "program.safetensors"
    parameters.write_bytes(parameters.read_bytes()[:100])
    with pytest.raises(QsearchError, match=r"program\.safetensors"):
        load_program(tmp_path)
