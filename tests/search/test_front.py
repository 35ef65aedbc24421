"""What a front is: nobody on it is beaten, everybody off it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qsearch.search import hypervolume, non_dominated

VALUES = st.integers(1, 3).flatmap(
    lambda k: arrays(np.float64, st.tuples(st.integers(1, 12), st.just(k)), elements=st.integers(0, 5))
)


def beats(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.all(a <= b) and np.any(a < b))


@given(VALUES)
def test_kept_rows_are_unbeaten_and_the_others_are_beaten_or_repeated(values: np.ndarray) -> None:
    kept = set(non_dominated(values).tolist())
    assert kept
    for index, row in enumerate(values):
        beaten = any(beats(other, row) for other in values)
        repeated = any(np.array_equal(values[k], row) for k in kept)
        assert (index in kept) == (not beaten and (index in kept or not repeated))


@given(VALUES)
def test_hypervolume_counts_the_dominated_cells(values: np.ndarray) -> None:
    size = 6
    cells = np.stack(np.meshgrid(*[np.arange(size)] * values.shape[1], indexing="ij"), axis=-1).reshape(
        -1, values.shape[1]
    )
    dominated = sum(bool(np.any(np.all(values <= cell, axis=1))) for cell in cells)
    assert hypervolume(values, np.full(values.shape[1], float(size))) == pytest.approx(dominated)
