"""Memory as the kernels need it: at addresses that are multiples of `ALIGNMENT`."""

import numpy as np

ALIGNMENT = 64


def aligned(count: int) -> np.ndarray:
    """`count` bytes, uint8, not initialized."""
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]


def aligned_copy(values: np.ndarray) -> np.ndarray:
    """A copy of `values`, flattened."""
    copy = aligned(values.nbytes).view(values.dtype)
    copy[:] = values.ravel()
    return copy
