"""The network of two widths with RefER between: what training sees, in float arithmetic on quantized values."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch import cost
from qsearch.allocation import Allocation
from qsearch.ensemble import Upscaler
from qsearch.errors import QsearchError
from qsearch.models.loaded import LoadedModel, to_image, to_input
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.features import last_at_input_size
from qsearch.patches.refer import RefER
from qsearch.patches.split import Layout, gather, merge
from qsearch.quant.features import Features
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.free import FreeTwin
from qsearch.quant.twin import Twin


class ReferencedTwin(nn.Module):
    """References at a high allocation, queries at a low one; each query borrows features from its reference.

    A RefER follows every `every`-th residual block before the upsampling (convolutions with a skip operand; all inner
    ones in a network without). None does where there are fewer blocks: that is the control without RefER. The high
    network is not trained. Raises `QsearchError` for an allocation that does not fit.
    """

    def __init__(
        self,
        network: CalibratedNetwork,
        high: Allocation,
        low: Allocation,
        every: int = 4,
        kernel: int = 3,
        high_start: FineTuned | None = None,
        low_start: FineTuned | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise QsearchError(f"RefER comes after every block or every few, not every {every}")
        calibration = network.calibration
        self.high = Twin(calibration, high, high_start).requires_grad_(False)
        self.low = FreeTwin(calibration, low, low_start or Twin(calibration, low).finetuned())
        self.positions = _blocks(self.low)[every - 1 :: every]
        """Targets of the convolutions that a RefER follows; the same in both graphs."""
        channels = {conv: len(self._module(self.low, conv).float_weight) for conv in self.positions}
        self.refers = nn.ModuleDict({_key(at): RefER(channels[at], kernel=kernel) for at in self.positions})

    def forward(self, patches: Tensor, references: Tensor) -> Tensor:
        """Float [N, 3, H, W] in 0…white of patches [N, 3, h, w] of one image; patch i borrows from `references[i]`.

        A patch that names itself is a reference (int64 [N]); every named patch must be one.
        """
        numbers = torch.arange(len(patches))
        high, low = torch.nonzero(references == numbers)[:, 0], torch.nonzero(references != numbers)[:, 0]
        if not bool((references[references] == references).all()):
            raise QsearchError("a query borrows from a patch that is no reference")
        with torch.no_grad():
            known, features = self._run_high(patches[high])
        place = torch.zeros(len(patches), dtype=torch.long)
        place[high] = torch.arange(len(high))
        result = known.new_zeros((len(patches), *known.shape[1:]))
        result[high] = known
        if len(low):
            result[low] = self._run_low(patches[low], features, place[references[low]])
        return result

    def refer_modules(self) -> dict[str, RefER]:
        """By position, in the order of the data."""
        modules = {at: self.refers[_key(at)] for at in self.positions}
        return {at: module for at, module in modules.items() if isinstance(module, RefER)}

    def parts(self) -> dict[str, Twin]:
        """The two widths."""
        return {"high": self.high, "low": self.low}

    def refer_bitops(self, rows: int, columns: int) -> int:
        """What the RefERs of one query patch of `rows` × `columns` LR pixels cost."""
        return sum(module.bitops(rows, columns) for module in self.refer_modules().values())

    def bitops(self, network: CalibratedNetwork, rows: int, columns: int) -> tuple[int, int]:
        """BitOPs of a reference and of a query, RefER included, of `rows` × `columns` LR pixels."""
        layers = network.layers((rows, columns))
        high, low = (cost.bitops(layers, twin.allocation) for twin in (self.high, self.low))
        return high, low + self.refer_bitops(rows, columns)

    def _run_high(self, patches: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        kept: dict[str, Tensor] = {}

        def keep(at: str) -> Callable[[Any, Any, Tensor], None]:
            return lambda module, operands, value: kept.__setitem__(at, value)

        return self._hooked(self.high, keep, patches), kept

    def _run_low(self, patches: Tensor, features: dict[str, Tensor], place: Tensor) -> Tensor:
        def repair(at: str) -> Callable[[Any, Any, Tensor], Tensor]:
            module = self.refers[_key(at)]
            return lambda _, operands, value: module(value, features[at][place])

        return self._hooked(self.low, repair, patches)

    def _hooked(self, twin: Twin, hook: Callable[[str], Callable[[Any, Any, Tensor], Any]], patches: Tensor) -> Tensor:
        with ExitStack() as stack:
            for at in self.positions:
                stack.callback(self._module(twin, at).register_forward_hook(hook(at)).remove)
            result: Tensor = twin(patches)
        return result

    def _module(self, twin: Twin, at: str) -> Any:
        return twin.graph.get_submodule(at)


def referenced_upscaler(twin: ReferencedTwin, model: LoadedModel, layout: Layout, policy: Policy) -> Upscaler:
    """Upscales uint8 images [H, W, 3] as `twin` does in PyTorch, each patch rounded before all are merged.

    The policy must cluster; `RandomReferences` is the control. All patches of an image are in memory together.
    """

    def upscale_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        patches = layout.split(height, width)
        inputs = torch.cat([to_input(part, model.white) for part in gather(image, patches)])
        with torch.inference_mode():
            results = twin(inputs, borrowed(policy.decide(image, patches)))
        return merge([to_image(one[None], model.white) for one in results], patches, height, width, model.upscale)

    return upscale_image


def borrowed(decisions: Decisions) -> Tensor:
    """The reference of every patch, int64 [N]; raises `QsearchError` where nothing is clustered."""
    if decisions.references is None:
        raise QsearchError("RefER needs a policy that clusters, such as Clustering: this one names no references")
    return torch.tensor(decisions.references)


def _key(at: str) -> str:
    return at.replace(".", "_")


def _blocks(twin: Twin) -> list[str]:
    """Targets of the blocks' convolutions that have the size of the input, in the order of the data."""
    end = str(last_at_input_size(twin.graph).target)
    order = [str(node.target) for node in twin.graph.graph.nodes if node.op == "call_module"]
    return [name for name in Features(twin.graph, "blocks").names if order.index(name) < order.index(end)]
