"""What every quantizer changes, for FQSR's calibration loss.

Source: Wang et al., "Fully quantized image super-resolution networks", ACM MM 2021: the sum over all quantizers of the
mean absolute difference between a value and its quantized self, with gradients to both. In the networks of the paper
batch normalization makes the root mean square of a value about 1, and that of weights about 1/√n where an output sums n
products. Changes count in these units, so that it makes no difference how channels are equalized, and whether an image
is 0…1 or 0…255.
"""

import torch
from torch import Tensor

from qsearch.quant.free import FreeTwin


def measure_changes(twin: FreeTwin) -> None:
    """Let every quantizer of `twin` keep what it changes, relative to what calibration saw."""
    for site, target in twin.sites.items():
        quantizer = twin.graph.get_submodule(target)
        quantizer.unit = twin.calibration.stats[site].root_mean_square or 1.0  # type: ignore[assignment]


def total_change(twin: FreeTwin) -> Tensor:
    """Σ mean|Q(v) − v| / rms(v) over the activations of the last run, and the same over √n for the weights.

    What one layer gives is what the next one takes, so the inputs and outputs of all layers are counted by the
    quantizers between them.
    """
    weights = [
        ((conv.quantized_weight() - conv.weight()) / conv.unit).abs().mean() / conv.float_weight[0].numel() ** 0.5
        for conv in twin.free_convolutions()
    ]
    activations = [quantizer.change for quantizer in twin.quantizers() if quantizer.change is not None]
    return torch.stack(weights).sum() + sum(activations, torch.zeros(()))
