"""RefER's integer flow: as written, number by number, and close to the float form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import QsearchError
from qsearch.patches.matching import CELL_FLOW, FLOW, Matching, warp
from qsearch.patches.refer import RefER
from qsearch.patches.refer import warp as float_warp
from qsearch.patches.refer_numbers import matching_params
from tests.patches.matching_library import match
from tests.patches.test_refer import features

ZERO = 128


def codes(seed: int, rows: int, columns: int, channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (rows, columns, channels), np.uint8)


def matching(channels: int, reduce: int = 4, temperature: float = 0.05, seed: int = 0) -> Matching:
    weight = torch.randn(5, channels, 1, 1, generator=torch.Generator().manual_seed(seed))
    return Matching.of(weight, temperature, reduce, ZERO)


def rounded(a: int, b: int) -> int:
    return (2 * a + b) // (2 * b)


def plain_keys(m: Matching, x: np.ndarray) -> list[list[int]]:
    """Cell by cell, in Python's integers."""
    rows, columns, channels = x.shape
    keys = []
    for top in range(0, rows, m.reduce):
        for left in range(0, columns, m.reduce):
            cell = x[top : top + m.reduce, left : left + m.reduce].reshape(-1, channels)
            sums = [sum(int(v) - ZERO for v in cell[:, c]) for c in range(channels)]
            products = [sum(int(w) * s for w, s in zip(row, sums, strict=True)) for row in m.weight]
            scaled = [int(np.rint(np.float32(p) * f)) for p, f in zip(products, m.factor, strict=True)]
            square = sum(s * s for s in scaled)
            lengths = [(math.isqrt(4 * 127 * 127 * s * s // max(square, 1)) + 1) // 2 for s in scaled]
            keys.append([int(math.copysign(length, s)) for length, s in zip(lengths, scaled, strict=True)])
    return keys


def plain_flow(m: Matching, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    rows, columns = query.shape[:2]
    across = -(-columns // m.reduce)
    down = -(-rows // m.reduce)
    a, b = plain_keys(m, query), plain_keys(m, reference)
    coarse = np.zeros((down, across, 2), object)
    for i, key in enumerate(a):
        volume = [sum(x * y for x, y in zip(key, other, strict=True)) for other in b]
        distances = [max(volume) - v for v in volume]
        weights = [int(m.table[d]) if d < len(m.table) else 0 for d in distances]
        for axis in (0, 1):
            moment = sum(w * (divmod(j, across)[axis] - divmod(i, across)[axis]) for j, w in enumerate(weights))
            coarse[i // across, i % across, axis] = rounded(moment * m.reduce * CELL_FLOW, sum(weights))
    flow = np.zeros((rows, columns, 2), np.int64)
    for y in range(rows):
        for x in range(columns):
            total = 0
            for row, row_share in _between(y, m.reduce, down):
                for column, column_share in _between(x, m.reduce, across):
                    total = total + coarse[row, column] * row_share * column_share
            flow[y, x] = [rounded(int(t), CELL_FLOW // FLOW * (2 * m.reduce) ** 2) for t in total]
    return flow


def _between(place: int, reduce: int, cells: int) -> list[tuple[int, int]]:
    first, share = divmod(max(2 * place + 1 - reduce, 0), 2 * reduce)
    return [(first, 2 * reduce - share), (min(first + 1, cells - 1), share)]


def plain_warp(x: np.ndarray, flow: np.ndarray) -> np.ndarray:
    rows, columns, _ = x.shape
    result = np.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            y, dy = divmod(min(max(16 * i + int(flow[i, j, 0]), 0), 16 * (rows - 1)), 16)
            z, dz = divmod(min(max(16 * j + int(flow[i, j, 1]), 0), 16 * (columns - 1)), 16)
            y1, z1 = min(y + 1, rows - 1), min(z + 1, columns - 1)
            for c in range(x.shape[2]):
                top = int(x[y, z, c]) * (16 - dz) + int(x[y, z1, c]) * dz
                bottom = int(x[y1, z, c]) * (16 - dz) + int(x[y1, z1, c]) * dz
                result[i, j, c] = (top * (16 - dy) + bottom * dy + 128) // 256
    return result


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 11),
    st.integers(1, 11),
    st.integers(1, 6),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.002, 0.05, 1.0]),
    st.integers(0, 99),
)
def test_every_number_is_the_written_one(
    rows: int, columns: int, channels: int, reduce: int, temperature: float, seed: int
) -> None:
    m = matching(channels, reduce, temperature, seed)
    query, reference = codes(seed, rows, columns, channels), codes(seed + 1, rows, columns, channels)
    assert np.array_equal(m.keys(query), plain_keys(m, query))
    flow = m.flow(m.keys(query), m.keys(reference), (rows, columns))
    assert np.array_equal(flow, plain_flow(m, query, reference))
    assert np.array_equal(m.warped(query, reference), plain_warp(reference, flow))
    keys, warped = match(m, query, reference)
    assert np.array_equal(keys, m.keys(query)), "compiled"
    assert np.array_equal(warped, m.warped(query, reference)), "compiled"


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 140),
    st.integers(1, 16),
    st.integers(1, 9),
    st.sampled_from([0.002, 0.05, 1.0]),
    st.sampled_from([1, 3, 30, 127]),
    st.integers(0, 99),
)
def test_compiled_it_gives_the_same_bytes(
    size: tuple[int, int], channels: int, keys: int, reduce: int, temperature: float, most: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weight = torch.from_numpy(random.normal(size=(keys, channels, 1, 1)))
    m = Matching.of(weight * (weight.abs() > 0.5), temperature, reduce, ZERO)
    query, reference = (random.integers(ZERO - most, ZERO + most + 1, (*size, channels), np.uint8) for _ in range(2))
    found, warped = match(m, query, reference)
    assert np.array_equal(found, m.keys(query))
    assert np.array_equal(warped, m.warped(query, reference))


def test_what_its_integers_cannot_hold_is_refused() -> None:
    with pytest.raises(QsearchError, match="at most 16x16"):
        matching_params(matching(4, reduce=17))
    with pytest.raises(QsearchError, match="600 channels"):
        matching_params(Matching.of(torch.ones(2, 600, 1, 1), 0.05, 16, ZERO))


@pytest.mark.parametrize("value", [1, 128, 255])
def test_extreme_codes(value: int) -> None:
    """Flat features: all keys alike, or zeros; nothing overflows."""
    m, flat = matching(64), np.full((24, 24, 64), value, np.uint8)
    assert np.abs(m.keys(flat)).max() <= 127
    assert np.array_equal(m.warped(flat, flat), flat)


def test_flow_and_warp_are_close_to_the_float_ones() -> None:
    torch.manual_seed(0)
    module = RefER(16).eval()
    query, reference = features(3, 24, 20, 16), features(4, 24, 20, 16)
    top = torch.stack([query, reference]).abs().max()
    module.fuse.top.copy_(top)
    m = Matching.of(module.project.weight, 0.05, 4, ZERO)
    a, b = (_coded(value, float(top)) for value in (query, reference))
    with torch.no_grad():
        wanted = module.flow(query, reference)
    flow = m.flow(m.keys(a), m.keys(b), (24, 20))
    found = torch.from_numpy(flow).permute(2, 0, 1)[None] / FLOW
    assert float((found - wanted).abs().max()) < 0.04
    warped = (torch.from_numpy(warp(b, flow)).float() - ZERO).permute(2, 0, 1)[None] * (top / 127)
    assert float((warped - float_warp(reference, wanted)).abs().mean()) < float(top) / 127


def _coded(value: torch.Tensor, top: float) -> np.ndarray:
    return (torch.round(value[0] * (127 / top)) + ZERO).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
