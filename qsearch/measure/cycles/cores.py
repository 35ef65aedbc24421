"""Processor cores as a cycle model sees them: the scheduling model of llvm-mca, and rates for where it is missing."""

import re
from dataclasses import dataclass, fields, replace

from qsearch.errors import QsearchError
from qsearch.target import Target


@dataclass(frozen=True)
class Core:
    """One core, in the words of `qsearch.rates.Rates`."""

    name: str
    mca_cpu: str
    """The processor of which llvm-mca knows the scheduling model, or "none"."""
    issue_width: float
    vector_ops: float
    multiplies: float
    dots: float
    loads: float
    stores: float
    clock_ghz: float
    cache_bytes: int
    bandwidth_gb_s: float
    source: str
    launch_us: float = 5.0


_OPTIMIZATION = "Arm software optimization guide of the core"
_ESTIMATE = "estimated from Arm's technical reference manual and published micro-benchmarks"
# Clock, cache and bandwidth are those of a usual board or phone; a target file says its own.
_CORES = (
    #    name          llvm-mca       issue vec  mul  dot  ld   st   GHz  cache    GB/s
    Core("cortex-a7", "none", 2, 0.5, 0.25, 0.25, 0.5, 0.5, 1.2, 512 << 10, 2.0, _ESTIMATE),
    Core("cortex-a53", "cortex-a53", 2, 1, 1, 1, 0.5, 0.5, 1.2, 512 << 10, 2.0, _ESTIMATE),
    Core("cortex-a55", "cortex-a55", 2, 1, 1, 1, 0.5, 0.5, 1.8, 512 << 10, 5.0, _OPTIMIZATION),
    Core("cortex-a72", "cortex-a72", 3, 2, 0.5, 0.5, 1, 1, 1.5, 1 << 20, 4.0, _OPTIMIZATION),
    Core("cortex-a73", "cortex-a73", 2, 2, 0.5, 0.5, 1, 1, 2.2, 1 << 20, 6.0, _ESTIMATE),
    # The Neoverse cores are the server twins of these: N1 of A76 (and near A78), V1 of X1, V2 near X2.
    Core("cortex-a76", "neoverse-n1", 4, 2, 0.5, 2, 2, 2, 2.4, 2 << 20, 10.0, _OPTIMIZATION),
    Core("cortex-a78", "neoverse-n1", 6, 2, 0.5, 2, 2, 2, 2.4, 2 << 20, 14.0, _OPTIMIZATION),
    Core("cortex-x1", "neoverse-v1", 8, 4, 1, 4, 2, 2, 2.8, 4 << 20, 20.0, _OPTIMIZATION),
    Core("cortex-x2", "neoverse-v2", 8, 4, 1, 4, 2, 2, 2.8, 6 << 20, 20.0, _OPTIMIZATION),
    Core("intel-n100", "none", 5, 1.5, 1, 1, 1, 1, 2.9, 6 << 20, 20.0, "estimated from Intel's optimization manual"),
    Core("haswell", "haswell", 4, 3, 2, 1, 2, 1, 3.2, 8 << 20, 20.0, "Intel optimization manual"),
    Core("skylake-avx512", "skylake-avx512", 4, 2, 2, 2, 2, 1, 2.8, 16 << 20, 20.0, "Intel optimization manual"),
    Core("icelake-server", "icelake-server", 5, 2, 2, 2, 2, 1, 2.8, 24 << 20, 25.0, "Intel optimization manual"),
    Core("zen3", "znver3", 6, 3, 2, 2, 2, 1, 3.5, 32 << 20, 25.0, "AMD optimization guide 56665"),
    Core("zen4", "znver4", 6, 3, 2, 2, 2, 1, 3.7, 32 << 20, 30.0, "AMD optimization guide 57647"),
    # LLVM has no model of Zen 5's double-width units yet; by rates.
    Core("zen5", "none", 8, 4, 2, 2, 2, 1, 4.0, 32 << 20, 35.0, "AMD optimization guide 58455"),
)
CORES: dict[str, Core] = {core.name: core for core in _CORES}


def core_of(target: Target) -> Core:
    """The core of a target with what its `[rates]` say instead.

    Raises `QsearchError` where neither its `cpu` nor its `rates.core` is in the table.
    """
    name = target.rates.core or re.sub(r"[\s_]+", "-", target.cpu.strip().lower()).removeprefix("arm-")
    if name not in CORES:
        raise QsearchError(
            f"target {target.name}: there is no cycle model of {name!r}: give [rates] core, one of {', '.join(CORES)}"
        )
    known = {field.name for field in fields(Core)} - {"name", "source"}
    given = {key: value for key, value in target.rates.model_dump().items() if key in known and value is not None}
    return replace(CORES[name], **given)
