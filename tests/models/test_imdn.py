"""IMDN with and without its attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qsearch.errors import QsearchError
from qsearch.models import build, load, save_weights
from qsearch.models.imdn import IMDN
from qsearch.passes import prepare


@pytest.mark.parametrize("name", ["imdn_x4", "imdn_lite_x4", "imdn_lite_x2"])
def test_architecture(check_architecture: Callable[[str], Any], name: str) -> None:
    check_architecture(name)


@pytest.mark.parametrize("attention", [False, True])
def test_saved_weights_are_recognised(attention: bool, tmp_path: Path) -> None:
    save_weights(tmp_path / "mine.safetensors", IMDN(3, channels=16, blocks=2, attention=attention), {})
    model = load(tmp_path / "mine.safetensors")
    assert (model.family, model.upscale) == ("imdn", 3)


def test_attention_has_no_integer_form_and_the_layer_is_named() -> None:
    with pytest.raises(QsearchError, match=r"in layer 'blocks\.0\.attention': mean .* no integer form: use a variant"):
        prepare(build("imdn_x4").module)
