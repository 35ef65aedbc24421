"""The whole way of the data on a tiny network, stage by stage; every executor gives the same bytes."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch.fx import GraphModule

from qsearch import samples
from qsearch.allocation import Allocation, uniform
from qsearch.commands.compile import compile_source
from qsearch.commands.report import report_run
from qsearch.commands.search import search_run, selected_point
from qsearch.commands.select import select_point
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.compile.manifest import read_manifest
from qsearch.compile.run_artefact import run_executable, verify
from qsearch.integer import ops
from qsearch.integer.onnx_export import export_onnx
from qsearch.integer.storage import run_program
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.run import Run, RunConfig
from qsearch.search import load_history
from qsearch.target import load_target
from tests.small_networks import random_images
from tests.tiny import TINY

CONSOLE = Console(stderr=True)
TRIALS = 12
IMAGE = random_images(1, 45, 53, seed=3)[0]


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    """1. A user's file becomes a float network; it is prepared and calibrated without ground truth."""
    return CalibratedNetwork.make(load(TINY), samples.calibration_images(2, 2))


@pytest.fixture(scope="module")
def allocation(network: CalibratedNetwork) -> Allocation:
    """2. Every site gets its own bits."""
    free = [site for site in network.sites if len(site.choices) > 1]
    return uniform(network.sites, 8, 8).replace({site.name: 3 + index % 6 for index, site in enumerate(free)})


@pytest.fixture(scope="module")
def program(network: CalibratedNetwork, allocation: Allocation) -> GraphModule:
    """3. Lowering gives a program of integers."""
    return network.program(allocation)


@pytest.fixture(scope="module")
def expected(program: GraphModule) -> NDArray[np.uint8]:
    """4. The reference executor decides what is right."""
    return np.asarray(run_program(program, as_tensor(IMAGE))[0].permute(1, 2, 0))


@pytest.fixture(scope="module")
def artefact(program: GraphModule, allocation: Allocation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5. The program becomes a static executable."""
    folder = tmp_path_factory.mktemp("tiny") / "artefact"
    return build_artefact(program, folder, load_target("host"), name="tiny", allocation=allocation)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """6. A search in a folder of its own."""
    config = RunConfig(TINY, "samples", "samples", "psnr_y_db,bitops", size=(48, 64), image_limit=1)
    run = Run.create(tmp_path_factory.mktemp("tiny") / "run", config)
    found = search_run(run, str(TRIALS), CONSOLE)
    assert found["trials"] == TRIALS
    return run


def as_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def test_every_convolution_and_skip_operand_is_a_site(network: CalibratedNetwork) -> None:
    convolutions = ("head", "conv1", "conv2", "up", "tail")
    assert network.model.upscale == 2
    names = {site.name for site in network.sites}
    assert {f"{name}.{role}" for name in convolutions for role in ("weight", "input")} < names
    assert [site.name for site in network.sites if site.kind == "skip"] == ["conv2.skip"]
    fixed = [site.name for site in network.sites if len(site.choices) == 1]
    assert fixed == ["head.input"], "only the uint8 image has no choice"


def test_the_program_holds_integer_operations_alone(program: GraphModule) -> None:
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert called == {ops.conv_acc, ops.add_skip, ops.requantize, ops.pixel_shuffle}
    assert {node.op for node in program.graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}


def test_at_8_bits_the_integer_network_is_close_to_the_float_network(network: CalibratedNetwork) -> None:
    result = HostNetwork(network.program(uniform(network.sites, 8, 8))).run(IMAGE)
    assert np.abs(result.astype(int) - network.model.run(IMAGE)).mean() < 1.0


def test_compiled_kernels_give_the_reference_bytes(program: GraphModule, expected: NDArray[np.uint8]) -> None:
    assert np.array_equal(HostNetwork(program).run(IMAGE), expected)


def test_onnx_runtime_gives_the_reference_bytes(program: GraphModule, expected: NDArray[np.uint8]) -> None:
    session = onnxruntime.InferenceSession(export_onnx(program, "exact").SerializeToString())
    (result,) = session.run(None, {"image": as_tensor(IMAGE).numpy()})
    assert np.array_equal(result[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("tile", [None, 17, 30])
def test_the_executable_gives_the_reference_bytes(
    artefact: Path, expected: NDArray[np.uint8], tile: int | None
) -> None:
    assert np.array_equal(run_executable(artefact, IMAGE, tile=tile), expected)


def test_the_artefact_verifies(artefact: Path, allocation: Allocation) -> None:
    assert verify(artefact).ok
    assert Allocation.load(artefact / "allocation.json") == allocation


def test_search_select_compile_report(run: Run) -> None:
    chosen = select_point([run.folder], {"max_drop_db": 60.0}, CONSOLE)
    assert selected_point(run).number == chosen["point"]
    artefact = run.folder / "artefact"
    compiled = compile_source(run.folder, artefact, None, None, None, CONSOLE)
    assert compiled["psnr_y_db"] == pytest.approx(chosen["psnr_y_db"], abs=1e-9), "what was searched is what is shipped"
    assert verify(artefact).ok
    assert read_manifest(artefact)["upscale"] == 2
    page = report_run(run.folder, None, CONSOLE, artefact).read_text()
    assert "qsearch upscale photo.png" in page
    assert page.count("data:image/png;base64,") >= 3
    loaded = re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)\s*=\s*["']?(?!data:)([^"'\s>]+)""", page)
    assert loaded == [], "the page loads nothing from elsewhere"


def test_the_winner_is_not_the_costliest(run: Run) -> None:
    chosen = select_point([run.folder], {"max_drop_db": 60.0}, CONSOLE)
    w8a8 = uniform(run.network().sites, 8, 8)
    assert chosen["bitops"] < run.network().coster((48, 64), [])(w8a8)["bitops"]


def test_the_same_search_again_does_nothing(run: Run) -> None:
    before = load_history(run.folder / "search").points
    assert search_run(Run.create(run.folder, run.config), str(TRIALS), CONSOLE)["trials"] == TRIALS
    assert load_history(run.folder / "search").points == before
