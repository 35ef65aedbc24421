"""Plain float training: L1 on random patches, a cosine learning rate, averaged weights; survives a kill.

Everything random is a function of (seed, iteration), and everything else is in the checkpoint, so a run that was
killed and started again ends with the weights of an uninterrupted one (same machine, same number of threads).
"""

import copy
import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.files import new_folder, write_atomic
from qsearch.images import Pair, read_pairs
from qsearch.metrics import Protocol, psnr
from qsearch.models.checkpoints import read_torch_file, save_weights
from qsearch.models.loaded import LoadedModel, freeze
from qsearch.training.patches import Patches
from qsearch.training.settings import TrainingSettings, learning_rate

CHECKPOINT = "checkpoint.pt"
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


@dataclass
class _State:
    """What a checkpoint holds, apart from the weights: where the run is and the best validation so far."""

    iteration: int = 0
    best_psnr_db: float = float("nan")
    best_iteration: int = 0


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
    data = Patches(
        folders,
        upscale=model.upscale,
        white=model.white,
        patch=settings.patch,
        batch=settings.batch,
        seed=settings.seed,
    )
    pairs = read_pairs(validation, model.upscale) if validation is not None else []
    run = _Run(model, settings, output, data, pairs, console)
    run.begin()
    run.train()
    protocol = Protocol("y", model.upscale, pairs[0].lr_source) if pairs else "no validation images"
    return TrainingResult(output / WEIGHTS, run.state.best_psnr_db, str(protocol), run.state.best_iteration)


