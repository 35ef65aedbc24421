"""How many threads the kernels use, changed at run time."""

import os
import threading

import tvm

_state = threading.local()


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# TVM reads both when a thread runs its first kernel. Its own defaults halve the number of processors, believing them
# hyper-threads, and pin the calling thread, and with it every thread that PyTorch starts later, to one processor.
os.environ.setdefault("TVM_NUM_THREADS", str(available()))
os.environ.setdefault("TVM_BIND_THREADS", "0")

_configure = tvm.get_global_func("runtime.config_threadpool")
_ANY_PROCESSOR = 1


def use(threads: int) -> None:
    """Makes the kernels that the calling thread starts use `threads` threads, at most `available()`."""
    # Every Python thread has a pool of its own.
    if getattr(_state, "threads", None) != threads:
        _configure(_ANY_PROCESSOR, threads)
        _state.threads = threads
