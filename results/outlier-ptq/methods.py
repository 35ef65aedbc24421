"""The rows of the tables: what each method makes of a calibrated network, at so many bits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qsearch.allocation import Allocation, Observer, QuantizerKind, SiteAllocation, uniform
from qsearch.network import CalibratedNetwork
from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of
from qsearch.quant.choice import with_quantizers
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import PUBLISHED, VANILLA, FineTuneSettings, settings_of
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.moving import moving_ranges, published_start

Images = Sequence[NDArray[np.uint8]]
SAFT = settings_of(None, fixed_weights=True, seed=0)
FULL = FineTuneSettings()


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    name: str
    kind: QuantizerKind | None
    """None chooses at each site."""
    published: bool
    """Activations by `observer`, or by moving ranges, instead of the quantizers of least squared error."""
    settings: FineTuneSettings | None = None
    observer: Observer | None = None
    per_tensor: bool = False
    """Weights by one range per convolution, rounded to nearest."""
    printed: bool = False
    """Piecewise quantizers as printed, in float arithmetic."""
    span: int | None = None
    input_bits: int | None = None
    """Of inputs, where they are not those of the weights."""

    def allocation(self, network: CalibratedNetwork, bits: int) -> Allocation:
        """`bits` for weights and inputs; 8 for skip operands and for the first, the last and upsampling layers."""
        wide = ends(network)
        found = {}
        for name, site in uniform(network.sites, bits, self.input_bits or bits).sites.items():
            own = 8 if name.rpartition(".")[0] in wide else site.bits
            observer = None if name.endswith(".weight") else self.observer
            found[name] = SiteAllocation(bits=own, observer=observer)
        chosen = with_quantizers(network.calibration, Allocation(sites=found), self.kind)
        if self.span is None:
            return chosen
        limited = {
            name: site.model_copy(update={"span": self.span}) if site.quantizer == "piecewise" else site
            for name, site in chosen.sites.items()
        }
        return Allocation(sites=limited)

    def parameters(
        self, network: CalibratedNetwork, allocation: Allocation, images: Images, report: Callable[[int, int], None]
    ) -> FineTuned | None:
        """The quantizers' parameters; None are those of calibration."""
        start = None
        if self.published:
            ranges = None if self.observer else moving_ranges(network.calibration, images)
            start = published_start(network.calibration, allocation, ranges, self.per_tensor)
        if self.settings is None:
            return start
        return finetune(network.calibration, allocation, images, self.settings, start, progress=report)


def ends(network: CalibratedNetwork) -> set[str]:
    """First, last and, as in the code on which the paper rests, upsampling convolutions."""
    graph, found = network.calibration.graph, set()
    for node in graph.graph.nodes:
        conv = module_of(graph, node)
        if not isinstance(conv, FusedConv):
            continue
        first = any(site.name == f"{conv.name}.input" and site.choices == (8,) for site in network.sites)
        readers = list(node.users)
        shuffled = any(isinstance(module_of(graph, user), nn.PixelShuffle) for user in readers)
        if first or shuffled or any(user.op == "output" for user in readers):
            found.add(conv.name)
    return found


# The published fine-tuning with a scale per channel, as all rows but those of one range per convolution have it.
BY_CHANNEL, ALIKE = replace(PUBLISHED, weight_scales="channel"), replace(VANILLA, weight_scales="channel")
PER_TENSOR_ROWS = (
    Method("MinMax, weights per tensor", "uniform", True, per_tensor=True),
    Method("PLQ + SAFT, weights per tensor", "piecewise", True, PUBLISHED, per_tensor=True),
)
PUBLISHED_ROWS = (
    Method("MinMax", "uniform", True),
    Method("Percentile", "uniform", True, observer="percentile"),
    Method("MSE", "uniform", True, observer="mse"),
    Method("vanilla FT", "uniform", True, ALIKE),
    Method("SAFT", "uniform", True, BY_CHANNEL),
    Method("PLQ as printed, in float", "piecewise", True, printed=True),
    Method("PLQ", "piecewise", True),
    Method("PLQ + SAFT", "piecewise", True, BY_CHANNEL),
)
OUR_ROWS = (
    Method("PLQ of least error", "piecewise", False),
    Method("+ SAFT", "piecewise", False, SAFT),
    Method("+ bias correction", "piecewise", False, replace(SAFT, iterations=0, correct_bias=True)),
    Method("+ fitted weights", "piecewise", False, replace(FULL, iterations=0)),
    Method("+ fitted weights + SAFT", "piecewise", False, FULL),
    Method("+ fitted weights + SAFT + choice by site", None, False, FULL),
)
BASELINES = ("MinMax", "Percentile", "MSE", "vanilla FT")
FITTED = replace(FULL, iterations=0)
SPANS = (
    *(Method(f"span {span}", "piecewise", False, FITTED, span=span) for span in (31, 63, 255)),
    *(Method(f"uniform, {bits}-bit inputs", "uniform", False, FITTED, input_bits=bits) for bits in (4, 5, 6, 8)),
)
METHODS = {method.name: method for method in (*PER_TENSOR_ROWS, *PUBLISHED_ROWS, *OUR_ROWS, *SPANS)}
