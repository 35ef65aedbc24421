"""A configuration of patches comes back from disk, whole or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.patches import Constant, EdgeRule, Layout, ReferencedNetwork, levels_of
from qsearch.patches.stored import StoredPatches
from tests.patches.networks import joined, textures, tiny
from tests.patches.stored_patches import clusters, edges, referenced, referenced_program


@pytest.mark.parametrize(
    "patches", [edges(), clusters("A", 0.3), referenced("tiny")], ids=["edges", "clusters", "RefER"]
)
def test_save_and_load(patches: StoredPatches, tmp_path: Path) -> None:
    image = textures(41, 37)
    patches.save(tmp_path / "stored")
    again = StoredPatches.load(tmp_path / "stored")
    assert (again.layout, again.upscale, again.model) == (patches.layout, patches.upscale, patches.model)
    found, expected = again.executor().run(image), patches.executor().run(image)
    assert np.array_equal(found.image, expected.image)
    assert replace(found, image=expected.image) == expected
    assert [level.allocation for level in again.levels] == [level.allocation for level in patches.levels]
    again.save(tmp_path / "again")
    for path in (tmp_path / "stored").rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(tmp_path / "stored")).read_bytes() == path.read_bytes()
    with pytest.raises(QsearchError, match="not empty"):
        patches.save(tmp_path / "stored")


def test_stored_refer_is_the_referenced_network() -> None:
    patches, image = referenced(), textures(41, 37, 6)
    network = ReferencedNetwork(joined(), referenced_program(), patches.layout, patches.policy)
    expected, found = network.run(image), patches.executor().run(image)
    assert len(patches.repairs) == 4
    assert np.array_equal(found.image, expected.image)
    assert replace(found, image=expected.image) == expected, "with its BitOPs"
    assert {report.bits for report in found.patches} == {"8", "4"}
    assert np.array_equal(patches.reference(image), expected.image)


@pytest.mark.parametrize(("patches", "files"), [(clusters(), 2 + 2 * 3), (referenced("tiny"), 2 + 3 + 5 + 3)])
def test_damage_is_one_clear_line(patches: StoredPatches, files: int, tmp_path: Path) -> None:
    patches.save(tmp_path / "stored")
    with pytest.raises(QsearchError, match=r"absent holds no configuration of patches"):
        StoredPatches.load(tmp_path / "absent")
    names = [path.relative_to(tmp_path / "stored") for path in (tmp_path / "stored").rglob("*") if path.is_file()]
    assert len(names) == files
    for name in names:
        copy = Path(shutil.copytree(tmp_path / "stored", tmp_path / "copy"))
        (copy / name).write_bytes((copy / name).read_bytes()[:-3])
        with pytest.raises(QsearchError, match=name.name) as damaged:
            StoredPatches.load(copy)
        assert "\n" not in str(damaged.value)
        (copy / name).unlink()
        with pytest.raises(QsearchError, match=name.name):
            StoredPatches.load(copy)
        shutil.rmtree(copy)
    content = json.loads((tmp_path / "stored" / "patches.json").read_text())
    for wrong in ({**content, "upscale": 7}, {"format": 99}, []):
        (tmp_path / "stored" / "patches.json").write_text(json.dumps(wrong))
        with pytest.raises(QsearchError, match=r"patches\.json (differs from its own checksum|is not a config)"):
            StoredPatches.load(tmp_path / "stored")


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(QsearchError, match="decides among 3 levels, and there are 2"):
        StoredPatches.of(tiny(), levels_of(tiny(), "8-4"), Layout(16), EdgeRule((2, 1)))
    with pytest.raises(QsearchError, match="decides among 2 levels, and there are 3"):
        StoredPatches.of(tiny(), levels_of(tiny(), "8-6-4"), Layout(16), clusters().policy)
    with pytest.raises(QsearchError, match="a name of its own"):
        StoredPatches.of(tiny(), levels_of(tiny(), "8-8"), Layout(16), EdgeRule((1,)))
    high = replace(levels_of(tiny(), "8")[0], name='no "name"')
    with pytest.raises(QsearchError, match="a name of its own"):
        StoredPatches.of(tiny(), [high], Layout(16), EdgeRule(()))
    with pytest.raises(QsearchError, match="edges name no references"):
        replace(referenced("tiny"), policy=EdgeRule((1,)))
    with pytest.raises(QsearchError, match=r"0 RefERs do not fit levels of \[1, 2\] segments"):
        replace(referenced("tiny"), repairs=())
    with pytest.raises(QsearchError, match="only edges and clusters can be stored, not Constant"):
        StoredPatches.of(tiny(), levels_of(tiny(), "8"), Layout(16), Constant())  # type: ignore[arg-type]
