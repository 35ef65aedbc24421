"""What a cycle model must know of a device: the optional `[rates]` table of a target file."""

from pydantic import BaseModel, ConfigDict, Field


class Rates(BaseModel):
    """Overrides of what `qsearch.measure.cycles.cores` knows of a core; None keeps the core's own figure.

    Operations per cycle are those of 128-bit vectors on ARM and of the widest vectors on x86.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    core: str | None = None
    """Core of the table, where the target's `cpu` is not its name."""
    source: str = ""
    """Where these figures come from."""
    clock_ghz: float | None = Field(default=None, gt=0, le=10)
    """Sustained clock of the cores that run the network."""
    cache_bytes: int | None = Field(default=None, ge=1 << 10)
    """Last level of cache that the core can fill."""
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    """10⁹ bytes per second from and to memory, all cores together."""
    launch_us: float | None = Field(default=None, ge=0)
    """What starting and joining the threads of one kernel takes."""
    mca_cpu: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Processor whose scheduling model llvm-mca takes; "none" goes by the rates below."""
    issue_width: float | None = Field(default=None, gt=0)
    vector_ops: float | None = Field(default=None, gt=0)
    multiplies: float | None = Field(default=None, gt=0)
    dots: float | None = Field(default=None, gt=0)
    """Byte dot products and byte matrix products."""
    loads: float | None = Field(default=None, gt=0)
    stores: float | None = Field(default=None, gt=0)
