"""What every training shares: batches, Adam along a cosine, averaged weights, validation, a checkpoint that survives a
kill.

Everything random is a function of (seed, iteration), and everything else is in the checkpoint, so a run that was
killed and started again ends with the weights of an uninterrupted one (same machine, same number of threads).
"""

import copy
import io
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.evaluation import Upscaler
from qsearch.files import staged_folder, write_atomic
from qsearch.images import Pair
from qsearch.metrics import Protocol, psnr
from qsearch.models.loaded import LoadedModel, freeze
from qsearch.training.checkpoint import CHECKPOINT, State, checked_checkpoint
from qsearch.training.patches import Patches
from qsearch.training.settings import TrainingSettings, learning_rate


class Loop(ABC):
    """One training run: a module, its average, an optimizer and the position, all of which a checkpoint restores."""

    begins_trained = False
    """Whether the first weights are already worth keeping, so that a run never ends with worse ones."""

    def __init__(
        self,
        model: LoadedModel,
        settings: TrainingSettings,
        output: Path,
        data: Patches,
        pairs: Sequence[Pair],
        console: Console,
    ) -> None:
        self.model, self.settings, self.output = model, settings, output
        self.name, self.white = model.name, model.white
        self.data, self.pairs, self.console = data, pairs, console
        self.identity: dict[str, Any] = {**asdict(settings), "model": model.name, "images": data.names}
        """What must be the same for a run to be continued."""
        self.state = State()

    def take(self, module: nn.Module, groups: list[dict[str, Any]]) -> None:
        """Train `module`: Adam on `groups`, each with the factor `unit` of its learning rate."""
        self.module: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = freeze(copy.deepcopy(self.module))
        self.optimizer = torch.optim.Adam([group for group in groups if group["params"]])

    @abstractmethod
    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """What is minimised on one batch, in levels of 255."""

    @abstractmethod
    def upscaler(self) -> Upscaler:
        """The averaged weights at work, for the validation."""

    @abstractmethod
    def keep(self) -> None:
        """Store the averaged weights as the result so far."""

    def fill(self, folder: Path) -> None:  # noqa: B027 (most runs need nothing more)
        """Write what a new run needs besides its checkpoint into its folder."""

    def begin(self) -> None:
        """Continue from the checkpoint in the output folder, or start in a new folder; say what happens."""
        if (self.output / CHECKPOINT).exists():
            self.resume()
        else:
            with staged_folder(self.output) as folder:
                self.fill(folder)
                self.save(folder)
        at = f", continuing at iteration {self.state.iteration}" if self.state.iteration else ""
        self.console.print(
            f"{self.name}: {len(self.data.hr)} images ({self.data.skipped} too small), "
            f"{self.settings.iterations} iterations of {self.settings.batch} patches of {self.settings.patch} px{at}",
            highlight=False,
        )

    def train(self) -> None:
        """Iterate to the end, validating and saving on the way."""
        settings, state, losses, began = self.settings, self.state, [], time.monotonic()
        first = state.iteration
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(self.name, total=settings.iterations, completed=first)
            if self.begins_trained and not state.iteration:
                self.validate()
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
                    self.save(self.output)
                progress.update(task, completed=state.iteration)

    def step(self, lr: Tensor, hr: Tensor) -> float:
        """One optimizer step; the loss in levels of 255."""
        rate = learning_rate(self.settings, self.state.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["unit"]
        self.optimizer.zero_grad()
        lr = lr.contiguous(memory_format=torch.channels_last)
        loss = self.loss(lr, hr)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self.diverged(f"the loss became {value}{self.where(lr)}")
        loss.backward()
        self.optimizer.step()
        self.average()
        return value

    def where(self, lr: Tensor) -> str:
        """The first layer that gives NaN or infinity on a batch, in words; empty when there is none."""
        found: list[str] = []

        def look(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                    found.append(name)

            return hook

        layers = [(name, module) for name, module in self.module.named_modules() if name]
        hooks = [module.register_forward_hook(look(name)) for name, module in layers]
        with torch.no_grad():
            self.module(lr)
        for hook in hooks:
            hook.remove()
        return f" in layer {found[0]}" if found else ""

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

    def score(self) -> float:
        """Mean PSNR of the validation images with the averaged weights; NaN without images."""
        if not self.pairs:
            return float("nan")
        upscale_image, protocol = self.upscaler(), Protocol("y", self.model.upscale)
        return float(np.mean([psnr(upscale_image(pair.lr), pair.hr, protocol) for pair in self.pairs]))

    @property
    def protocol(self) -> str:
        """How the validation images are compared."""
        return str(Protocol("y", self.model.upscale, self.pairs[0].lr_source)) if self.pairs else "no validation images"

    def validate(self) -> None:
        """Measure the averaged weights and keep them if they are the best so far (the latest, without images)."""
        self.check_finite()
        psnr_db, state = self.score(), self.state
        if math.isnan(psnr_db) or state.best_iteration is None or psnr_db > state.best_psnr_db:
            state.best_psnr_db, state.best_iteration = psnr_db, state.iteration
            self.keep()

    @property
    def kept_iteration(self) -> int:
        """The iteration whose weights were kept."""
        assert self.state.best_iteration is not None
        return self.state.best_iteration

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

    def save(self, folder: Path) -> None:
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
        write_atomic(folder / CHECKPOINT, buffer.getvalue())

    def resume(self) -> None:
        """Take weights, optimizer and position from the checkpoint."""
        content = checked_checkpoint(self.output / CHECKPOINT, self.identity)
        try:
            self.module.load_state_dict(content["module"])
            self.averaged.load_state_dict(content["averaged"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.state = State(**content["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise QsearchError(
                f"{self.output / CHECKPOINT} belongs to another network: use another output folder"
            ) from error
