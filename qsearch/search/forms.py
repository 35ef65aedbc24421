"""The forms that a site may take in a search: bits, kind of quantizer and span, and the codes that name them."""

from dataclasses import dataclass
from typing import Literal

from qsearch.allocation import MIN_PIECEWISE_BITS, QuantizerKind, Site, SiteAllocation

Quantizers = Literal["uniform", "piecewise", "both"]
"""Which kinds a search gives to activations; where a piecewise one cannot be, a uniform one stands in."""

QUANTIZERS: tuple[Quantizers, ...] = ("uniform", "piecewise", "both")
SPANS = (15, 31, 63, None)
"""Limits on the span of a piecewise site; those that the exact low-bit kernels need, and none."""
FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True)
class Form:
    """One choice of a site: what decides its price. Breakpoints and step ratio are refined within it."""

    bits: int
    quantizer: QuantizerKind = "uniform"
    span: int | None = None

    @property
    def setting(self) -> SiteAllocation:
        """The form as a site's allocation, with what calibration picks for the rest."""
        return SiteAllocation(bits=self.bits, quantizer=self.quantizer, span=self.span)

    def __str__(self) -> str:
        if self.quantizer == "uniform":
            return f"{self.bits} bits"
        return f"{self.bits} bits piecewise" + (f" within {self.span}" if self.span else "")


UNIFORM = tuple(Form(bits) for bits in range(FEWEST_BITS, MOST_BITS + 1))
PIECEWISE = tuple(
    Form(bits, "piecewise", span)
    for bits in range(MIN_PIECEWISE_BITS, MOST_BITS)
    for span in SPANS
    if span is None or span > 2**bits - 1
)
FORMS = UNIFORM + PIECEWISE
"""Form `FORMS[code − FEWEST_BITS]` has this code: that of a uniform one is its bits, piecewise ones follow."""


def code_of(form: Form) -> int:
    """The code of a form."""
    return FEWEST_BITS + FORMS.index(form)


def form_of(code: int) -> Form:
    """The form of a code."""
    return FORMS[code - FEWEST_BITS]


def can_be_piecewise(site: Site) -> bool:
    """Whether a search may give `site` a piecewise quantizer."""
    return site.kind != "weight" and any(MIN_PIECEWISE_BITS <= bits < MOST_BITS for bits in site.choices[1:])


def codes_of(site: Site, quantizers: Quantizers) -> tuple[int, ...]:
    """The codes that a search may give a site, by bits, the uniform one of equal bits first."""
    piecewise = [f for f in PIECEWISE if f.bits in site.choices] if can_be_piecewise(site) else []
    if quantizers == "uniform" or not piecewise:
        return tuple(sorted(site.choices))
    replaced = {f.bits for f in piecewise} if quantizers == "piecewise" else set()
    forms = [f for f in UNIFORM if f.bits in site.choices and f.bits not in replaced] + piecewise
    return tuple(code_of(f) for f in sorted(forms, key=lambda f: (f.bits, code_of(f))))
