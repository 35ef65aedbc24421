"""Training the low width and its RefERs on groups of patches of one image: L1 and distillation; survives a kill."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from qsearch.errors import QsearchError
from qsearch.evaluation import Upscaler
from qsearch.images import Pair, read_pairs
from qsearch.models.checkpoints import read_state_dict, save_weights
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Policy
from qsearch.patches.referenced import ReferencedTwin, borrowed, referenced_upscaler
from qsearch.patches.split import Layout
from qsearch.quant.finetuned import fingerprint
from qsearch.training.loop import Loop
from qsearch.training.patches import Patches
from qsearch.training.settings import TrainingSettings

REFERENCED = "referenced.safetensors"


@dataclass(frozen=True)
class ReferSettings(TrainingSettings):
    """Those of training RefER; `patch` is the side of the LR region that is split into patches of the layout."""

    iterations: int = 2_000
    batch: int = 1
    """Regions of each step, every one of its own image."""
    patch: int = 96
    warmup: int = 20
    average: float = 0.99
    distillation: float = 0.3
    """Weight of the L1 distance to the float network's output beside that to the original."""
    refer_unit: float = 0.1
    """Learning rate of RefER's parameters as a multiple of that of the low width's weights (see `quant.free`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("distillation", "refer_unit"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise QsearchError(f"training: {name} must not be negative, not {getattr(self, name)}")


def train_referenced(
    network: CalibratedNetwork,
    twin: ReferencedTwin,
    layout: Layout,
    policy: Policy,
    folders: Sequence[Path | str],
    output: Path | str,
    settings: ReferSettings,
    validation: Path | str | None = None,
    console: Console | None = None,
) -> float:
    """Train `twin` on the original images in `folders`, with references and queries as `policy` decides.

    At the end `twin` has the best averaged parameters, which are also in `output`/referenced.safetensors. Gives the
    mean PSNR of the validation images, simulated in PyTorch; NaN without images. The same call continues from
    `output`/checkpoint.pt. Raises `QsearchError` as `qsearch.training.train` does.
    """
    output = Path(output)
    data = Patches.of(folders, network.model.upscale, network.model.white, settings)
    pairs = read_pairs(validation, network.model.upscale) if validation is not None else []
    console = console or Console(stderr=True, quiet=True)
    run = _Run(network, twin, layout, policy, settings, output, data, pairs, console)
    run.begin()
    run.train()
    twin.load_state_dict(read_state_dict(output / REFERENCED))
    twin.eval()
    return run.state.best_psnr_db


class _Run(Loop):
    """The low width and the RefERs of one twin."""

    settings: ReferSettings
    module: ReferencedTwin
    averaged: ReferencedTwin
    begins_trained = True

    def __init__(
        self,
        network: CalibratedNetwork,
        twin: ReferencedTwin,
        layout: Layout,
        policy: Policy,
        settings: ReferSettings,
        output: Path,
        data: Patches,
        pairs: list[Pair],
        console: Console,
    ) -> None:
        super().__init__(network.model, settings, output, data, pairs, console)
        self.network, self.layout, self.policy = network, layout, policy
        allocations = [part.allocation.to_json() for part in (twin.high, twin.low)]
        self.identity |= {
            "network": fingerprint(network.calibration.graph),
            "allocations": allocations,
            "RefER positions": twin.positions,
            "layout": [layout.patch, layout.overlap, layout.merge],
        }
        twin.requires_grad_(False).train()
        groups: list[dict[str, Any]] = twin.low.training_groups(1.0)
        groups.append({"params": list(twin.refers.parameters()), "unit": settings.refer_unit})
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self.take(twin, groups)

    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """L1 of the queries to the originals and to the float network, in what the patches give to the result."""
        losses = [self._region_loss(*region) for region in zip(lr, hr, strict=True)]
        return torch.stack(losses).mean() * (255.0 / self.white)

    def where(self, lr: Tensor) -> str:
        """Nothing: the layers are not run on whole regions."""
        return ""

    def upscaler(self) -> Upscaler:
        """The averaged parameters, in PyTorch."""
        return referenced_upscaler(self.averaged, self.model, self.layout, self.policy)

    def keep(self) -> None:
        """Replace the parameters' file."""
        save_weights(self.output / REFERENCED, self.averaged, {"RefER positions": self.averaged.positions})

    def _region_loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Of one region [3, P, P] and its original; 0 where every patch is a reference."""
        image = torch.round(lr * (255.0 / self.white)).to(torch.uint8).permute(1, 2, 0).numpy()
        patches = self.layout.split(*image.shape[:2])
        references = borrowed(self.policy.decide(image, patches))
        inputs = torch.stack([lr[:, *patch.input.slices] for patch in patches])
        results = self.module(inputs, references)
        with torch.no_grad():
            wanted = self.network.calibration.graph(inputs)
        total, upscale = results.sum() * 0.0, self.network.model.upscale
        queries = [index for index, reference in enumerate(references.tolist()) if reference != index]
        for index in queries:
            patch = patches[index]
            inner = patch.output.within(patch.input).scaled(upscale).slices
            original = hr[:, *patch.output.scaled(upscale).slices]
            result, float_result = results[index][:, *inner], wanted[index][:, *inner]
            total = total + (result - original).abs().mean()
            total = total + self.settings.distillation * (result - float_result).abs().mean()
        return total / max(len(queries), 1)
