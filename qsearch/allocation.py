"""An allocation gives every site its bits and its quantizer; JSON in and out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qsearch.errors import QsearchError
from qsearch.files import write_atomic

SiteKind = Literal["weight", "input", "skip"]
QuantizerKind = Literal["uniform", "piecewise"]
Observer = Literal["minmax", "percentile", "mse"]


MIN_PIECEWISE_BITS = 3


class Site(BaseModel):
    """A place where something is quantized: a convolution's weight, its input, or a skip operand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """`<convolution>.weight`, `<convolution>.input` or `<convolution>.skip`."""
    kind: SiteKind
    choices: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    """The bits a search may give it; a single value means that the site is fixed (the uint8 image is)."""


class SiteAllocation(BaseModel):
    """Bits and quantizer of one site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=2, le=8)
    quantizer: QuantizerKind = "uniform"
    """`piecewise` has coarser steps for outliers (see `qsearch.quant.piecewise`); for activations of 3 bits or more."""
    observer: Observer | None = None
    """How the range is found; None takes the default (see `qsearch.quant.calibration`)."""
    inside: float | None = Field(default=None, gt=0, le=1)
    """Of a piecewise site: the share of its values within the breakpoints; None is that of least squared error."""
    ratio: int | None = Field(default=None, ge=1, le=255)
    """Of a piecewise site: its outer step in dense steps; None is that of least squared error."""
    span: int | None = Field(default=None, ge=1, le=255)
    """Of a piecewise site: the most that its largest lattice value may exceed the smallest by; None allows 255.

    The exact low-bit kernels need 15, 31 or 63 (see `qsearch.compile.kernels.winograd`)."""

    @model_validator(mode="after")
    def _check_pieces(self) -> "SiteAllocation":
        if self.quantizer == "uniform":
            given = [name for name in ("inside", "ratio", "span") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{given[0]} is of piecewise quantizers only")
            return self
        least, span = 2**self.bits - 1, self.span or 255
        if span < least:
            raise ValueError(f"span {span} does not hold {self.bits} bits: give at least {least}")
        if self.ratio is not None and self.ratio - 1 > span - least:
            raise ValueError(
                f"ratio {self.ratio} does not fit {self.bits} bits in span {span}: at most {span - least + 1}"
            )
        return self


class Allocation(BaseModel):
    """Bits and quantizer of every site of one network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: dict[str, SiteAllocation]

    def bits(self, site: str) -> int:
        """Bits of `site`; raises `QsearchError` when the allocation does not name it."""
        try:
            return self.sites[site].bits
        except KeyError:
            raise QsearchError(f"the allocation gives no bits to site {site!r}") from None

    def replace(self, bits: Mapping[str, int]) -> "Allocation":
        """The same allocation with other bits for the named sites."""
        changed = {name: self.sites[name].model_copy(update={"bits": value}) for name, value in bits.items()}
        return Allocation(sites={**self.sites, **changed})

    def check(self, sites: Iterable[Site]) -> None:
        """Raise `QsearchError` unless the allocation names exactly `sites`, with bits that each allows."""
        expected = {site.name: site for site in sites}
        missing = sorted(expected.keys() - self.sites.keys())
        unknown = sorted(self.sites.keys() - expected.keys())
        if missing or unknown:
            what = [f"lacks {', '.join(missing[:4])}"] if missing else []
            what += [f"has unknown {', '.join(unknown[:4])}"] if unknown else []
            raise QsearchError(f"the allocation does not fit this network: it {' and '.join(what)}")
        for name, site in expected.items():
            if self.bits(name) not in site.choices:
                raise QsearchError(f"site {name} cannot have {self.bits(name)} bits: it allows {list(site.choices)}")
            self._check_piecewise(site)

    def _check_piecewise(self, site: Site) -> None:
        if self.sites[site.name].quantizer == "uniform":
            return
        if site.kind == "weight" or len(site.choices) == 1:
            raise QsearchError(f"site {site.name} cannot be piecewise: only activations with a choice of bits can")
        if self.bits(site.name) < MIN_PIECEWISE_BITS:
            raise QsearchError(f"site {site.name} cannot be piecewise with less than {MIN_PIECEWISE_BITS} bits")

    def to_json(self) -> str:
        """One line per site, stable order."""
        rows = ",\n".join(
            f"  {json.dumps(name)}: {site.model_dump_json(exclude_defaults=True)}" for name, site in self.sites.items()
        )
        return f'{{"sites": {{\n{rows}\n}}}}\n'

    def save(self, path: Path | str) -> None:
        """Write the allocation as JSON, atomically."""
        write_atomic(path, self.to_json())

    @staticmethod
    def load(path: Path | str) -> "Allocation":
        """Read an allocation; raises `QsearchError` naming the file and the offending key."""
        try:
            return Allocation.model_validate_json(Path(path).read_text())
        except OSError as error:
            raise QsearchError(f"cannot read allocation {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise QsearchError(f"allocation {path} is not a text file") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise QsearchError(f"allocation {path}: {where}: {_said(error)}") from error


def _said(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def uniform(sites: Iterable[Site], weight_bits: int, input_bits: int, skip_bits: int = 8) -> Allocation:
    """The same bits everywhere (`w4a8` is `uniform(sites, 4, 8)`); fixed sites keep theirs."""
    wanted = {"weight": weight_bits, "input": input_bits, "skip": skip_bits}
    return Allocation(
        sites={
            site.name: SiteAllocation(bits=wanted[site.kind] if wanted[site.kind] in site.choices else site.choices[-1])
            for site in sites
        }
    )
