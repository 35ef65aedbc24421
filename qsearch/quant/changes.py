"""What every quantizer changes, for FQSR's calibration loss.

Source: Wang et al., "Fully quantized image super-resolution networks", ACM MM 2021: the sum over all quantizers of the
mean absolute difference between a value and its quantized self, with gradients to both.
"""

import torch
from torch import Tensor

from qsearch.quant.free import FreeTwin


def measure_changes(twin: FreeTwin) -> None:
    """Let every quantizer of `twin` keep what it changes."""
    for quantizer in twin.quantizers():
        quantizer.measured = True


def total_change(twin: FreeTwin, white: float) -> Tensor:
    """Σ mean|Q(v) − v| over the activations of the last run, in levels of 255 of the image, and all weights.

    What one layer gives is what the next one takes, so the inputs and outputs of all layers are counted by the
    quantizers between them.
    """
    weights = [(conv.quantized_weight() - conv.weight()).abs().mean() for conv in twin.free_convolutions()]
    activations = [quantizer.change for quantizer in twin.quantizers() if quantizer.change is not None]
    return torch.stack(weights).sum() + sum(activations, torch.zeros(())) * (255.0 / white)
