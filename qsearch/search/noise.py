"""How much quantization noise every site adds to the picture: an additive model, refitted on every finished trial.

PSNR drops do not add up, mean squared errors do: the noise of independent roundings sums in power. So the model works
on the squared error of the picture, `255²·10^(−psnr/10)`; for several images that is the geometric mean of theirs,
which is what a mean PSNR measures:

    error(b) = c + Σ_j t[j, b_j]

with a prior from the measured sensitivities and a Gaussian posterior from the finished trials.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from qsearch.allocation import SiteAllocation
from qsearch.search.forms import FEWEST_BITS, MOST_BITS, form_of
from qsearch.search.space import Bits, Space

Table = NDArray[np.float64]
"""Squared error that a site adds in its forms, float64 [J, forms], by code; +inf where the site has no such choice.

Without piecewise quantizers these are the columns of 2…8 bits.
"""

Describe = Callable[[str, SiteAllocation], tuple[float, float, int]]
"""What calibration says of a site's quantizer: its squared error, the share of values inside, and the step ratio."""

Terms = NDArray[np.int64]

BITS = np.arange(FEWEST_BITS, MOST_BITS + 1)
_BASE = MOST_BITS - FEWEST_BITS
# How far a measured piecewise quantizer may be from what calibration makes of the uniform one.
_SURPRISE = 8.0
# How far a term may be from its prior: a factor common to a site, one of its own, and an absolute part (a share of c).
_SITE_SPREAD, _OWN_SPREAD, _FLOOR = 0.5, 0.3, 5e-4
_CONSTANT_SPREAD = 0.01
# How far a trial may be from the sum: interactions grow with the noise itself, the rest is rounding luck.
_INTERACTION, _LUCK = 0.1, 2e-4


