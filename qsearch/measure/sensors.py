"""Load, temperature and clock of a Linux machine, as far as it lets them be read."""

import re
import subprocess
from dataclasses import dataclass

COMMAND = (
    "cat /proc/loadavg 2>/dev/null; echo; cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null | sed 's/^/T /'; "
    "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq 2>/dev/null | sed 's/^/F /'; "
    "grep MHz /proc/cpuinfo 2>/dev/null; true"
)
"""The shell command whose output `parse` reads."""


@dataclass(frozen=True)
class Reading:
    """One moment; None is what the machine does not tell."""

    load_average: float
    """Of the last minute."""
    temperature_c: float | None
    """Of the hottest thermal zone."""
    frequency_mhz: float | None
    """Of the fastest processor."""


def parse(text: str) -> Reading:
    """The reading in the output of `COMMAND`."""
    load = re.match(r"\s*([\d.]+)", text)
    # Some zones report a missing sensor as 0 or as an absurd number; most count in thousandths.
    hot = [int(t) / 1000 for t in re.findall(r"^T (-?\d+)$", text, re.MULTILINE) if 1000 <= int(t) < 150_000]
    clocks = [int(f) / 1000 for f in re.findall(r"^F (\d+)$", text, re.MULTILINE)]
    clocks = clocks or [float(f) for f in re.findall(r"MHz\s*:\s*([\d.]+)", text)]
    return Reading(float(load[1]) if load else 0.0, max(hot, default=None), max(clocks, default=None))


def read_here() -> Reading:
    """The reading of this machine."""
    done = subprocess.run(["sh", "-c", COMMAND], capture_output=True, text=True, check=False)
    return parse(done.stdout)
