"""Published weights give their published PSNR: the proof that they are loaded right."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.images import read_pairs
from qsearch.metrics import Protocol, psnr
from qsearch.models import LoadedModel, load

PUBLISHED = {
    "rnet9_x4.pt": ("edsr", 31.867, 28.388),
    "edsr_r8f64_x2.pt": ("edsr", 37.804, 33.379),
    "srresnet_bn8_x4.pt": ("srresnet", 31.884, 28.432),
    "abpn_x3_fp32.pt": ("abpn", 33.536, 29.778),
    "carn_m_x234.pt:x4": ("carn", 31.885, 28.422),
    "imdn_x4.pth": ("imdn", 32.211, 28.587),
}


def mean_psnr(model: LoadedModel, folder: Path) -> float:
    protocol = Protocol("y", model.upscale)
    pairs = read_pairs(folder / f"x{model.upscale}", model.upscale)
    return float(np.mean([psnr(model.run(pair.lr), pair.hr, protocol) for pair in pairs]))


@pytest.mark.parametrize("file", PUBLISHED)
def test_set5_and_set14(shared_data: Path, file: str) -> None:
    family, set5, set14 = PUBLISHED[file]
    model = load(shared_data / "weights" / file)
    assert model.family == family
    assert mean_psnr(model, shared_data / "benchmarks" / "Set5") == pytest.approx(set5, abs=0.005)
    assert mean_psnr(model, shared_data / "benchmarks" / "Set14") == pytest.approx(set14, abs=0.005)


def test_the_bundled_model(shared_data: Path) -> None:
    model = load("abpn_x3")
    assert sum(weight.numel() for weight in model.module.parameters()) == 42_539
    assert mean_psnr(model, shared_data / "benchmarks" / "Set5") >= 33.0
