"""What is trained: two networks, each variant of their training, and what is wanted of it."""

from dataclasses import dataclass, replace
from typing import Any

from qsearch.training import QuantizedSettings

SETS = ("Set5", "Set14")
CALIBRATION_IMAGES, FINETUNE_IMAGES = 32, 100
COST_SIZE = (180, 320)
LIMITS = {"8-8-8": 0.02, "6-6-8": 0.05, "4-4-8": 0.35}
"""Largest drop in dB against the float network trained for as long."""
GAINS = {"4-4-8": 0.1, "3-3-8": 0.5}
"""Least gain in dB over post-training quantization of the same allocation, fine-tuned."""
SKIP_LIMIT = 0.02


@dataclass(frozen=True)
class Network:
    """A network, the size of its batches, which decides the time of an iteration, and whom its high bits learn from."""

    weights: str
    batch: int
    patch: int
    teacher: float
    """Share of the float network's output at 8 and 6 bits: all where these originals make even float no better."""


NETWORKS = {
    "srresnet": Network("srresnet_bn8_x4.pt", 4, 24, 0.0),
    "edsr": Network("edsr_r8f64_x2.pt", 4, 32, 1.0),
}


@dataclass(frozen=True)
class Variant:
    """One training: its bits and how its settings differ."""

    title: str
    bits: str
    changes: tuple[tuple[str, Any], ...] = ()


TRAINED = (("calibration_weight", 0.0),)
TAUGHT = (("teacher", 1.0), *TRAINED)
"""Low bits learn the float network's output, and none the calibration loss: what is best on DIV2K's crops."""
RATES = {"8-8-8": 2e-4, "6-6-8": 5e-4, "4-4-8": 5e-3, "3-3-8": 5e-3}
"""Peak of the relative learning rate: fewer bits need larger steps before a weight changes its integer."""
INTERVAL_UNITS = {"8-8-8": 4.0, "6-6-8": 2.0, "4-4-8": 1.0, "3-3-8": 1.0}
"""Learning rate of the intervals as a multiple of it: at 8 bits they have most to gain, from ranges that hold colours
which photographs lack."""
VARIANTS = {
    "float": Variant("float, trained alike", "8-8-8", (("levels", "float"), ("interval_unit", 1.0))),
    "8-8-8": Variant("8/8/8", "8-8-8", TRAINED),
    "6-6-8": Variant("6/6/8", "6-6-8", TRAINED),
    "4-4-8": Variant("4/4/8", "4-4-8", TAUGHT),
    "3-3-8": Variant("3/3/8", "3-3-8", TAUGHT),
    "fixed": Variant("fixed intervals", "4-4-8", (("learned_intervals", False), ("calibration_weight", 0.0))),
    "learned": Variant("learned intervals", "4-4-8", (("calibration_weight", 0.0),)),
    "sqcl": Variant("learned intervals, calibration loss", "4-4-8"),
}
ABLATION = ("fixed", "learned", "sqcl")
HIGH = ("8-8-8", "6-6-8")
RESULTS = (*HIGH, "4-4-8", "3-3-8")


def settings_of(network: Network, key: str, iterations: int) -> QuantizedSettings:
    """The settings of one training."""
    variant = VARIANTS[key]
    common = QuantizedSettings(iterations=iterations, batch=network.batch, patch=network.patch,
                               learning_rate=RATES[variant.bits], interval_unit=INTERVAL_UNITS[variant.bits],
                               teacher=network.teacher if key in HIGH else 0.0,
                               validate_every=max(iterations // 10, 1), checkpoint_every=100)  # fmt: skip
    return replace(common, **dict(variant.changes))
