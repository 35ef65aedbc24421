"""CARN and CARN-M."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qsearch.errors import QsearchError
from qsearch.models import load, save_weights
from qsearch.models.carn import CARN


@pytest.mark.parametrize("name", ["carn_m_x4", "carn_m_x3", "carn_x2"])
def test_architecture(check_architecture: Callable[[str], Any], name: str) -> None:
    check_architecture(name)


def test_one_head_of_a_checkpoint_with_several(tmp_path: Path) -> None:
    heads = {upscale: CARN(upscale, channels=8, groups=2, mobile=True) for upscale in (2, 3, 4)}
    state = {}
    for upscale, module in heads.items():
        module.load_state_dict(
            {k: v for k, v in heads[2].state_dict().items() if not k.startswith("up.")}, strict=False
        )
        state |= {k.replace("up.", f"up.{upscale}."): v for k, v in module.state_dict().items()}
    torch.save(state, tmp_path / "several.pt")
    image = torch.rand(1, 3, 7, 9)
    for text, upscale in ((":x2", 2), (":x3", 3), ("", 4)):
        model = load(f"{tmp_path / 'several.pt'}{text}")
        assert model.upscale == upscale
        torch.testing.assert_close(model.module(image), heads[upscale](image), rtol=0, atol=0)
    with pytest.raises(QsearchError, match=r"several.pt does not upscale by 5: it has heads for ×2, ×3, ×4"):
        load(f"{tmp_path / 'several.pt'}:x5")


def test_asking_another_network_for_a_head(tmp_path: Path) -> None:
    save_weights(tmp_path / "one.safetensors", CARN(2, channels=8), {})
    assert load(f"{tmp_path / 'one.safetensors'}:x2").family == "carn"
    with pytest.raises(QsearchError, match=r"one.safetensors upscales by 2, not by 4"):
        load(f"{tmp_path / 'one.safetensors'}:x4")
