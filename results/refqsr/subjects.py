"""What is measured: three networks ×4, calibrated, on pictures with their originals."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qsearch.data import shared_data
from qsearch.images import Pair, downscale, mod_crop, read_lr_images, read_pairs
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare
from qsearch.patches import Clustering, Layout
from qsearch.patches.classifier import Classifier
from qsearch.quant import Calibration
from qsearch.samples import photograph

UPSCALE = 4
NETWORKS = {"rnet9": "rnet9_x4.pt", "srresnet": "srresnet_bn8_x4.pt", "carn_m": "carn_m_x234.pt"}
PHOTOGRAPHS = ("retina.jpg", "hubble_deep_field.jpg", "rocket.jpg", "coffee.png", "astronaut.png", "chelsea.png")
"""Larger photographs that come with scikit-image, free of rights but one (chelsea, CC0)."""
SETS = ("Set14", "B100", "photographs")
SET = SETS[0]
CALIBRATION_IMAGES, CLASSES = 32, 8
LAYOUT = Layout(48, 4)
SEAMLESS = Layout(32, 0, "seamless")


@dataclass(frozen=True)
class Subject:
    """One network; what is made from it is kept in the folder of runs."""

    key: str
    runs: Path
    limit: int | None
    """Of images in every set, for a trial."""

    @property
    def data(self) -> Path:
        """The shared images and weights."""
        folder = shared_data()
        assert folder is not None
        return folder

    @property
    def weights(self) -> Path:
        """The published checkpoint."""
        return self.data / "weights" / NETWORKS[self.key]

    @property
    def folder(self) -> Path:
        """Everything that is kept of this network."""
        return self.runs / self.key

    @cached_property
    def images(self) -> list:  # type: ignore[type-arg]
        """Low-resolution images without originals."""
        return read_lr_images(self.data / "calibration", self.limit or CALIBRATION_IMAGES)

    @cached_property
    def network(self) -> CalibratedNetwork:
        """Calibrated once."""
        model, file = load(self.weights), self.folder / "calibration.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            CalibratedNetwork.make(model, self.images).calibration.save(file)
        return CalibratedNetwork(model, Calibration.load(file, prepare(model.module)))

    @cached_property
    def clustering(self) -> Clustering:
        """Trained once, one reference in every cluster."""
        file = self.folder / "classifier.safetensors"
        if not file.is_file():
            Clustering.train(self.network, self.images, LAYOUT, CLASSES).classifier.save(file)
        return Clustering(Classifier.load(file))

    def pairs(self, name: str) -> list[Pair]:
        """One of `SETS`."""
        if name == "photographs":
            return [_pair(file) for file in PHOTOGRAPHS[: self.limit]]
        folder = self.data / "benchmarks" / name
        return read_pairs(folder if name == "B100" else folder / f"x{UPSCALE}", UPSCALE, self.limit)


def _pair(file: str) -> Pair:
    hr = mod_crop(photograph(file), UPSCALE)
    return Pair(Path(file).stem, downscale(hr, UPSCALE), hr, "MATLAB bicubic")
