"""What decides the result of a training run, besides the images and the first weights."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qsearch.errors import QsearchError

Levels = Literal["exact-zero", "fqsr-odd", "float"]


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the result; `QsearchError` for values that make no sense."""

    iterations: int = 50_000
    batch: int = 8
    patch: int = 48
    """Side of a low-resolution patch in pixels."""
    learning_rate: float = 1e-3
    """Adam's peak, reached after `warmup` iterations and brought to 0 along a cosine."""
    warmup: int = 200
    average: float = 0.999
    """Decay of the exponential moving average of the weights; the averaged weights are validated and kept."""
    validate_every: int = 1000
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "patch", "learning_rate", "validate_every", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise QsearchError(f"training: {name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise QsearchError(f"training: average must be at least 0 and below 1, not {self.average}")


@dataclass(frozen=True)
class QuantizedSettings(TrainingSettings):
    """Those of quantization-aware training; rates are relative (see `qsearch.quant.free`)."""

    iterations: int = 5_000
    learning_rate: float = 5e-3
    """Adam's peak, of weights in units of the root mean square of their channel."""
    warmup: int = 20
    average: float = 0.99
    learned_intervals: bool = True
    """Whether the scales of weights and the steps of activations are trained."""
    interval_unit: float = 1.0
    """Learning rate of the logarithms of intervals, as a multiple of that of the weights."""
    calibration_weight: float = 0.3
    """Weight of FQSR's calibration loss: the sum of what the quantizers change."""
    teacher: float = 0.0
    """Share of the float network's output in what is learned; the rest is the original. With originals that are worse
    than those the network was trained on, 1 keeps it from learning their faults."""
    start: Literal["maximum", "calibration"] = "maximum"
    """First steps of activations: by the moving average of the maximum, or as post-training quantization has them."""
    start_iterations: int = 20
    """Batches over which the maximum is averaged."""
    levels: Levels = "exact-zero"
    """`exact-zero` is the integer contract. For comparison, and never compiled: `fqsr-odd` are the levels of FQSR's
    code, odd multiples of half a step without a zero, one interval per tensor; `float` quantizes nothing, the same
    folded network trained alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("interval_unit", "calibration_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise QsearchError(f"training: {name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.teacher <= 1:
            raise QsearchError(f"training: teacher must be 0 to 1, not {self.teacher}")
        if self.start_iterations < 1:
            raise QsearchError(f"training: start_iterations must be positive, not {self.start_iterations}")
        if self.start not in ("maximum", "calibration"):
            raise QsearchError(f"training: start must be maximum or calibration, not {self.start!r}")
        if self.levels not in get_args(Levels):
            raise QsearchError(f"training: levels must be {', '.join(get_args(Levels))}, not {self.levels!r}")


def learning_rate(settings: TrainingSettings, iteration: int) -> float:
    """A linear rise over `warmup` iterations, times half a cosine that ends at 0."""
    rise = min(1.0, (iteration + 1) / max(settings.warmup, 1))
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * iteration / settings.iterations))


def quantized_settings(intervals: str, **common: Any) -> QuantizedSettings:
    """Settings in the words of the command line: `intervals` are maximum, calibration or fixed."""
    if intervals not in ("maximum", "calibration", "fixed"):
        raise QsearchError(f"--intervals must be maximum, calibration or fixed, not {intervals!r}")
    return QuantizedSettings(
        **common,
        learned_intervals=intervals != "fixed",
        start="maximum" if intervals == "maximum" else "calibration",
    )
