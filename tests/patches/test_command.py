"""`qsearch patches`, and what compile, upscale and verify make of its folder."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.compile.manifest import read_manifest
from qsearch.images import read_image, save_image
from qsearch.patches import StoredPatches
from tests.command_line import refuse, succeed
from tests.patches.networks import textures
from tests.tiny import TINY

SMALL = ("--patch", 16, "--limit", 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`patches` by edges, and `photo.png`."""
    folder = tmp_path_factory.mktemp("work")
    succeed(
        "patches", TINY, "--levels", "8-3", "--policy", "edges", "--out", folder / "patches", "--own-ranges", *SMALL
    )
    save_image(folder / "photo.png", textures(40, 56))
    return folder


def test_scores_say_what_is_saved(work: Path, tmp_path: Path) -> None:
    options = ("--policy", "clusters", "--classes", 3, "--share", "0.4", "--merge", "average")
    found = succeed("patches", TINY, "--levels", "8-3", "--out", tmp_path / "out", *options, *SMALL)
    high, low = (found["whole_images"][level] for level in ("8", "3"))
    assert low["bitops"] < found["bitops"] < high["bitops"] * found["overwork"] * 1.1
    assert found["psnr"]["psnr_y_db"] > 0
    assert 0.2 < found["shares"]["8"] < 0.7
    assert found["shares"]["8"] + found["shares"]["3"] == pytest.approx(1)


def test_the_artefact_and_this_process_give_the_same_picture(work: Path, tmp_path: Path) -> None:
    photo, bits = work / "photo.png", tmp_path / "bits.png"
    here = succeed("upscale", photo, "--patches", work / "patches", "-o", tmp_path / "a.png", "--show-bits", bits)
    assert (here["height"], here["width"]) == (80, 112)
    assert set(here["patches"]) == {"8", "3"}
    assert StoredPatches.load(work / "patches").layout.seamless, "by default"
    assert read_image(bits).shape == (80 + 22, 112, 3)
    made = succeed("compile", work / "patches", "--out", tmp_path / "artefact", "--name", "net")
    assert made["psnr_y_db"] > 0
    assert read_manifest(tmp_path / "artefact")["psnr"]["psnr_y_db"] == made["psnr_y_db"]
    assert succeed("verify", tmp_path / "artefact")["ok"]
    succeed("upscale", photo, "--artefact", tmp_path / "artefact", "-o", tmp_path / "b.png")
    again = succeed("upscale", photo, "--patches", tmp_path / "artefact", "-o", tmp_path / "c.png")
    assert again["patches"] == here["patches"]
    for name in ("b.png", "c.png"):
        assert np.array_equal(read_image(tmp_path / name), read_image(tmp_path / "a.png")), name


def test_refer_is_trained_scored_and_stored(work: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "originals" / "a.png", textures(80, 96, 24))
    options = ("--policy", "clusters", "--classes", 3, "--refer", 1, "--iterations", 2)
    found = succeed(
        "patches",
        TINY,
        "--levels",
        "8-3",
        "--out",
        tmp_path / "out",
        "--train",
        tmp_path / "originals",
        *options,
        *SMALL,
    )
    assert found["refer"] == ["conv2"]
    assert {path.name for path in tmp_path.iterdir()} == {"originals", "out"}, "no training is left"
    shown = succeed("upscale", work / "photo.png", "--patches", tmp_path / "out", "-o", tmp_path / "a.png")
    stored = StoredPatches.load(tmp_path / "out")
    assert np.array_equal(read_image(tmp_path / "a.png"), stored.reference(read_image(work / "photo.png")))
    assert set(shown["patches"]) == {"8", "3"}
    assert len(stored.repairs) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "dice"), "--policy must be edges, relative or clusters"),
        (("--levels", "9-4"), "not of the form 8-4"),
        (("--patch", 8, "--overlap", 8), "does not fit patches of 8"),
        (("--overlap", 3), "use an even number"),
        (("--refer", 1), "--refer and --train go together"),
        (("--refer", 1, "--train", "absent"), "--refer goes with --policy clusters"),
        (("--refer", 1, "--train", "absent", "--policy", "clusters", "--levels", "8-6-4"), "RefER needs two levels"),
        (("--refer", 9, "--train", "absent", "--policy", "clusters"), "fewer than 9 blocks"),
        (("--merge", "blend"), "--merge must be crop or average"),
        (("--merge", "crop", "--overlap", "none"), "seamless patches leave nothing to merge"),
        (("--overlap", "some"), "--overlap is none or a number of pixels"),
        (
            ("--refer", 1, "--train", "absent", "--policy", "clusters", "--overlap", "none"),
            "every patch runs by itself",
        ),
        (("--share", "much"), "no list of numbers"),
        (("--share", "0.2,0.2"), "a number for each of 2 levels but the last"),
        (("--share", "2"), "shares of the levels"),
        (("--share", "0.2,0.2", "--policy", "clusters"), "one number where clusters decide"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(options: tuple[object, ...], words: str, tmp_path: Path) -> None:
    assert words in refuse("patches", TINY, "--out", tmp_path / "out", "--limit", 1, *options)
    assert list(tmp_path.iterdir()) == []


def test_upscale_needs_one_of_two(work: Path, tmp_path: Path) -> None:
    photo, out = work / "photo.png", tmp_path / "out.png"
    assert "either --artefact or --patches" in refuse("upscale", photo, "-o", out)
    assert "--show-bits goes with --patches" in refuse(
        "upscale", photo, "-o", out, "--artefact", work, "--show-bits", tmp_path / "bits.png"
    )
    assert "holds no configuration of patches" in refuse("upscale", photo, "-o", out, "--patches", tmp_path)
    assert list(tmp_path.iterdir()) == []
