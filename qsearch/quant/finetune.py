"""Sensitivity-aware fine-tuning of the quantizers' parameters against the float network; no original images.

Source: Wang et al., "Outlier-aware post-training quantization for image super-resolution", ICCV 2025. Its rates would
hardly move a bound (Adam moves at most the rate per iteration), so parameters are relative here (see `lattice`), and
weights may also be rounded the other way and biases moved. Everything random is a function of (seed, iteration) and the
rest is in the checkpoint, so that a run that was killed ends as an uninterrupted one.
"""

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.models.checkpoints import read_torch_file
from qsearch.quant.bias import correct_biases
from qsearch.quant.blocks import reconstruct
from qsearch.quant.calibration import Calibration
from qsearch.quant.features import Features, feature_weights
from qsearch.quant.finetune_settings import MIN_PATCH, FineTuneSettings
from qsearch.quant.finetuned import FineTuned, fingerprint
from qsearch.quant.twin import Twin, keep_to_one_step

CHECKPOINT_EVERY = 50
SENSITIVITY_BATCHES = 4
BIAS_BATCH = 16


def finetune(
    calibration: Calibration,
    allocation: Allocation,
    images: Sequence[NDArray[np.uint8]],
    settings: FineTuneSettings | None = None,
    checkpoint: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Fine-tune `allocation` of a calibrated network on crops of low-resolution images (uint8 [H, W, 3]).

    With `checkpoint` the state is kept in that file, and the same call continues from it. Raises `QsearchError` without
    images, for one under 16 pixels, for a checkpoint of something else, and when the loss is no finite number.
    """
    run = _Run(calibration, allocation, Crops(images, calibration.white), settings or FineTuneSettings())
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        run.resume(path)
    else:
        run.begin()
        if path is not None:
            run.save(path)
    while run.iteration < run.settings.iterations:
        run.step()
        if path is not None and (run.iteration % CHECKPOINT_EVERY == 0 or run.iteration == run.settings.iterations):
            run.save(path)
        if progress:
            progress(run.iteration, run.settings.iterations)
    return run.twin.finetuned()


class Crops:
    """Random crops of low-resolution images of any sizes, turned in the eight ways of a square."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], white: float) -> None:
        if not images:
            raise QsearchError("fine-tuning needs at least one low-resolution image; there is none")
        self.images, self.white = images, white
        self.smallest = min(min(image.shape[:2]) for image in images)
        if self.smallest < MIN_PATCH:
            raise QsearchError(
                f"an image to fine-tune on has a side of {self.smallest} pixels: at least {MIN_PATCH} are needed"
            )

    def batch(self, seed: tuple[int, ...], count: int, side: int) -> Tensor:
        """float32 [count, 3, side, side] in 0…white, channels last; smaller where an image is."""
        random, side = np.random.default_rng(seed), min(side, self.smallest)
        crops = []
        for index in random.choice(len(self.images), count, replace=count > len(self.images)):
            height, width = self.images[index].shape[:2]
            top, left = random.integers(height - side + 1), random.integers(width - side + 1)
            crop = np.rot90(self.images[index][top : top + side, left : left + side], int(random.integers(4)))
            crops.append(crop[:, ::-1] if random.integers(2) else crop)
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() * (self.white / 255)
        return pixels.contiguous(memory_format=torch.channels_last)

    def digest(self) -> str:
        """Changes with the images."""
        found = hashlib.sha256()
        for image in self.images:
            found.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        return found.hexdigest()[:16]


class _Run:
    """The twin, the optimizer and the position: all that a checkpoint restores."""

    def __init__(
        self, calibration: Calibration, allocation: Allocation, crops: Crops, settings: FineTuneSettings
    ) -> None:
        self.calibration, self.crops, self.settings = calibration, crops, settings
        self.identity = {
            "settings": asdict(settings),
            "allocation": allocation.to_json(),
            "network": fingerprint(calibration.graph),
            "images": crops.digest(),
        }
        self.twin = Twin(calibration, allocation)
        self.float_features = Features(calibration.graph, settings.features)
        self.features = Features(self.twin.graph, settings.features)
        self.weights = feature_weights(self.float_features, self._sensitivity_batches(), settings, calibration.white)
        parameters = self.twin.parameter_groups()
        self.optimizer = torch.optim.Adam(
            [{"params": parameters[group], "group": group} for group in settings.groups if parameters[group]]
            or [{"params": [nn.Parameter(torch.zeros(()))], "group": settings.groups[0]}]
        )
        self.iteration = 0

    def _sensitivity_batches(self) -> list[Tensor]:
        seed, batch, patch = self.settings.seed, self.settings.batch, self.settings.patch
        return [self.crops.batch((seed, 1, index), batch, patch) for index in range(SENSITIVITY_BATCHES)]

    def begin(self) -> None:
        """What comes before the first iteration."""
        settings = self.settings
        if settings.correct_bias:
            correct_biases(self.twin, self.crops.batch((settings.seed, 2), BIAS_BATCH, settings.patch))
        if settings.block_iterations:
            reconstruct(self.twin, self.crops.batch((settings.seed, 3), settings.block_crops, settings.patch), settings)

    def step(self) -> None:
        """One iteration."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(group["group"], self.iteration)
        x = self.crops.batch((self.settings.seed, 0, self.iteration), self.settings.batch, self.settings.patch)
        loss = self.loss(x)
        if not math.isfinite(float(loss.detach())):
            raise QsearchError(f"fine-tuning stopped: the loss became {float(loss.detach())}; use smaller rates")
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            if group["lr"] == 0:
                for parameter in group["params"]:
                    parameter.grad = None
        self.optimizer.step()
        keep_to_one_step(self.twin)
        self.iteration += 1

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
        self.optimizer.load_state_dict(content["optimizer"])
        self.iteration = content["iteration"]


def _normalized(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-12)
