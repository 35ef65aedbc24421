"""Quantizers: grids, observers, calibration, and the fake-quantized graph."""

from qsearch.quant.calibration import Calibration, calibrate
from qsearch.quant.fake import fake_quantized
from qsearch.quant.grid import Grid, WeightGrid, activation_grid, weight_grid
from qsearch.quant.observers import OBSERVERS, ValueStats

__all__ = [
    "OBSERVERS",
    "Calibration",
    "Grid",
    "ValueStats",
    "WeightGrid",
    "activation_grid",
    "calibrate",
    "fake_quantized",
    "weight_grid",
]
