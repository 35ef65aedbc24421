"""Names, checkpoints and factories; every mistake gives one line that names the thing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import QsearchError
from qsearch.models import build, families, load, read_metadata, save_weights
from qsearch.models.abpn import ABPN


def fails(source: object, pattern: str) -> None:
    with pytest.raises(QsearchError, match=pattern) as caught:
        load(str(source))
    assert "\n" not in str(caught.value)


def test_the_bundled_model_runs_on_an_image() -> None:
    model = load("abpn_x3")
    assert (model.family, model.upscale, model.white) == ("abpn", 3, 255.0)
    flat = np.full((20, 24, 3), 128, np.uint8)
    result = model.run(flat)
    assert (result.shape, result.dtype) == ((60, 72, 3), np.uint8)
    assert abs(int(result[30, 36, 1]) - 128) <= 3


def test_every_architecture_is_found_and_builds_its_example() -> None:
    assert list(families()) == sorted(families())
    assert {"abpn", "carn", "edsr", "imdn", "srresnet"} <= families().keys()
    for family in families().values():
        assert build(family.example).family == family.name


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build("abpn_f8_x3")
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_names_list_what_exists() -> None:
    fails("abpn_x9", r"no model 'abpn_x9': give abpn_x3.*a checkpoint file .*or file\.py:factory")
    with pytest.raises(QsearchError, match=r"no configuration 'vgg'.*abpn_f28_x3, carn_m_x4, edsr_r16f64_x4"):
        build("vgg")


class Bomb:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    if zipped:
        torch.save({"weight": torch.zeros(1), "bomb": Bomb(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"bomb": Bomb(mark)}))
    fails(file, r"evil\.pt is damaged or holds Python objects besides tensors, and is not run")
    assert not mark.exists()


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    fails(tmp_path / "absent.pt", r"absent\.pt does not exist")
    for name in ("cut.safetensors", "cut.pt"):
        whole = tmp_path / f"whole_{name}"
        if name.endswith("pt"):
            torch.save(ABPN().state_dict(), whole)
        else:
            save_weights(whole, ABPN(), {})
        (tmp_path / name).write_bytes(whole.read_bytes()[:5000])
        fails(tmp_path / name, f"{name} is damaged")
    (tmp_path / "empty.pth").touch()
    fails(tmp_path / "empty.pth", r"empty\.pth is damaged")
    (tmp_path / "text.safetensors").write_text("hello")
    fails(tmp_path / "text.safetensors", "damaged or no safetensors")


def test_nan_weights_are_named(tmp_path: Path) -> None:
    module = ABPN()
    module.convs[2].bias.data[4] = float("nan")
    save_weights(tmp_path / "nan.safetensors", module, {})
    fails(tmp_path / "nan.safetensors", r"convs\.2\.bias holds NaN")


def test_state_dicts_that_do_not_fit_name_their_keys(tmp_path: Path) -> None:
    state = ABPN().state_dict()

    def saved(changed: object) -> Path:
        torch.save(changed, tmp_path / "net.pt")
        return tmp_path / "net.pt"

    missing = {key: value for key, value in state.items() if key != "convs.3.bias"}
    fails(saved(missing), r"looks like abpn but lacks convs\.3\.bias")
    fails(saved({**state, "extra.weight": torch.zeros(1)}), r"has unknown extra\.weight")
    fails(saved({**state, "convs.1.weight": torch.zeros(28, 28, 1, 1)}), r"convs\.1\.weight is \(28, 28, 1, 1\), not")
    no_head = {key: value for key, value in state.items() if not key.startswith("convs.0")}
    fails(saved(no_head), r"looks like abpn but lacks convs\.0\.weight")
    fails(saved({**state, "convs.6.weight": torch.zeros(())}), r"looks like abpn but its shapes fit none: convs\.0")
    fails(saved({f"layer{i}.w": torch.zeros(1) for i in range(9)}), r"no known architecture .*layer0\.w.*and 5 more")
    fails(saved({"a": torch.zeros(1), "epoch": 3}), "epoch is no tensor")
    fails(saved([1, 2]), "holds no state dict")


def test_metadata_travels_with_the_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "net.safetensors", ABPN(), {"training": {"seed": 3}})
    assert read_metadata(tmp_path / "net.safetensors") == {"training": {"seed": 3}}
    assert read_metadata(tmp_path / "other.pt") == {}


FACTORIES = """
import torch
from torch import nn

def doubler():
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    net.white = 255.0
    return net

def number(): return 3
def broken(): raise ValueError("no luck")
def valid(): return nn.Conv2d(3, 3, 3)
def gray(): return nn.Conv2d(1, 1, 3, padding=1)
def nan():
    net = nn.Conv2d(3, 3, 1)
    net.bias.data[0] = float("nan")
    return net
"""


def test_factories(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FACTORIES)
    model = load(f"{file}:doubler")
    assert (model.name, model.family, model.upscale, model.white) == ("doubler", "custom", 2, 255.0)
    assert not model.module.training
    fails(f"{file}:number", "number returned a int, not a torch.nn.Module")
    fails(f"{file}:broken", "broken failed: ValueError: no luck")
    fails(f"{file}:valid", "valid turns 1x3x24x32 into 1x3x22x30: no whole upscale")
    fails(f"{file}:gray", "gray fails on a 1x3x24x32 image")
    fails(f"{file}:nan", "bias holds NaN")
    fails(f"{file}:other", "has no function 'other'; it has broken, doubler")
    fails(f"{tmp_path / 'absent.py'}:net", r"absent\.py does not exist")
    file.write_text("import this is wrong")
    fails(f"{file}:net", "net failed: SyntaxError")
