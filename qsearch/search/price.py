"""A cost as a quadratic function of the bits, learnt by asking the cost function itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.allocation import Allocation
from qsearch.search.space import Bits, Space

Cost = Callable[[Allocation], dict[str, float]]
"""The cheap metrics of an allocation, exact: any of bitops, weight_bytes, peak_bytes."""


@dataclass(frozen=True)
class Price:
    """`constant + Σ linear[j]·b[j] + ½ Σ pairs[i, j]·b[i]·b[j]`; linear [J], pairs [J, J] symmetric, zero diagonal."""

    constant: float
    linear: NDArray[np.float64]
    pairs: NDArray[np.float64]

    def __call__(self, bits: Bits) -> float:
        """The cost of these bits."""
        return float(self.constant + self.linear @ bits + 0.5 * bits @ self.pairs @ bits)


def probe(cost: Cost, space: Space, names: Sequence[str]) -> list[Price]:
    """The prices of the metrics `names`, each normalised to 1 at the most bits of every site.

    Exact for a cost that is linear in every site and bilinear only between the weight and the input of one
    convolution, as BitOPs and weight bytes are; for others, such as the peak of live activations, a chord from the most
    to the fewest bits of each site. It asks `cost` once per site and once per convolution.
    """
    top = np.array([max(site.choices) for site in space.sites], dtype=np.int64)
    low = np.array([min(site.choices) for site in space.sites], dtype=np.int64)
    step = (low - top).astype(np.float64)

    def ask(*lowered: int) -> NDArray[np.float64]:
        bits = top.copy()
        bits[list(lowered)] = low[list(lowered)]
        metrics = cost(space.allocation(bits))
        return np.array([float(metrics[name]) for name in names])

    at_top = ask()
    alone = np.stack([ask(j) for j in range(len(top))]) - at_top
    pairs = np.zeros((len(names), len(top), len(top)))
    for i, j in conv_pairs(space):
        both = ask(i, j) - at_top
        pairs[:, i, j] = pairs[:, j, i] = (both - alone[i] - alone[j]) / (step[i] * step[j])
    prices = []
    for k, scale in enumerate(np.where(at_top == 0, 1.0, at_top)):
        linear = alone[:, k] / step - pairs[k] @ top
        constant = at_top[k] - linear @ top - 0.5 * top @ pairs[k] @ top
        prices.append(Price(constant / scale, linear / scale, pairs[k] / scale))
    return prices


def mix(prices: Sequence[Price], weights: NDArray[np.float64]) -> Price:
    """The weighted sum of prices."""
    return Price(
        float(sum(w * price.constant for w, price in zip(weights, prices, strict=True))),
        np.sum([w * price.linear for w, price in zip(weights, prices, strict=True)], axis=0),
        np.sum([w * price.pairs for w, price in zip(weights, prices, strict=True)], axis=0),
    )


def conv_pairs(space: Space) -> list[tuple[int, int]]:
    """Indices of the weight and the input of every convolution where both are searched."""
    where = {name: index for index, name in enumerate(space.names)}
    weights = [name.removesuffix(".weight") for name in space.names if name.endswith(".weight")]
    return [(where[f"{conv}.weight"], where[f"{conv}.input"]) for conv in weights if f"{conv}.input" in where]
