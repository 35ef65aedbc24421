"""Honest latency: devices, interleaved timing, conditions."""

from qsearch.measure.bench import BenchResult
from qsearch.measure.devices import Device, open_device
from qsearch.measure.shells import DeviceLostError
from qsearch.measure.timers import Comparison, Conditions, Ratio, Timing, interleave, now_conditions

__all__ = [
    "BenchResult",
    "Comparison",
    "Conditions",
    "Device",
    "DeviceLostError",
    "Ratio",
    "Timing",
    "interleave",
    "now_conditions",
    "open_device",
]
