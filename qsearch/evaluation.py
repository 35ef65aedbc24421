"""How good an allocation is: its compiled integer network on image pairs, and its latency on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.allocation import Allocation, uniform
from qsearch.compile import kernels, tuning
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.images import Pair, read_pairs
from qsearch.measure.timers import interleave
from qsearch.metrics import Protocol, evaluate_pair, luma, psnr
from qsearch.network import CalibratedNetwork
from qsearch.quant.finetuned import FineTuned

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
LATENCY_ROUNDS = 7
MIN_SIDE = 11
"""Pixels that SSIM needs on each side after the crop."""


@dataclass(frozen=True)
class Score:
    """Means over images: `mse` is the squared error of Y in grey levels², which adds up where PSNR does not."""

    psnr_y_db: float
    ssim_y: float
    psnr_rgb_db: float
    mse: float
    images: int
    protocol: str


def evaluate(upscale_image: Upscaler, pairs: Sequence[Pair], upscale: int) -> Score:
    """PSNR and SSIM of `upscale_image` over `pairs` by the usual protocol (Y, `upscale` pixels cropped)."""
    protocol = Protocol(crop=upscale, lr_source=_lr_source(pairs))
    rows = []
    for pair in pairs:
        result = upscale_image(pair.lr)
        quality = evaluate_pair(result, pair.hr, protocol)
        rgb = psnr(result, pair.hr, Protocol("rgb", upscale))
        rows.append((quality.psnr_db, quality.ssim, rgb, _mse(result, pair.hr, upscale)))
    psnr_y_db, ssim_y, psnr_rgb_db, mse = (float(value) for value in np.mean(rows, axis=0))
    return Score(psnr_y_db, ssim_y, psnr_rgb_db, mse, len(rows), str(protocol))


def read_image_pairs(folder: str, upscale: int, limit: int | None = None) -> list[Pair]:
    """The pairs of a folder; raises `QsearchError` when there is none, or one is too small to be measured."""
    pairs = read_pairs(folder, upscale, limit)
    if not pairs:
        raise QsearchError(f"folder {folder} holds no images")
    least = 2 * upscale + MIN_SIDE
    for pair in pairs:
        height, width = pair.hr.shape[:2]
        if min(height, width) < least:
            raise QsearchError(
                f"image {pair.name} of {width}x{height} pixels is too small to measure: "
                f"at least {least}x{least} are needed for upscale {upscale}"
            )
    return pairs


@dataclass
class Measurer:
    """Measures allocations of one network on the compiled integer kernels; one compiled network serves them all.

    With `latency_size` (height, width), `latency_ms` is measured in rounds interleaved with the uniform 8-bit network
    and given as the paired ratio times the reference's first measured median, so that drift of the machine cancels.
    """

    network: CalibratedNetwork
    pairs: Sequence[Pair]
    threads: int | None = None
    latency_size: tuple[int, int] | None = None
    on_devices: Callable[[GraphModule, Allocation], dict[str, float]] | None = field(default=None, repr=False)
    """Further metrics from live devices, such as their `latency_ms`."""
    model_latency: Callable[[GraphModule], float] | None = field(default=None, repr=False)
    """Gives `latency_modelled_ms` for a device that is not there."""
    _host: HostNetwork | None = field(default=None, repr=False)
    _reference: tuple[HostNetwork, float] | None = field(default=None, repr=False)

    def __call__(self, allocation: Allocation, finetuned: FineTuned | None = None) -> dict[str, float]:
        """`psnr_y_db` and `mse`, and `latency_ms` where a size is given; with the parameters of `finetuned`, if any."""
        program = self.network.program(allocation, finetuned)
        host = self._set(program)
        upscale = self.network.model.upscale
        protocol = Protocol(crop=upscale)
        rows = []
        for pair in self.pairs:
            mse = _mse(host.run(pair.lr), pair.hr, protocol.crop)
            rows.append((10 * np.log10(255.0**2 / max(mse, 1e-10)), mse))
        psnr_y_db, mse = (float(value) for value in np.mean(rows, axis=0))
        measured = {"psnr_y_db": psnr_y_db, "mse": mse}
        if self.latency_size is not None:
            measured["latency_ms"] = self._latency_ms(host, self.latency_size)
        if self.on_devices is not None:
            measured |= self.on_devices(program, allocation)
        if self.model_latency is not None:
            measured["latency_modelled_ms"] = self.model_latency(program)
        return measured

    def _set(self, program: GraphModule) -> HostNetwork:
        """The compiled network, set to `program`."""
        if self._host is None:
            self._host = self._compiled(program)
        else:
            self._host.set_program(program)
        return self._host

    def _compiled(self, program: GraphModule) -> HostNetwork:
        """`program` in the fastest kernels where latency counts, else in those that suit every allocation."""
        choose = kernels.plain if self.latency_size is None else tuning.measured(self.threads)
        return HostNetwork(program, self.threads, choose=choose)

    def _latency_ms(self, host: HostNetwork, size: tuple[int, int]) -> float:
        image = np.zeros((*size, 3), np.uint8)
        if self._reference is None:
            reference = self._compiled(self.network.program(uniform(self.network.sites, 8, 8)))
            alone = interleave({"reference": lambda: reference.run(image)}, LATENCY_ROUNDS)
            self._reference = reference, alone.timings["reference"].median_ms
        reference, reference_ms = self._reference
        functions = {"reference": lambda: reference.run(image), "trial": lambda: host.run(image)}
        return interleave(functions, LATENCY_ROUNDS).ratios["trial"].median * reference_ms


def _mse(result: NDArray[np.uint8], hr: NDArray[np.uint8], crop: int) -> float:
    inner = np.s_[crop:-crop, crop:-crop] if crop else np.s_[:, :]
    return float(np.mean((luma(result[inner]) - luma(hr[inner])) ** 2))


def _lr_source(pairs: Sequence[Pair]) -> str:
    return " and ".join(sorted({pair.lr_source for pair in pairs}))
