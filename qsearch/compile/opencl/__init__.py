"""OpenCL kernels for the GPUs of phones: source text that the device's own driver compiles.

The kernels are one readable template, `conv.cl`, specialized by macros; Python only chooses the macros, the tile of a
work item, and the order of the parameters.
"""

from qsearch.compile.opencl.packing import pack
from qsearch.compile.opencl.shape import GPUS, Gpu, Shape, form
from qsearch.compile.opencl.source import program

ISA = "opencl"
"""The name of the instruction set in a plan."""

__all__ = ["GPUS", "ISA", "Gpu", "Shape", "form", "pack", "program"]
