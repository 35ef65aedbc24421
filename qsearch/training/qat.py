"""Quantization-aware training of an allocation: L1 to the originals through the twin of the integer network.

Source of intervals and calibration loss: Wang et al., "Fully quantized image super-resolution networks", ACM MM 2021
(FQSR). Batch normalization is folded before, so the trained weights are those of the integer network; validation runs
that network, compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from qsearch.allocation import Allocation
from qsearch.compile.host import HostNetwork
from qsearch.evaluation import Upscaler
from qsearch.images import Pair, read_pairs
from qsearch.models.checkpoints import read_state_dict, save_weights
from qsearch.models.loaded import LoadedModel
from qsearch.network import CalibratedNetwork
from qsearch.quant.changes import measure_changes, total_change
from qsearch.quant.finetuned import FineTuned, fingerprint
from qsearch.quant.free import FloatTwin, FreeTwin
from qsearch.quant.odd import OddTwin
from qsearch.training.checkpoint import CHECKPOINT, checked_checkpoint
from qsearch.training.loop import Loop
from qsearch.training.patches import Patches
from qsearch.training.settings import Levels, QuantizedSettings
from qsearch.training.start import calibrated_start, maximum_start

START, CALIBRATION = "start.safetensors", "calibration.safetensors"
TRAINED, COMPARED = "trained.safetensors", "compared.safetensors"
TWINS: dict[Levels, type[FreeTwin]] = {"exact-zero": FreeTwin, "fqsr-odd": OddTwin, "float": FloatTwin}


@dataclass(frozen=True)
class QuantizedResult:
    """The best parameters by validation and where they are."""

    parameters: FineTuned | None
    """For `CalibratedNetwork.program`; None where the levels are only for comparison."""
    network: LoadedModel | None
    """What was trained only for comparison, in PyTorch."""
    file: Path
    psnr_db: float
    """Mean PSNR of the validation images, of the integer network unless it is for comparison; NaN without images."""
    protocol: str
    iteration: int
    """The iteration whose parameters were kept."""


def train_quantized(
    network: CalibratedNetwork,
    allocation: Allocation,
    folders: Sequence[Path | str],
    output: Path | str,
    settings: QuantizedSettings,
    validation: Path | str | None = None,
    console: Console | None = None,
    start: FineTuned | None = None,
) -> QuantizedResult:
    """Train weights, biases and intervals of `allocation` on the original images in `folders`.

    Begins at the parameters of `start`, or as `settings.start` says. The best parameters are kept in
    `output`/trained.safetensors, the state in `output`/checkpoint.pt, from which the same call continues. Raises
    `QsearchError` as `qsearch.training.train` does, and for an allocation of another network.
    """
    output = Path(output)
    console = console or Console(stderr=True, quiet=True)
    allocation.check(network.sites)
    model = network.model
    data = Patches.of(folders, model.upscale, model.white, settings)
    pairs = read_pairs(validation, model.upscale) if validation is not None else []
    run = _Run(network, allocation, settings, output, data, pairs, console, start)
    run.begin()
    run.train()
    exact = settings.levels == "exact-zero"
    return QuantizedResult(
        FineTuned.load(output / TRAINED) if exact else None,
        None if exact else run.compared(),
        output / (TRAINED if exact else COMPARED),
        run.state.best_psnr_db,
        run.protocol,
        run.kept_iteration,
    )


class _Run(Loop):
    """The twin of one allocation."""

    settings: QuantizedSettings
    averaged: FreeTwin
    begins_trained = True

    def __init__(
        self,
        network: CalibratedNetwork,
        allocation: Allocation,
        settings: QuantizedSettings,
        output: Path,
        data: Patches,
        pairs: list[Pair],
        console: Console,
        start: FineTuned | None,
    ) -> None:
        super().__init__(network.model, settings, output, data, pairs, console)
        self.network = network
        self.identity["allocation"] = allocation.to_json()
        self.identity["network"] = fingerprint(network.calibration.graph)
        self.identity["start parameters"] = repr(start.grids) if start else ""
        self.start = self._start(allocation, start)
        twin = TWINS[settings.levels](network.calibration, allocation, self.start).requires_grad_(False)
        groups = twin.training_groups(settings.interval_unit if settings.learned_intervals else 0.0)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self.take(twin, groups)
        self.counts_changes = settings.calibration_weight > 0 and settings.levels != "float"
        if self.counts_changes:
            measure_changes(twin)
        self.host: HostNetwork | None = None

    def _start(self, allocation: Allocation, start: FineTuned | None) -> FineTuned:
        if (self.output / CHECKPOINT).exists():
            checked_checkpoint(self.output / CHECKPOINT, self.identity)
            return FineTuned.load(self.output / START)
        if start is not None:
            start.check(self.network.calibration.graph, allocation)
            return start
        if self.settings.start == "calibration":
            return calibrated_start(self.network.calibration, allocation)
        # Batches after the last one, so that none is seen twice.
        numbers = range(self.settings.iterations, self.settings.iterations + self.settings.start_iterations)
        batches = (self.data.batch_of(number)[0] for number in numbers)
        return maximum_start(self.network.calibration, allocation, batches)

    def fill(self, folder: Path) -> None:
        """What the checkpoint's numbers are relative to."""
        self.start.save(folder / START)
        self.network.calibration.save(folder / CALIBRATION)

    def loss(self, lr: Tensor, hr: Tensor) -> Tensor:
        """L1 to the originals, to the float network's output, and the calibration loss."""
        output, share = self.module(lr), self.settings.teacher
        loss = (1 - share) * (output - hr).abs().mean()
        if share:
            with torch.no_grad():
                taught = self.model.module(lr)
            loss = loss + share * (output - taught).abs().mean()
        loss = loss * (255.0 / self.white)
        if not self.counts_changes:
            return loss
        assert isinstance(self.module, FreeTwin)
        return loss + self.settings.calibration_weight * total_change(self.module)

    def upscaler(self) -> Upscaler:
        """The compiled integer network of the averaged weights; what is only compared, in PyTorch."""
        if self.settings.levels != "exact-zero":
            return LoadedModel(self.averaged, "", "", self.model.upscale, self.white).run
        program = self.network.program(self.averaged.allocation, self.averaged.finetuned())
        if self.host is None:
            self.host = HostNetwork(program, torch.get_num_threads())
        self.host.set_program(program)
        return self.host.run

    def keep(self) -> None:
        """Replace the parameters' file."""
        if self.settings.levels == "exact-zero":
            self.averaged.finetuned().save(self.output / TRAINED)
        else:
            save_weights(self.output / COMPARED, self.averaged, {"levels": self.settings.levels})

    def compared(self) -> LoadedModel:
        """The network that was kept, where it is only for comparison."""
        self.averaged.load_state_dict(read_state_dict(self.output / COMPARED))
        return LoadedModel(self.averaged, self.name, "twin", self.model.upscale, self.white)
