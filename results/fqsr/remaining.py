"""Where the error of a trained network comes from: what is gained where one activation stays in float."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qsearch.allocation import Allocation
from qsearch.models.loaded import to_input
from qsearch.network import CalibratedNetwork
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.twin import Twin

CROPS, FROM, SIDE = 8, 20, 48
NAMED = 3


@torch.no_grad()
def remaining_error(
    network: CalibratedNetwork, allocation: Allocation, parameters: FineTuned, images: Sequence[NDArray[np.uint8]]
) -> dict[str, Any]:
    """Mean squared error to the float network on crops of low-resolution `images`, in squared levels of 255, and the
    sites whose quantizers cause most of it, with their shares.
    """
    white = network.model.white
    crops = [to_input(image[FROM : FROM + SIDE, FROM : FROM + SIDE], white) for image in images[:CROPS]]
    wanted = [network.calibration.graph(crop) for crop in crops]
    twin = Twin(network.calibration, allocation, parameters)

    def error() -> float:
        off = [((twin(crop) - float_result) * 255 / white).square().mean() for crop, float_result in
               zip(crops, wanted, strict=True)]  # fmt: skip
        return float(torch.stack(off).mean())

    total, without = error(), {}
    for site, target in twin.sites.items():
        quantizer = twin.graph.get_submodule(target)
        twin.graph.set_submodule(target, nn.Identity())
        without[site] = 1 - error() / total
        twin.graph.set_submodule(target, quantizer)
    most = sorted(without.items(), key=lambda entry: -entry[1])[:NAMED]
    return {"squared_levels": total, "shares": dict(most)}
