"""Predicted layer times follow the span of a layer's input, not the number of its codes."""

import numpy as np

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.compile.kernels import host_isas
from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec
from qsearch.measure.layer_times import LayerTimes
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from tests.small_networks import random_images
from tests.tiny import TINY


def span_ms(spec: ConvSpec, isa: str, conv: Convolution, size: tuple[int, int]) -> float:
    return float(conv.values[1] - conv.values[0])


def test_a_span_has_a_price() -> None:
    network = CalibratedNetwork.make(load(TINY), random_images(2))
    times = LayerTimes(network, host_isas()[0], (24, 32), span_ms)
    base = uniform(network.sites, 4, 4)

    def of(setting: SiteAllocation) -> float:
        return times(Allocation(sites={**base.sites, "conv2.input": setting}))

    uniform_ms = of(SiteAllocation(bits=4))
    within = {span: of(SiteAllocation(bits=4, quantizer="piecewise", span=span)) for span in (31, 63, None)}
    assert uniform_ms < within[31] <= uniform_ms + 31 - 15
    assert within[31] <= within[63] <= within[None]
    grid = network.calibration.grid("conv2.input", SiteAllocation(bits=4, quantizer="piecewise"))
    assert within[None] == uniform_ms + grid.span - 15
    assert np.isfinite(times(base))
