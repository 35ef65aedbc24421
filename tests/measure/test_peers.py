"""Every peer runs the same network: float ones to a grey level, int8 ones to a close picture; a missing one is said."""

import importlib.util

import numpy as np
import pytest
import torch

from qsearch.errors import QsearchError
from qsearch.measure import peers
from qsearch.measure.against import sqnr_db
from qsearch.measure.peers import PEERS, Peer, Subject, open_peer
from qsearch.models import LoadedModel
from tests.small_networks import SmallAnchor, SmallJoins, SmallNetwork, random_images, randomized

TOOLKITS = {"litert": "ai_edge_litert", "ncnn": "ncnn", "openvino": "nncf"}
NETWORKS = {"small": (SmallNetwork, 2), "anchor": (SmallAnchor, 3), "joins": (SmallJoins, 2)}
SIZE = (24, 32)


def subject(name: str) -> Subject:
    torch.manual_seed(0)
    make, upscale = NETWORKS[name]
    model = LoadedModel(randomized(make()).requires_grad_(False), name, "custom", upscale, 1.0)
    return Subject(model, random_images(3, *SIZE), SIZE)


def needs(name: str) -> None:
    toolkit = TOOLKITS.get(name)
    if toolkit and importlib.util.find_spec(toolkit) is None:
        pytest.skip(f"{toolkit} is not installed: pip install 'qsearch[peers]'")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PEERS)
def test_the_same_picture(name: str, network: str) -> None:
    """Mean shifts, residual blocks, PReLU, joined and split values, groups, repeated channels, clips, shuffles."""
    needs(name)
    given = subject(network)
    image = given.images[0]
    result, expected = open_peer(name, given, 1)(image), given.model.run(image)
    assert (result.shape, result.dtype) == (expected.shape, np.uint8)
    if PEERS[name].title.endswith("FP32"):
        assert np.abs(result.astype(int) - expected).max() <= 1
    else:
        agreement = sqnr_db(result, expected)
        assert agreement is None or agreement > 25


def test_an_unknown_peer_lists_the_known() -> None:
    with pytest.raises(QsearchError, match=r"no peer 'tensorrt': known are litert, ncnn, onnxruntime"):
        open_peer("tensorrt", subject("small"), 1)


def test_a_missing_toolkit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(given: Subject, threads: int) -> peers.Run:
        raise ModuleNotFoundError("No module named 'absent'", name="absent")

    monkeypatch.setitem(PEERS, "absent", Peer("absent", "Absent INT8", "absent", absent))
    with pytest.raises(QsearchError, match=r"peer absent is not installed \(absent\): pip install 'qsearch\[peers\]'"):
        open_peer("absent", subject("small"), 1)
