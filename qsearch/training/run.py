"""Plain float training: L1 on random patches, a cosine learning rate, averaged weights; survives a kill."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from qsearch.evaluation import Upscaler
from qsearch.images import Pair, read_pairs
from qsearch.models.checkpoints import save_weights
from qsearch.models.loaded import LoadedModel
from qsearch.training.checkpoint import CHECKPOINT
from qsearch.training.loop import Loop
from qsearch.training.patches import Patches
from qsearch.training.settings import TrainingSettings

__all__ = ["CHECKPOINT", "WEIGHTS", "TrainingResult", "train"]

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class TrainingResult:
    """The best weights by validation and where they are."""

    weights: Path
    psnr_db: float
    """Mean PSNR of the validation images with the kept weights, or NaN without validation images."""
    protocol: str
    iteration: int
    """The iteration whose weights were kept."""


def train(
    model: LoadedModel,
    folders: Sequence[Path | str],
    output: Path | str,
    settings: TrainingSettings,
    validation: Path | str | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Train `model` on the original images in `folders`; keep the best weights in `output`/weights.safetensors.

    The low-resolution images are made by MATLAB's bicubic. `output`/checkpoint.pt is replaced every
    `checkpoint_every` iterations; the same call continues from it. Without `validation` the last weights are kept.
    Raises `QsearchError` when the images are missing or too small, when the output folder holds something else or a
    checkpoint of other settings, or when the loss stops being a finite number (the last good checkpoint stays).
    """
    output = Path(output)
    console = console or Console(stderr=True, quiet=True)
    data = Patches.of(folders, model.upscale, model.white, settings)
    pairs = read_pairs(validation, model.upscale) if validation is not None else []
    run = _Run(model, settings, output, data, pairs, console)
    run.begin()
    run.train()
    return TrainingResult(output / WEIGHTS, run.state.best_psnr_db, run.protocol, run.kept_iteration)


class _Run(Loop):
    """The weights of a float network, batch normalization included."""

    def __init__(
        self,
        model: LoadedModel,
        settings: TrainingSettings,
        output: Path,
        data: Patches,
        pairs: list[Pair],
        console: Console,
    ) -> None:
        super().__init__(model, settings, output, data, pairs, console)
        module = copy.deepcopy(model.module).train().requires_grad_(True)
        self.take(module, _parameter_groups(module, model.white))

    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """L1 to the originals."""
        return (self.module(lr) - hr).abs().mean() * (255.0 / self.white)

    def upscaler(self) -> Upscaler:
        """The averaged float network."""
        return LoadedModel(self.averaged, "", "", self.model.upscale, self.white).run

    def keep(self) -> None:
        """Replace the weights file."""
        save_weights(self.output / WEIGHTS, self.averaged, self.metadata())

    def metadata(self) -> dict[str, Any]:
        """What made the weights, for their file."""
        return {
            "name": self.model.name,
            "family": self.model.family,
            "upscale": self.model.upscale,
            "white": self.white,
            "training": {
                **asdict(self.settings),
                "loss": "L1",
                "optimizer": "Adam, cosine",
                "images": self.data.names,
                "kept_iteration": self.state.best_iteration,
                "validation_psnr_y_db": None if not self.pairs else round(self.state.best_psnr_db, 4),
            },
        }


def _parameter_groups(module: nn.Module, white: float) -> list[dict[str, Any]]:
    """Biases move `white` times as far: they are in units of the image, and Adam's step is absolute.

    A network of images 0…255 thereby learns exactly as fast as the same network of images 0…1.
    """
    biases = [value for name, value in module.named_parameters() if name.endswith("bias")]
    others = [value for name, value in module.named_parameters() if not name.endswith("bias")]
    return [{"params": others, "unit": 1.0}, {"params": biases, "unit": white}]
