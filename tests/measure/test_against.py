"""`bench --against` on a tiny network: times, ratios, agreement and what was left out."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.allocation import uniform
from qsearch.errors import QsearchError
from qsearch.measure.against import OURS, measure_against, picture, sqnr_db
from qsearch.measure.peers import PEERS, Peer, Run, Subject
from qsearch.models import LoadedModel
from qsearch.network import CalibratedNetwork
from qsearch.report.peers_page import write_peers_page
from tests.small_networks import SmallJoins, random_images, randomized


def test_ours_beside_a_peer_that_runs_and_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(given: Subject, threads: int) -> Run:
        raise QsearchError("refuses cannot run this network")

    monkeypatch.setitem(PEERS, "refuses", Peer("refuses", "Refuses INT8", "refuses", refuses))
    model = LoadedModel(randomized(SmallJoins()).requires_grad_(False), "joins", "custom", 2, 1.0)
    images = random_images(2)
    network = CalibratedNetwork.make(model, images)
    program = network.program(uniform(network.sites, 8, 8))
    run = measure_against(program, Subject(model, images, (20, 28)), ["onnxruntime", "refuses", "torch"], 1, 2)
    assert [row.name for row in run.rows] == [OURS, "onnxruntime", "torch"]
    assert run.refused == {"refuses": "refuses cannot run this network"}
    ours, peer, floating = run.rows
    assert ours.ours_over_this is None
    assert peer.ours_over_this is not None
    assert run.fastest_int8 is peer
    assert floating.sqnr_float_db is None, "the float network itself"
    assert ours.sqnr_float_db is not None
    assert ours.sqnr_float_db > 25
    write_peers_page(tmp_path / "page.html", "joins", [("small", run)], {"processor": run.conditions.cpu})
    page = (tmp_path / "page.html").read_text()
    assert "ONNX Runtime INT8" in page
    assert "refuses cannot run this network" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_pictures_and_their_agreement() -> None:
    images = random_images(2, 24, 32)
    large = picture(images, (50, 70))
    assert large.shape == (50, 70, 3)
    np.testing.assert_array_equal(large[:24, :32], images[0])
    assert sqnr_db(large, large) is None
    noisy = np.clip(large.astype(int) + 1, 0, 255).astype(np.uint8)
    assert sqnr_db(noisy, large) == pytest.approx(10 * np.log10((large.astype(float) ** 2).mean()), abs=0.5)
