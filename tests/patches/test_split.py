"""Patches cover the image, give the whole image's bytes with enough halo, and are averaged in integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qsearch.compile.plan import build
from qsearch.errors import QsearchError
from qsearch.patches import Layout, gather, merge, overwork
from tests.random_programs import Layer, build_program, layers, random_program, reference
from tests.small_networks import random_images

sides = st.integers(1, 40)


def enlarged(image: NDArray[np.uint8], upscale: int) -> NDArray[np.uint8]:
    return image.repeat(upscale, 0).repeat(upscale, 1)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    patch = draw(st.integers(2, 24))
    if draw(st.booleans()):
        return Layout(patch, draw(st.integers(0, patch - 1)), "average")
    return Layout(patch, 2 * draw(st.integers(0, (patch - 1) // 2)), "crop")


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), height=sides, width=sides, upscale=st.integers(1, 3))
def test_patches_have_one_size_and_merge_to_the_image(layout: Layout, height: int, width: int, upscale: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    patches = layout.split(height, width)
    inputs = gather(image, patches)
    (shape,) = {part.shape for part in inputs}
    assert max(shape[:2]) <= layout.patch
    merged = merge([enlarged(part, upscale) for part in inputs], patches, height, width, upscale)
    assert np.array_equal(merged, enlarged(image, upscale))
    assert overwork(patches, height, width) >= 1


@settings(max_examples=15, deadline=None)
@given(chain=layers(resizing=False), seed=st.integers(0, 2**16), extra=st.integers(1, 9), size=st.tuples(sides, sides))
def test_patches_with_the_halo_give_the_bytes_of_the_whole_image(
    chain: list[Layer], seed: int, extra: int, size: tuple[int, int]
) -> None:
    program = build_program(chain, seed)
    plan = build(program, "generic")
    layout = Layout.exact(extra, plan.halo)
    image = random_images(1, *size, seed=seed)[0]
    patches = layout.split(*size)
    results = [reference(program, part) for part in gather(image, patches)]
    assert np.array_equal(merge(results, patches, *size, plan.upscale), reference(program, image))


def test_without_the_halo_the_bytes_differ() -> None:
    program = random_program(1)
    plan, image = build(program, "generic"), random_images(1, 40, 40)[0]
    patches = Layout(12).split(40, 40)
    merged = merge([reference(program, part) for part in gather(image, patches)], patches, 40, 40, plan.upscale)
    assert not np.array_equal(merged, reference(program, image))


def test_overlaps_are_averaged_with_halves_up() -> None:
    patches = Layout(4, 2, "average").split(4, 6)
    results = [np.full((4, 4, 3), value, np.uint8) for value in (10, 13)]
    merged = merge(results, patches, 4, 6, 1)
    assert merged[0, :, 0].tolist() == [10, 10, 12, 12, 13, 13]
    assert overwork(patches, 4, 6) == pytest.approx(32 / 24)


def test_the_overlap_of_refqsr_costs_a_third() -> None:
    patches = Layout(32, 4, "average").split(32 + 28 * 40, 32 + 28 * 40)
    assert len(patches) == 41**2
    assert overwork(patches, 1152, 1152) == pytest.approx((32 / 28) ** 2, rel=0.03)


def test_patches_shrink_rather_than_repeat() -> None:
    patches = Layout(48, 12).split(69, 69)
    assert {(patch.input.bottom - patch.input.top) for patch in patches} == {41}
    assert overwork(patches, 69, 69) == pytest.approx((82 / 69) ** 2)


def test_impossible_layouts_are_refused() -> None:
    with pytest.raises(QsearchError, match="does not fit patches of 8"):
        Layout(8, 8)
    with pytest.raises(QsearchError, match="even number"):
        Layout(8, 3)
    with pytest.raises(QsearchError, match="crop or average"):
        Layout(8, 0, "blend")  # type: ignore[arg-type]
    with pytest.raises(QsearchError, match="cannot split"):
        Layout(8).split(0, 5)
