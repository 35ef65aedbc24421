"""A run folder: what a search was made of and found, so that select, compile and report find it again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qsearch import samples
from qsearch.compile.threads import available
from qsearch.errors import QsearchError
from qsearch.evaluation import Measurer, read_image_pairs
from qsearch.files import read_json, write_json
from qsearch.images import Pair, read_lr_images
from qsearch.models import LoadedModel, load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare
from qsearch.quant import Calibration

CONFIG, CALIBRATION = "run.json", "calibration.safetensors"


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


@dataclass(frozen=True)
class Run:
    """A run folder and its configuration."""

    folder: Path
    config: RunConfig

    @staticmethod
    def create(folder: Path | str, config: RunConfig) -> "Run":
        """The run in `folder`, new or the same one continued; a new one is written once it is calibrated.

        Raises `QsearchError` where another search lives there, and for more threads than this machine has.
        """
        if config.threads is not None and not 1 <= config.threads <= available():
            raise QsearchError(f"threads must be 1 to {available()} on this machine, not {config.threads}")
        folder = Path(folder)
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
            config = RunConfig(**{**content, "size": tuple(content["size"])})
        except (TypeError, KeyError) as error:
            raise QsearchError(f"{folder / CONFIG} is not a run of this version: {error}") from error
        return Run(folder, config)

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

    def measurer(self, network: CalibratedNetwork) -> Measurer:
        """Measures allocations as this run does."""
        size = self.config.size if "latency_ms" in self.config.objectives else None
        return Measurer(network, self.pairs, self.config.threads, size)


def pairs_of(images: str, upscale: int, limit: int | None = None) -> list[Pair]:
    """The pairs of a folder, or the bundled photographs for `samples`."""
    return samples.search_pairs(upscale, limit) if images == samples.NAME else read_image_pairs(images, upscale, limit)


def calibration_images(calibration: str, upscale: int, limit: int | None = None) -> list[Any]:
    """The low-resolution images of a folder, or the bundled photographs for `samples`."""
    if calibration == samples.NAME:
        return samples.calibration_images(upscale, limit)
    return read_lr_images(calibration, limit)
