"""Names of configurations and the weights that go with them."""

from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.models import build, load, save_weights, with_weights

NAME = "edsr_r1f8_x2"


def weights(path: Path, name: str = NAME) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, build(name).module, {})
    return path


def test_what_is_no_configuration_stays_as_it_is() -> None:
    for name in ("abpn_x3", "net.safetensors", "file.py:network", "unknown"):
        assert with_weights(name) == name


@pytest.mark.parametrize("place", [f"{NAME}.safetensors", f"{NAME}/weights.safetensors", "anything.safetensors"])
def test_weights_are_found_by_name_by_folder_and_by_shape(tmp_path: Path, place: str) -> None:
    other = weights(tmp_path / "another.safetensors", "edsr_r2f8_x2")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    path = weights(tmp_path / place)
    found = with_weights(NAME, tmp_path)
    assert found == str(path) != str(other)
    assert load(found).upscale == 2


def test_no_weights_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=f"{NAME} is a configuration without trained weights: train it"):
        with_weights(NAME)
    with pytest.raises(QsearchError, match="has no weights of"):
        with_weights(NAME, tmp_path)
    with pytest.raises(QsearchError, match="does not exist"):
        with_weights(NAME, tmp_path / "absent")
    with pytest.raises(QsearchError, match="without trained weights"):
        load(NAME)
    weights(tmp_path / f"{NAME}.safetensors", "edsr_r2f8_x2")
    with pytest.raises(QsearchError, match="are not of"):
        with_weights(NAME, tmp_path)
