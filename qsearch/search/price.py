"""A cost as a sum of tables over forms of sites: one for weight and input of a convolution, one for each other site.

BitOPs and bytes are such sums exactly, and so is the time of a network whose kernels run one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.allocation import Allocation
from qsearch.search.forms import FEWEST_BITS
from qsearch.search.space import Bits, Space

Cost = Callable[[Allocation], dict[str, float]]
"""The cheap metrics of an allocation, exact: any of bitops, weight_bytes, peak_bytes."""

Predict = Callable[[Allocation], float]
"""An estimate of one metric of an allocation: a sum over convolutions and sites."""

Pair = tuple[int, int]
"""Indices of the weight and of the input of one convolution."""


@dataclass(frozen=True)
class Price:
    """`constant + Σ pairs[i, j][b_i, b_j] + Σ singles[j][b_j]`, tables indexed by code − 2: float64 [7, 7] and [7]
    where all quantizers are uniform.
    """

    constant: float
    pairs: Mapping[Pair, NDArray[np.float64]]
    singles: Mapping[int, NDArray[np.float64]]

    def __call__(self, bits: Bits) -> float:
        """The cost of these bits."""
        at = bits - FEWEST_BITS
        paired = sum(table[at[i], at[j]] for (i, j), table in self.pairs.items())
        return float(self.constant + paired + sum(table[at[j]] for j, table in self.singles.items()))


def probe(cost: Cost, space: Space, names: Sequence[str]) -> list[Price]:
    """The prices of the metrics `names`, each normalised to 1 at the most bits of every site.

    Asks `cost` once per site and once per convolution: exact for a cost that is linear in every site and bilinear in
    the weight and the input of a convolution; for others, such as the peak of live activations, a chord from the most
    to the fewest bits.
    """
    top, low = _ends(space)

    def ask(*lowered: int) -> NDArray[np.float64]:
        bits = top.copy()
        bits[list(lowered)] = low[list(lowered)]
        metrics = cost(space.allocation(bits))
        return np.array([float(metrics[name]) for name in names])

    at_top = ask()
    # From 0 at the most bits of a site to 1 at the fewest.
    share = (top[:, None] - np.array([form.bits for form in space.forms])) / np.maximum(top - low, 1)[:, None]
    alone = [ask(j) - at_top for j in range(len(top))]
    pairs = {(i, j): ask(i, j) - at_top - alone[i] - alone[j] for i, j in conv_pairs(space)}
    prices = []
    for k, scale in enumerate(np.where(at_top == 0, 1.0, at_top)):
        slopes = [alone[j][k] * share[j] / scale for j in range(len(top))]
        tables = {
            (i, j): slopes[i][:, None] + slopes[j] + np.outer(share[i], share[j]) * coupling[k] / scale
            for (i, j), coupling in pairs.items()
        }
        prices.append(Price(float(at_top[k] / scale), tables, {j: slopes[j] for j in singles(space)}))
    return prices


def tabulate(predict: Predict, space: Space) -> Price:
    """The price of a metric that `predict` gives as a sum over convolutions, normalised to 1 at the most bits.

    Asks for every pair of forms of every convolution and all forms of every other site.
    """
    top, _ = _ends(space)

    def ask(changes: Mapping[int, int]) -> float:
        bits = top.copy()
        for j, value in changes.items():
            bits[j] = value
        return predict(space.allocation(bits))

    at_top = ask({})
    scale = at_top or 1.0

    def choices(j: int) -> list[int]:
        return sorted({*space.sites[j].choices, *space.choices[j]})

    pairs = {(i, j): np.zeros((len(space.codes), len(space.codes))) for i, j in conv_pairs(space)}
    for (i, j), table in pairs.items():
        for b in choices(i):
            for c in choices(j):
                table[b - FEWEST_BITS, c - FEWEST_BITS] = (ask({i: b, j: c}) - at_top) / scale
    alone = {j: np.zeros(len(space.codes)) for j in singles(space)}
    for j, row in alone.items():
        for b in choices(j):
            row[b - FEWEST_BITS] = (ask({j: b}) - at_top) / scale
    return Price(at_top / scale, pairs, alone)


def mix(prices: Sequence[Price], weights: NDArray[np.float64]) -> Price:
    """The weighted sum of prices of one space."""
    weighted = [(float(w), price) for w, price in zip(weights, prices, strict=True)]
    return Price(
        sum(w * price.constant for w, price in weighted),
        {pair: np.sum([w * price.pairs[pair] for w, price in weighted], axis=0) for pair in prices[0].pairs},
        {j: np.sum([w * price.singles[j] for w, price in weighted], axis=0) for j in prices[0].singles},
    )


def conv_pairs(space: Space) -> list[Pair]:
    """The weight and the input of every convolution where both are searched."""
    where = {name: index for index, name in enumerate(space.names)}
    weights = [name.removesuffix(".weight") for name in space.names if name.endswith(".weight")]
    return [(where[f"{conv}.weight"], where[f"{conv}.input"]) for conv in weights if f"{conv}.input" in where]


def singles(space: Space) -> list[int]:
    """The sites in none of `conv_pairs`."""
    paired = {j for pair in conv_pairs(space) for j in pair}
    return [j for j in range(len(space.names)) if j not in paired]


def _ends(space: Space) -> tuple[Bits, Bits]:
    """The most and the fewest bits of every site."""
    top = np.array([max(site.choices) for site in space.sites], dtype=np.int64)
    low = np.array([min(site.choices) for site in space.sites], dtype=np.int64)
    return top, low
