"""What decides the result of fine-tuning, besides the images and the allocation."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from qsearch.errors import QsearchError
from qsearch.quant.twin import GROUPS, Group

Weighting = Literal["tempered", "raw", "equal"]
STAGES: tuple[Group, ...] = ("weight_scale", "bounds", "breakpoint")
"""What is trained in the first, second and third epoch, and again."""
MIN_PATCH = 16

RATES: dict[Group, float] = {
    "weight_scale": 3e-4,
    "bounds": 1e-3,
    "breakpoint": 1e-3,
    "rounding": 5e-3,
    "bias": 1e-2,
}
"""Chosen on rnet9 ×4 by the distance to the float network on crops of the DIV2K validation set."""
ALONE_RATES: dict[Group, float] = {"weight_scale": 1e-3, "bounds": 2e-3, "breakpoint": 2e-3}
"""The same where the quantizers are trained alone and have more to make good."""


@dataclass(frozen=True)
class FineTuneSettings:
    """Everything that decides the result; `QsearchError` for values that make no sense.

    `groups` without `rounding` and `bias` is SAFT as published: the quantizers' parameters alone.
    """

    groups: tuple[Group, ...] = GROUPS
    """What is trained (see `qsearch.quant.twin.Group`)."""
    schedule: Literal["joint", "staged"] = "joint"
    """All groups at once, or weight scales, bounds and breakpoints by turns of an epoch, the others always."""
    iterations: int = 250
    epoch: int = 50
    """Iterations of an epoch."""
    batch: int = 4
    patch: int = 32
    """Side of a crop of the low-resolution images in pixels; less where an image is smaller."""
    stretched: float = 0.25
    """Share of the crops whose contrast is stretched to full black and white (see `qsearch.quant.crops`)."""
    decay: Literal["cosine", "epoch"] = "cosine"
    """Learning rates along half a cosine to 0, or times 0.9 after every epoch."""
    warmup: int = 20
    """Iterations over which the learning rates rise."""
    rates: dict[Group, float] = field(default_factory=lambda: dict(RATES))
    """Adam's learning rates: of logarithms of scales, of weight steps, and of 255ths of a range."""
    weighting: Weighting = "tempered"
    """Layers count by their sensitivity: softmax of σ / (temperature · max σ); raw of σ in levels; or all alike."""
    temperature: float = 0.25
    features: Literal["blocks", "all"] = "blocks"
    """Whose outputs are compared: of convolutions with a skip operand, or of all."""
    feature_weight: float = 1.0
    reconstruction_weight: float = 5.0
    """Of the error of the output in levels of 255."""
    distance: Literal["rms", "l1"] = "rms"
    """Root of the mean square, which PSNR sees, or mean absolute error."""
    weight_scales: Literal["channel", "tensor"] = "channel"
    """Whether the scales of a convolution's weights are trained one by one or grow alike."""
    refit: bool = True
    """Fit the weights to what each layer reads before the first iteration (see `qsearch.quant.refit`)."""
    ridge: float = 1e-2
    """How fast the fit holds the weights to their own, as a share of the mean square of what is read."""
    correct_bias: bool = True
    """Correct the biases before the first iteration; the fit does so anyway."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epoch", "batch", "temperature"):
            if not getattr(self, name) > 0:
                raise QsearchError(f"fine-tuning: {name} must be positive, not {getattr(self, name)}")
        for name in ("iterations", "ridge", "warmup"):
            if getattr(self, name) < 0:
                raise QsearchError(f"fine-tuning: {name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.stretched <= 1:
            raise QsearchError(f"fine-tuning: stretched must be 0 to 1, not {self.stretched}")
        if self.patch < MIN_PATCH:
            raise QsearchError(f"fine-tuning: patch must be at least {MIN_PATCH} pixels, not {self.patch}")
        if not self.groups:
            raise QsearchError("fine-tuning: groups names nothing to train")
        unknown = [name for name in (*self.groups, *self.rates) if name not in GROUPS]
        if unknown:
            raise QsearchError(f"fine-tuning: no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
        missing = [name for name in self.groups if name not in self.rates]
        if missing:
            raise QsearchError(f"fine-tuning: no learning rate for {missing[0]}")

    def rate(self, group: Group, iteration: int) -> float:
        """The learning rate of `group` at an iteration; 0 where it rests."""
        epoch = iteration // self.epoch
        if self.schedule == "staged" and group in STAGES:
            turns = [stage for stage in STAGES if stage in self.groups]
            if turns[epoch % len(turns)] != group:
                return 0.0
        rate = self.rates[group] * min(1.0, (iteration + 1) / (self.warmup + 1))
        if self.decay == "epoch":
            return rate * 0.9**epoch
        return rate * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))


def settings_of(iterations: int | None, fixed_weights: bool, seed: int) -> FineTuneSettings:
    """The defaults with so many iterations; with `fixed_weights` only the quantizers' parameters are trained."""
    settings = FineTuneSettings(seed=seed)
    if fixed_weights:
        settings = replace(settings, groups=STAGES, rates=dict(ALONE_RATES), refit=False, correct_bias=False)
    return settings if iterations is None else replace(settings, iterations=iterations)


PUBLISHED = FineTuneSettings(
    groups=STAGES,
    rates=dict(ALONE_RATES),
    schedule="staged",
    iterations=500,
    batch=2,
    decay="epoch",
    warmup=0,
    distance="l1",
    weight_scales="tensor",
    refit=False,
    correct_bias=False,
    stretched=0.0,
)
"""As published but for the rates, for a start of `qsearch.quant.moving.published_start`.

10 epochs of 50 batches, one kind of parameter at a time, nothing else moves.
"""
VANILLA = replace(PUBLISHED, weighting="equal")
"""The same with all layers weighted alike."""
