"""Clusters and references by argmax, in both readings, and the policies that decide from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import QsearchError
from qsearch.patches import as_decisions, assign, with_random_references
from qsearch.patches.assign import Reading

TOY = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
"""Five patches and three classes."""
readings = pytest.mark.parametrize("reading", ["A", "B"])


@readings
def test_the_toy_example_has_two_clusters_and_two_references(reading: Reading) -> None:
    found = assign(TOY, reading)
    assert found.cluster.tolist() == [0, 0, 1, 1, 0]
    assert found.references.tolist() == [0, 2]
    assert found.reference.tolist() == [0, 0, 2, 2, 0]
    assert found.isolated.tolist() == []
    decisions = as_decisions(found)
    assert decisions.levels == (0, 1, 0, 1, 1)
    assert decisions.references == (0, 0, 2, 2, 0)


@readings
def test_alike_patches_have_one_reference_and_different_ones_are_isolated(reading: Reading) -> None:
    alike = assign(np.tile(TOY[:1], (6, 1)), reading)
    assert alike.references.tolist() == [0]
    assert set(alike.cluster) == {0}
    different = assign(np.eye(4), reading)
    assert different.isolated.tolist() == [0, 1, 2, 3]
    single = assign(TOY[:1], reading)
    assert single.isolated.tolist() == [0]


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_the_readings_agree_where_patches_are_confident(labels: list[int], seed: int) -> None:
    """Integers as of the frozen classifier; a patch's own class outweighs all others."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 2000, (len(labels), 6))
    values[np.arange(len(labels)), labels] = 50000 + 300 * random.permutation(len(labels))
    # Only the likeliest of a class differs between patches, so that the affinity orders as the probability does.
    values = np.where(values >= 50000, values, 0)
    a, b = assign(values, "A"), assign(values, "B")
    assert np.array_equal(a.cluster, b.cluster)
    assert np.array_equal(a.reference, b.reference)


@given(seed=st.integers(0, 999), patches=st.integers(1, 25), classes=st.integers(1, 6), reading=st.sampled_from("AB"))
def test_references_are_their_own_and_of_the_same_cluster(
    seed: int, patches: int, classes: int, reading: Reading
) -> None:
    values = np.random.default_rng(seed).integers(0, 65536, (patches, classes))
    found = assign(values, reading)
    assert np.array_equal(found.reference[found.reference], found.reference)
    assert np.array_equal(found.cluster[found.reference], found.cluster)
    assert len(found.references) == len(set(found.cluster.tolist()))


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 3), (0.5, 5), (1.0, 10)])
def test_a_share_of_references(share: float, count: int) -> None:
    values = np.stack([np.arange(10, 20), np.zeros(10, int)], 1)
    found = assign(values, share=share)
    assert found.references.tolist() == list(range(10 - count, 10)), "the likeliest of the class"
    assert set(found.reference) <= set(found.references)


def test_random_references_keep_who_is_one() -> None:
    found = assign(np.random.default_rng(0).integers(0, 65536, (40, 5)))
    drawn = with_random_references(found, seed=1)
    assert np.array_equal(drawn.references, found.references)
    assert not np.array_equal(drawn.reference, found.reference)
    assert np.array_equal(drawn.reference, with_random_references(found, seed=1).reference)


def test_impossible_assignments_are_refused() -> None:
    with pytest.raises(QsearchError, match=r"\[patches, classes\]"):
        assign(np.zeros((0, 3)))
    with pytest.raises(QsearchError, match="above 0"):
        assign(TOY, share=0.0)
    with pytest.raises(QsearchError, match="needs reading A"):
        assign(TOY, "B", 0.5)
    with pytest.raises(QsearchError, match="A or B"):
        assign(TOY, "C")  # type: ignore[arg-type]
