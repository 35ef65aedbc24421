"""Honest latency: devices, interleaved timing, conditions."""

from qsearch.measure.devices import BenchResult, Device, LocalDevice, open_device
from qsearch.measure.timers import Comparison, Conditions, Ratio, Timing, interleave, now_conditions

__all__ = [
    "BenchResult",
    "Comparison",
    "Conditions",
    "Device",
    "LocalDevice",
    "Ratio",
    "Timing",
    "interleave",
    "now_conditions",
    "open_device",
]