def squared_error(psnr_y_db: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The squared error, in grey levels², of a PSNR in dB with peak 255."""
    return 255.0**2 * 10.0 ** (-np.asarray(psnr_y_db, dtype=np.float64) / 10.0)


def prior_table(space: Space, measured: Mapping[tuple[str, int], float], describe: Describe | None = None) -> Table:
    """Sensitivities, measured as added squared error at some bits of some sites, completed to all bits of all sites.

    Between measured bits the noise is interpolated, beyond them it falls by 4 per bit; what rounding luck made negative
    or out of order is pulled into line. A site that was not measured gets the median of its kind. `measured` is by site
    and code. A piecewise form has the noise of the uniform one of its bits times the ratio of their squared errors in
    calibration, times what the measured piecewise forms of the site say about such ratios.
    """
    ratios = {name: _error_ratios(space, name, describe) for name in space.piecewise} if describe else {}
    bare = _uniform_of(measured, ratios)
    rows: dict[str, NDArray[np.float64]] = {}
    for site in space.sites:
        known = {bits: bare[site.name, bits] for bits in map(int, BITS) if (site.name, bits) in bare}
        if known:
            rows[site.name] = _row(known)
    table = np.full((len(space.sites), len(space.codes)), np.inf)
    for j, site in enumerate(space.sites):
        like: list[Table] = [
            rows[other.name] for other in space.sites if other.kind == site.kind and other.name in rows
        ]
        default = np.median(like or list(rows.values()) or [np.power(4.0, 8.0 - BITS)], axis=0)
        table[j, : len(BITS)] = np.where(np.isin(BITS, site.choices), rows.get(site.name, default), np.inf)
        _add_piecewise(table[j], site.name, ratios.get(site.name, {}), measured)
    return table


def _error_ratios(space: Space, site: str, describe: Describe) -> dict[int, float]:
    """Squared error in calibration of every piecewise form of `site` to that of the uniform one of as many bits."""
    found = {}
    for code in space.choices[space.names.index(site)]:
        form = form_of(code)
        if form.quantizer == "piecewise":
            uniform = max(describe(site, SiteAllocation(bits=form.bits))[0], 1e-30)
            found[code] = float(np.clip(describe(site, form.setting)[0] / uniform, 1e-2, 1e2))
    return found


def _uniform_of(
    measured: Mapping[tuple[str, int], float], ratios: Mapping[str, Mapping[int, float]]
) -> dict[tuple[str, int], float]:
    """What was measured, of uniform forms; of sites without any what their piecewise ones stand for."""
    bare = {(site, code): value for (site, code), value in measured.items() if code <= MOST_BITS}
    known = {site for site, _ in bare}
    for (site, code), value in measured.items():
        if code > MOST_BITS and site not in known:
            bare[site, form_of(code).bits] = value / ratios[site][code]
    return bare


def _add_piecewise(
    row: Table, site: str, ratios: Mapping[int, float], measured: Mapping[tuple[str, int], float]
) -> None:
    """Fill in the piecewise forms of one site's row."""
    expected = {code: row[form_of(code).bits - FEWEST_BITS] * ratio for code, ratio in ratios.items()}
    seen = [
        np.clip(measured[site, code] / value, 1 / _SURPRISE, _SURPRISE)
        for code, value in expected.items()
        if (site, code) in measured
    ]
    factor = float(np.exp(np.mean(np.log(seen)))) if seen else 1.0
    for code, value in expected.items():
        row[code - FEWEST_BITS] = value * factor


def _row(known: dict[int, float]) -> NDArray[np.float64]:
    """One site's noise at 2…8 bits through its measured points, falling by a factor of 1.5 to 16 per bit."""
    first = min(known)
    floor = max(known.values()) * 4.0 ** -(8 - first) if max(known.values()) > 0 else 1e-6
    points = {first: max(known[first], floor)}
    for bits in sorted(known)[1:]:
        step = bits - max(points)
        last = points[max(points)]
        points[bits] = float(np.clip(known[bits], last / 16.0**step, last / 1.5**step))
    low, high = min(points), max(points)
    logs = np.interp(BITS, sorted(points), [np.log(points[b]) for b in sorted(points)])
    logs += np.log(4.0) * (np.maximum(low - BITS, 0) - np.maximum(BITS - high, 0))
    return np.exp(logs)


class NoiseModel:
    """The additive model, conditioned on one measured allocation after another (a Kalman filter over its terms)."""

    def __init__(self, prior: Table, base_error: float) -> None:
        """`base_error` is the squared error of the allocation that the sensitivities were measured against."""
        self.usable = np.isfinite(prior)
        self.prior = np.where(self.usable, prior, 0.0)
        self.scale = base_error
        self.prior_mean = np.append(self.prior.ravel(), base_error - self.prior[:, _BASE].sum())
        self.mean = self.prior_mean
        self.covariance = self._prior_covariance()
        self.history: list[tuple[Terms, NDArray[np.float64], float, float]] = []

    def observe(self, bits: Bits, error: float) -> None:
        """Condition the model on the squared error of an allocation."""
        terms = self._terms(bits)
        deviation = float(np.hypot(_INTERACTION * max(error - self.scale, 0.0), _LUCK * self.scale))
        column = self.covariance[:, terms].sum(axis=1)
        gain = column / (column[terms].sum() + deviation**2)
        self.covariance -= gain[:, None] * column
        self.mean = self.mean + gain * (error - self.mean[terms].sum())
        self.history.append((terms, gain, error, deviation))

    def predict(self, bits: Bits) -> float:
        """The squared error expected of an allocation."""
        return float(self.mean[self._terms(bits)].sum())

    def table(self, rng: np.random.Generator | None = None, boldness: float = 0.0) -> Table:
        """The expected table, or with `rng` one drawn from the posterior with its spread scaled by `boldness`.

        The draw is a draw from the prior, corrected by every observation as the mean is.
        """
        values = self.mean
        if rng is not None:
            values = self.prior_mean + boldness * self._prior_deviation(rng)
            for terms, gain, error, deviation in self.history:
                values = values + gain * (error + boldness * deviation * rng.standard_normal() - values[terms].sum())
        return np.where(self.usable, values[:-1].reshape(self.prior.shape), np.inf)

    def _prior_covariance(self) -> NDArray[np.float64]:
        sites, width = self.prior.shape
        blocks = np.einsum("jv,jw->jvw", self.prior, self.prior) * (_SITE_SPREAD**2 + _OWN_SPREAD**2 * np.eye(width))
        blocks += np.eye(width) * (_FLOOR * self.scale) ** 2
        covariance = np.zeros((sites * width + 1, sites * width + 1))
        for j in range(sites):
            span = slice(j * width, (j + 1) * width)
            covariance[span, span] = blocks[j]
        covariance[-1, -1] = (_CONSTANT_SPREAD * self.scale) ** 2
        return covariance

    def _prior_deviation(self, rng: np.random.Generator) -> NDArray[np.float64]:
        sites, width = self.prior.shape
        factor = _SITE_SPREAD * rng.standard_normal((sites, 1)) + _OWN_SPREAD * rng.standard_normal((sites, width))
        own = self.prior * factor + _FLOOR * self.scale * rng.standard_normal((sites, width))
        return np.append(own.ravel(), _CONSTANT_SPREAD * self.scale * rng.standard_normal())

    def _terms(self, bits: Bits) -> Terms:
        """Indices of an allocation's terms: each site in its form, and the constant."""
        sites, width = self.prior.shape
        return np.append(np.arange(sites) * width + bits - FEWEST_BITS, sites * width)
