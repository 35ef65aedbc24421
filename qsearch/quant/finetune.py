"""Sensitivity-aware fine-tuning of the quantizers' parameters against the float network; no original images.

Source: Wang et al., "Outlier-aware post-training quantization for image super-resolution", ICCV 2025. Its rates would
hardly move a bound (Adam moves at most the rate per iteration), so parameters are relative here (see `lattice`).
Weights may first be fitted to what each layer reads (see `refit`), and then also be rounded the other way. Everything
random is a function of (seed, iteration) and the rest is in the checkpoint, so that a run that was killed ends as an
uninterrupted one.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.models.checkpoints import read_torch_file
from qsearch.quant.bias import correct_biases
from qsearch.quant.calibration import Calibration
from qsearch.quant.crops import Crops
from qsearch.quant.features import Features, feature_weights
from qsearch.quant.finetune_settings import FineTuneSettings
from qsearch.quant.finetuned import FineTuned, fingerprint
from qsearch.quant.refit import refit
from qsearch.quant.twin import Twin, keep_to_one_step

CHECKPOINT_EVERY = 50
CHECK_EVERY, CHECK_CROPS, CHECK_SIDE = 25, 12, 64
SENSITIVITY_BATCHES = 4
BIAS_BATCH = 16
REFIT_CROPS, REFIT_SIDE = 64, 48


def finetune(
    calibration: Calibration,
    allocation: Allocation,
    images: Sequence[NDArray[np.uint8]],
    settings: FineTuneSettings | None = None,
    start: FineTuned | None = None,
    checkpoint: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Fine-tune `allocation` of a calibrated network on crops of low-resolution images (uint8 [H, W, 3]).

    Begins at the parameters of calibration, or at `start`, and gives the state that came nearest to the float network
    on crops of its own. With `checkpoint` the state is kept in that file, and the
    same call continues from it. Raises `QsearchError` without images, for one under 16 pixels, for a checkpoint of
    something else, and when the loss is no finite number.
    """
    settings = settings or FineTuneSettings()
    run = _Run(calibration, allocation, Crops(images, calibration.white, settings.stretched), settings, start)
    path = Path(checkpoint) if checkpoint is not None else None
    total = run.layers + settings.iterations
    report = progress or (lambda done, total: None)
    if path is not None and path.exists():
        run.resume(path)
    else:
        run.begin(lambda done: report(done, total))
        if path is not None:
            run.save(path)
    while run.iteration < settings.iterations:
        run.step()
        if run.iteration % CHECK_EVERY == 0 or run.iteration == settings.iterations:
            run.check()
        if path is not None and (run.iteration % CHECKPOINT_EVERY == 0 or run.iteration == settings.iterations):
            run.save(path)
        report(run.layers + run.iteration, total)
    return run.best()


