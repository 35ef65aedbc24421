"""One tracker and one board of each kind for all tests of devices."""

from collections.abc import Iterator

import pytest

from tests.measure.boards import our_board, tracker_process, tvm_board


@pytest.fixture(scope="package")
def tracker() -> Iterator[str]:
    """Address of a tracker on loopback."""
    with tracker_process() as address:
        yield address


@pytest.fixture(scope="package")
def tvm_server(tracker: str) -> Iterator[str]:
    """Key of a board that runs TVM's own server."""
    with tvm_board(tracker, "tvm"):
        yield "tvm"


@pytest.fixture(scope="package")
def our_server(tracker: str) -> Iterator[str]:
    """Key of a board that runs our server."""
    with our_board(tracker, "ours"):
        yield "ours"


@pytest.fixture(scope="package")
def emulated_server(tracker: str) -> Iterator[str]:
    """Key of a board that runs our server under aarch64 emulation."""
    with our_board(tracker, "emulated", emulated=True):
        yield "emulated"
