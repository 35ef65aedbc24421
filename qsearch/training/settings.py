"""What decides the result of a training run, besides the images and the first weights."""

import math
from dataclasses import dataclass

from qsearch.errors import QsearchError


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


def learning_rate(settings: TrainingSettings, iteration: int) -> float:
    """A linear rise over `warmup` iterations, times half a cosine that ends at 0."""
    rise = min(1.0, (iteration + 1) / max(settings.warmup, 1))
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * iteration / settings.iterations))
