"""What piecewise quantizers cost in time, and what a limit of their span brings."""

from functools import partial
from typing import Any

import numpy as np
from methods import SPANS, Images

from qsearch.allocation import uniform
from qsearch.compile import tuning
from qsearch.compile.host import HostNetwork
from qsearch.measure.timers import interleave
from qsearch.network import CalibratedNetwork

SIZE, ROUNDS, THREADS = (180, 320), 15, 1


def measure_latency(network: CalibratedNetwork, images: Images) -> dict[str, Any]:
    """Milliseconds of the network in interleaved rounds: uniform 8 bits, and 4-bit weights with each kind of input."""
    image = np.resize(images[0], (*SIZE, 3))
    choose = tuning.measured(THREADS)
    wide = network.program(uniform(network.sites, 8, 8))
    hosts = {"uniform W8A8": HostNetwork(wide, threads=THREADS, choose=choose)}
    for method in SPANS:
        program = network.program(method.allocation(network, 4))
        hosts[method.name] = HostNetwork(program, threads=THREADS, choose=choose)
    calls = {name: partial(host.run, image) for name, host in hosts.items()}
    found = interleave(calls, ROUNDS, threads=THREADS, size=SIZE)
    rows = {name: {"ms": timing.median_ms} for name, timing in found.timings.items()}
    for name, ratio in found.ratios.items():
        rows[name]["ratio"] = ratio.median
    return {"rows": rows, "size": SIZE, "threads": THREADS, "rounds": ROUNDS}