class _Run:
    """One training run: weights, optimizer and position, all of which a checkpoint restores."""

    def __init__(
        self,
        model: LoadedModel,
        settings: TrainingSettings,
        output: Path,
        data: Patches,
        pairs: list[Pair],
        console: Console,
    ) -> None:
        self.model, self.settings, self.output = model, settings, output
        self.data, self.pairs, self.console = data, pairs, console
        self.identity = {**asdict(settings), "model": model.name, "images": data.names}
        self.module = copy.deepcopy(model.module).train().requires_grad_(True)
        self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = freeze(copy.deepcopy(self.module))
        self.optimizer = torch.optim.Adam(_parameter_groups(self.module, model.white))
        self.state = _State()

    def begin(self) -> None:
        """Continue from the checkpoint in the output folder, or start in a new folder; say what happens."""
        if (self.output / CHECKPOINT).exists():
            self.resume()
        else:
            new_folder(self.output)
            self.save()
        at = f", continuing at iteration {self.state.iteration}" if self.state.iteration else ""
        self.console.print(
            f"{self.model.name}: {len(self.data.hr)} images ({self.data.skipped} too small), "
            f"{self.settings.iterations} iterations of {self.settings.batch} patches of {self.settings.patch} px{at}",
            highlight=False,
        )

    def train(self) -> None:
        """Iterate to the end, validating and saving on the way."""
        settings, state, losses, began = self.settings, self.state, [], time.monotonic()
        first = state.iteration
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(self.model.name, total=settings.iterations, completed=first)
            while state.iteration < settings.iterations:
                losses.append(self.step(*self.data.batch_of(state.iteration)))
                state.iteration += 1
                last = state.iteration == settings.iterations
                if last or state.iteration % settings.validate_every == 0:
                    self.validate()
                    seconds = (time.monotonic() - began) / (state.iteration - first)
                    self.report(float(np.mean(losses)), seconds)
                    losses.clear()
                if last or state.iteration % settings.checkpoint_every == 0:
                    self.save()
                progress.update(task, completed=state.iteration)

    def step(self, lr: Tensor, hr: Tensor) -> float:
        """One optimizer step; the loss in levels of 255."""
        rate = learning_rate(self.settings, self.state.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["unit"]
        self.optimizer.zero_grad()
        output = self.module(lr.contiguous(memory_format=torch.channels_last))
        loss = (output - hr).abs().mean() * (255.0 / self.model.white)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self.diverged(f"the loss became {value}")
        loss.backward()
        self.optimizer.step()
        self.average()
        return value

    def diverged(self, what: str) -> QsearchError:
        """The error of a run that went wrong, naming what is left of it."""
        return QsearchError(
            f"training stopped: {what} at iteration {self.state.iteration}; {self.output / CHECKPOINT} keeps the last "
            f"good weights; try a learning rate below {self.settings.learning_rate:g}"
        )

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights; early on they follow faster, since the first weights are worth nothing."""
        decay = min(self.settings.average, (1 + self.state.iteration) / (10 + self.state.iteration))
        new = self.module.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(new[name], 1 - decay)
            else:
                value.copy_(new[name])

    def validate(self) -> None:
        """Measure the averaged weights and keep them if they are the best so far (the latest, without images)."""
        psnr_db = float("nan")
        if self.pairs:
            averaged = LoadedModel(self.averaged, "", "", self.model.upscale, self.model.white)
            protocol = Protocol("y", self.model.upscale)
            psnr_db = float(np.mean([psnr(averaged.run(pair.lr), pair.hr, protocol) for pair in self.pairs]))
        if not self.pairs or not self.state.best_iteration or psnr_db > self.state.best_psnr_db:
            self.check_finite()
            self.state.best_psnr_db, self.state.best_iteration = psnr_db, self.state.iteration
            save_weights(self.output / WEIGHTS, self.averaged, self.metadata())

    def check_finite(self) -> None:
        """Refuse to keep weights that a step has ruined after a finite loss."""
        for name, value in self.module.state_dict().items():
            if not bool(value.isfinite().all()):
                raise self.diverged(f"{name} became NaN or infinite")

    def report(self, loss: float, seconds: float) -> None:
        """One line on where the run is."""
        left = (self.settings.iterations - self.state.iteration) * seconds / 60
        self.console.print(
            f"iteration {self.state.iteration}/{self.settings.iterations}  loss {loss:.3f} levels  "
            f"best {self.state.best_psnr_db:.3f} dB at {self.state.best_iteration}  "
            f"{seconds * 1000:.1f} ms each, {left:.0f} min left",
            highlight=False,
        )

    def metadata(self) -> dict[str, Any]:
        """What made the weights, for their file."""
        return {
            "name": self.model.name,
            "family": self.model.family,
            "upscale": self.model.upscale,
            "white": self.model.white,
            "training": {
                **asdict(self.settings),
                "loss": "L1",
                "optimizer": "Adam, cosine",
                "images": self.data.names,
                "kept_iteration": self.state.best_iteration,
                "validation_psnr_y_db": None if not self.pairs else round(self.state.best_psnr_db, 4),
            },
        }

    def save(self) -> None:
        """Replace the checkpoint in one step, so that a kill leaves the old one or the new one."""
        self.check_finite()
        content = {
            "identity": self.identity,
            "state": asdict(self.state),
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomic(self.output / CHECKPOINT, buffer.getvalue())

    def resume(self) -> None:
        """Take weights, optimizer and position from the checkpoint."""
        path = self.output / CHECKPOINT
        content = read_torch_file(path)
        identity = content.get("identity") if isinstance(content, dict) else None
        if not isinstance(identity, dict):
            raise QsearchError(f"{path} is no training checkpoint: use another output folder")
        different = [key for key, value in self.identity.items() if identity.get(key) != value]
        if different:
            raise QsearchError(
                f"{path} was made with another {', '.join(different)}: give the same, or another output folder"
            )
        try:
            self.module.load_state_dict(content["module"])
            self.averaged.load_state_dict(content["averaged"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.state = _State(**content["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise QsearchError(f"{path} belongs to another network: use another output folder") from error


def _parameter_groups(module: nn.Module, white: float) -> list[dict[str, Any]]:
    """Biases move `white` times as far: they are in units of the image, and Adam's step is absolute.

    A network of images 0…255 thereby learns exactly as fast as the same network of images 0…1.
    """
    biases = [value for name, value in module.named_parameters() if name.endswith("bias")]
    others = [value for name, value in module.named_parameters() if not name.endswith("bias")]
    groups = [{"params": others, "unit": 1.0}, {"params": biases, "unit": white}]
    return [group for group in groups if group["params"]]
