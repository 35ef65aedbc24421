"""A run folder: what a search was made of and found, so that select, compile and report find it again."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qsearch import samples
from qsearch.allocation import Allocation, uniform
from qsearch.compile.kernels import host_isas
from qsearch.compile.plan import build as build_plan
from qsearch.compile.threads import available
from qsearch.errors import QsearchError
from qsearch.evaluation import Measurer, read_image_pairs
from qsearch.files import read_json, write_json
from qsearch.images import Pair, read_lr_images
from qsearch.measure.layer_times import LayerTimes, measured_layer_ms
from qsearch.measure.modelled import describe, latency_modelled_ms, modelled, modelled_layer_ms
from qsearch.measure.pool import Pool
from qsearch.models import LoadedModel, load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare
from qsearch.quant import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.search import Point, Predict
from qsearch.search.forms import QUANTIZERS, Quantizers
from qsearch.target import load_target

_MODELLED = "latency_modelled_ms"
CONFIG, CALIBRATION, DEVICES = "run.json", "calibration.safetensors", "devices.jsonl"
PARAMETERS = "finetuned.safetensors"
"""What fine-tuning made of the quantizers, in the folder that it wrote."""


@dataclass(frozen=True)
class RunConfig:
    """What makes two searches the same search."""

    model: str
    images: str
    calibration: str
    objectives: str
    size: tuple[int, int] = (180, 320)
    """LR (height, width) at which costs and latency are counted."""
    target: str = "host"
    threads: int | None = None
    image_limit: int | None = None
    calibration_limit: int | None = 32
    seed: int = 0
    quantizers: str = "uniform"
    """Kinds of activation quantizers that are searched: uniform, piecewise or both."""
    devices: tuple[str, ...] = ()
    """Targets that measure latency and check bytes; none is this machine, in process."""


@dataclass(frozen=True)
class Run:
    """A run folder and its configuration."""

    folder: Path
    config: RunConfig

    @staticmethod
    def create(folder: Path | str, config: RunConfig) -> "Run":
        """The run in `folder`, new or the same one continued; a new one is written once it is calibrated.

        Raises `QsearchError` where another search lives there, for more threads than this machine has, and for a
        modelled latency of a target of which there is no model, and for an unknown kind of quantizers.
        """
        if config.threads is not None and not 1 <= config.threads <= available():
            raise QsearchError(f"threads must be 1 to {available()} on this machine, not {config.threads}")
        folder = Path(folder)
        Run(folder, config).latency_model  # noqa: B018
        Run(folder, config).quantizers  # noqa: B018
        if (folder / CONFIG).is_file():
            run = Run.open(folder)
            differing = [key for key, value in asdict(config).items() if value != asdict(run.config)[key]]
            if differing:
                raise QsearchError(
                    f"{folder} holds another search: its {', '.join(differing)} differ; choose another --out folder"
                )
            return run
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise QsearchError(f"{folder} exists and holds no search of ours: choose another --out folder")
        return Run(folder, config)

    @staticmethod
    def open(folder: Path | str) -> "Run":
        """The run in `folder`; raises `QsearchError` where there is none."""
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise QsearchError(f"{folder} holds no search: there is no {CONFIG} in it")
        content = read_json(folder / CONFIG)
        try:
            config = RunConfig(
                **{**content, "size": tuple(content["size"]), "devices": tuple(content.get("devices", ()))}
            )
        except (TypeError, KeyError) as error:
            raise QsearchError(f"{folder / CONFIG} is not a run of this version: {error}") from error
        return Run(folder, config)

    @property
    def quantizers(self) -> Quantizers:
        """The kinds of quantizers that are searched; raises `QsearchError` for an unknown one."""
        for known in QUANTIZERS:
            if known == self.config.quantizers:
                return known
        raise QsearchError(f"quantizers must be uniform, piecewise or both, not {self.config.quantizers!r}")

    @cached_property
    def model(self) -> LoadedModel:
        """The float network."""
        return load(self.config.model)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The image pairs that trials are measured on."""
        return pairs_of(self.config.images, self.model.upscale, self.config.image_limit)

    def network(self, progress: Callable[[int, int], None] | None = None) -> CalibratedNetwork:
        """The calibrated network; the first time, configuration and calibration are stored in the folder.

        Nothing is written for a model or calibration images that cannot be read.
        """
        stored = self.folder / CALIBRATION
        if stored.is_file():
            return CalibratedNetwork(self.model, Calibration.load(stored, prepare(self.model.module)))
        images = calibration_images(self.config.calibration, self.model.upscale, self.config.calibration_limit)
        network = CalibratedNetwork.make(self.model, images, self.config.seed, progress)
        write_json(self.folder / CONFIG, asdict(self.config))
        network.calibration.save(stored)
        return network

    def measurer(self, network: CalibratedNetwork, pool: Pool | None = None) -> Measurer:
        """Measures allocations as this run does, on the devices of `pool` where there is one."""
        size = self.config.size if "latency_ms" in self.config.objectives and pool is None else None
        on_devices = None if pool is None else _on_devices(network, pool)
        model = self._modelled_ms if self.latency_model else None
        return Measurer(network, self.pairs, self.config.threads, size, on_devices, model)

    @property
    def latency_model(self) -> str:
        """What models the latency of trials, in words; empty where none is asked for."""
        if _MODELLED not in self.config.objectives.split(","):
            return ""
        return describe(load_target(self.config.target), self.config.threads)

    def _modelled_ms(self, program: GraphModule) -> float:
        target = load_target(self.config.target)
        plan = build_plan(program, target.isa, modelled(target))
        return latency_modelled_ms(plan, target, self.config.size, self.config.threads).latency_modelled_ms

    def predictions(self, network: CalibratedNetwork) -> dict[str, Predict]:
        """Estimates of the latencies among the objectives that cost next to nothing, for proposals to follow."""
        target, size = load_target(self.config.target), self.config.size
        if self.latency_model:
            layer_ms = modelled_layer_ms(target, self.config.threads)
            return {_MODELLED: LayerTimes(network, target.isa, size, layer_ms)}
        if "latency_ms" in self.config.objectives.split(",") and not self.config.devices:
            return {"latency_ms": LayerTimes(network, host_isas()[0], size, measured_layer_ms(self.config.threads))}
        return {}

    def finetuned(self, point: Point) -> FineTuned | None:
        """The parameters of a point that was polished; None of another, whose parameters are calibration's."""
        return FineTuned.load(self.polished(point.number) / PARAMETERS) if point.polished else None

    def polished(self, number: int) -> Path:
        """The folder of what fine-tuning made of a point."""
        return self.folder / "polished" / str(number)

    @contextmanager
    def pool(self, report: Callable[[str], None]) -> Iterator[Pool | None]:
        """The run's devices while they are used; None where it measures in this process."""
        if not self.config.devices:
            yield None
            return
        targets = [load_target(name) for name in self.config.devices]
        timed = "latency_ms" in self.config.objectives
        log = self.folder / DEVICES
        with Pool(targets, self.config.size, self.config.threads, log, report, timed) as pool:
            yield pool


def _on_devices(network: CalibratedNetwork, pool: Pool) -> Callable[[GraphModule, Allocation], dict[str, float]]:
    def measure(program: GraphModule, allocation: Allocation) -> dict[str, float]:
        trial = hashlib.sha256(allocation.to_json().encode()).hexdigest()[:12]
        return pool.measure(program, trial, lambda: network.program(uniform(network.sites, 8, 8)))

    return measure


def pairs_of(images: str, upscale: int, limit: int | None = None) -> list[Pair]:
    """The pairs of a folder, or the bundled photographs for `samples`."""
    return samples.search_pairs(upscale, limit) if images == samples.NAME else read_image_pairs(images, upscale, limit)


def calibration_images(calibration: str, upscale: int, limit: int | None = None) -> list[Any]:
    """The low-resolution images of a folder, or the bundled photographs for `samples`."""
    if calibration == samples.NAME:
        return samples.calibration_images(upscale, limit)
    return read_lr_images(calibration, limit)
