"""What an algorithm offers: forms of a convolution, their kernels, and their parameters. Each is one module."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.specs import ConvSpec

if TYPE_CHECKING:
    from qsearch.compile.packing import Convolution


class Kernel(Protocol):
    """The arguments of one kernel, declared inside a `T.prim_func`, and what its tasks do."""

    @property
    def height(self) -> Expr:
        """The number of tasks, which run in any order."""
        ...

    def task(self, y: Expr) -> None:
        """Emits task `y`."""
        ...


class Algorithm(Protocol):
    """A way of computing convolutions; every form gives the bytes of `qsearch.integer.ops`."""

    def forms(self, spec: ConvSpec, isa: Isa, conv: "Convolution") -> list[ConvSpec]:
        """`spec` with `algorithm` set, in every form that computes `conv` exactly on `isa`; best guess first.

        A form may depend on the weights and the range of the input values.
        """
        ...

    def kernel(self, spec: ConvSpec, isa: Isa) -> Kernel:
        """The kernel of a form."""
        ...

    def pack(self, spec: ConvSpec, isa: Isa, conv: "Convolution") -> Mapping[str, np.ndarray]:
        """Every parameter of `spec.param_names`, one-dimensional, in the order in which the kernel reads it."""
        ...