class _Run:
    """The twin, the optimizer and the position: all that a checkpoint restores."""

    def __init__(
        self,
        calibration: Calibration,
        allocation: Allocation,
        crops: Crops,
        settings: FineTuneSettings,
        start: FineTuned | None = None,
    ) -> None:
        self.calibration, self.crops, self.settings = calibration, crops, settings
        self.identity = {
            "settings": asdict(settings),
            "allocation": allocation.to_json(),
            "network": fingerprint(calibration.graph),
            "images": crops.digest(),
            "start": repr(start.grids) if start else "",
        }
        per_tensor = settings.weight_scales == "tensor"
        self.twin = Twin(calibration, allocation, start, per_tensor).requires_grad_(False)
        self.float_features = Features(calibration.graph, settings.features)
        self.features = Features(self.twin.graph, settings.features)
        self.weights = feature_weights(self.float_features, self._sensitivity_batches(), settings, calibration.white)
        parameters = self.twin.parameter_groups()
        self.optimizer = torch.optim.Adam([{"params": parameters[group], "group": group} for group in settings.groups])
        self.layers = len(self.twin.convolutions()) if settings.refit else 0
        self.iteration = 0
        self.least, self.least_state = math.inf, self.twin.state_dict()

    def _sensitivity_batches(self) -> list[Tensor]:
        seed, batch, patch = self.settings.seed, self.settings.batch, self.settings.patch
        return [self.crops.batch((seed, 1, index), batch, patch) for index in range(SENSITIVITY_BATCHES)]

    def begin(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """What comes before the first iteration; reports the layers that are done."""
        settings = self.settings
        if settings.refit:
            crops = self.crops.batch((settings.seed, 3), REFIT_CROPS, REFIT_SIDE)
            refit(self.twin, crops, settings.ridge, settings.seed, progress)
        elif settings.correct_bias:
            correct_biases(self.twin, self.crops.batch((settings.seed, 2), BIAS_BATCH, settings.patch))
        self.check()

    def check(self) -> None:
        """Keep the state where it comes nearest to the float network on crops that no iteration takes."""
        x = self.crops.batch((self.settings.seed, 5), CHECK_CROPS, CHECK_SIDE)
        with torch.no_grad():
            off = [self.twin(part) - self.calibration.graph(part) for part in x.split(self.settings.batch)]
        # The mean of logarithms, as PSNR is averaged over images.
        error = float(torch.cat(off).square().mean((1, 2, 3)).clamp_min(1e-12).log().mean())
        if error < self.least:
            self.least = error
            self.least_state = {name: tensor.clone() for name, tensor in self.twin.state_dict().items()}

    def best(self) -> FineTuned:
        """The parameters of the best state that was checked."""
        self.twin.load_state_dict(self.least_state)
        return self.twin.finetuned()

    def step(self) -> None:
        """One iteration."""
        settings, trained = self.settings, False
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(group["group"], self.iteration)
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)
                trained |= parameter.requires_grad
        if trained:
            self._descend(self.crops.batch((settings.seed, 0, self.iteration), settings.batch, settings.patch))
        self.iteration += 1

    def _descend(self, x: Tensor) -> None:
        loss = self.loss(x)
        if not math.isfinite(float(loss.detach())):
            raise QsearchError(f"fine-tuning stopped: the loss became {float(loss.detach())}; use smaller rates")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        keep_to_one_step(self.twin)

    def loss(self, x: Tensor) -> Tensor:
        """L_sen + 5·L_rec on one batch."""
        with torch.no_grad():
            wanted, wanted_features = self.float_features.run(x)
        shown, shown_features = self.features.run(x)
        off = (shown - wanted) * (255 / self.calibration.white)
        distance = off.abs().mean() if self.settings.distance == "l1" else (off.square().mean() + 1e-12).sqrt()
        loss = self.settings.reconstruction_weight * distance
        for name, weight in self.weights.items():
            unlike = _normalized(wanted_features[name]) - _normalized(shown_features[name])
            loss = (
                loss
                + self.settings.feature_weight * weight / len(self.weights) * (unlike.square().sum() + 1e-12).sqrt()
            )
        return loss

    def save(self, path: Path) -> None:
        """Replace the checkpoint in one step."""
        content = {
            "identity": self.identity,
            "iteration": self.iteration,
            "twin": self.twin.state_dict(),
            "least": self.least,
            "least_state": self.least_state,
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomic(path, buffer.getvalue())

    def resume(self, path: Path) -> None:
        """Take everything from the checkpoint."""
        content: Any = read_torch_file(path)
        identity = content.get("identity") if isinstance(content, dict) else None
        if not isinstance(identity, dict):
            raise QsearchError(f"{path} is no checkpoint of fine-tuning: use another file")
        different = [key for key, value in self.identity.items() if identity.get(key) != value]
        if different:
            raise QsearchError(f"{path} was made with another {', '.join(different)}: use the same, or another file")
        self.twin.load_state_dict(content["twin"])
        self.least, self.least_state = content["least"], content["least_state"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.iteration = content["iteration"]


def _normalized(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-12)
