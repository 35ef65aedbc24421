"""`qsearch quantize`: from a float network to a folder with its integer program."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.allocation import Allocation, Site, uniform
from qsearch.commands.progress import bar
from qsearch.compile.host import HostNetwork
from qsearch.cost import ops_fqsr
from qsearch.errors import QsearchError
from qsearch.evaluation import evaluate
from qsearch.files import require_free, staged_folder, write_json
from qsearch.integer.onnx_export import save_onnx
from qsearch.integer.storage import save_program
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare, sites
from qsearch.run import calibration_images, pairs_of

SUMMARY, ALLOCATION, ONNX = "quantized.json", "allocation.json", "model.onnx"
BITS = re.compile(r"w(?P<weight>\d+)a(?P<input>\d+)|fqsr-(?P<wt>\d+)-(?P<fm>\d+)-(?P<sc>\d+)")
DEFAULT_SIZE = (180, 320)


def quantize_model(
    model: str,
    out: Path,
    bits: str,
    allocation_file: Path | None,
    calibration: str,
    images: str,
    limit: int | None,
    onnx: str | None,
    console: Console,
) -> dict[str, Any]:
    """Calibrate, lower and store `model`; the summary holds PSNR (float and integer) and costs.

    A failure leaves nothing behind.
    """
    if onnx not in (None, "qdq", "exact"):
        raise QsearchError(f"--onnx must be qdq or exact, not {onnx!r}")
    require_free(out)
    loaded = load(model)
    found = sites(prepare(loaded.module))
    allocation = Allocation.load(allocation_file) if allocation_file else parse_bits(bits, found)
    allocation.check(found)
    pairs = pairs_of(images, loaded.upscale, limit)
    with bar(console, "calibrating") as progress:
        lr_images = calibration_images(calibration, loaded.upscale, limit)
        network = CalibratedNetwork.make(loaded, lr_images, progress=progress)
    program = network.program(allocation)
    result = evaluate(HostNetwork(program).run, pairs, loaded.upscale)
    floating = evaluate(loaded.run, pairs, loaded.upscale)
    summary = {
        "model": model,
        "upscale": loaded.upscale,
        "score": asdict(result),
        "float_score": asdict(floating),
        "costs": quantized_costs(network, allocation),
    }
    with staged_folder(out) as folder:
        save_program(program, folder)
        allocation.save(folder / ALLOCATION)
        write_json(folder / SUMMARY, summary)
        if onnx:
            save_onnx(program, folder / ONNX, "exact" if onnx == "exact" else "qdq")
    console.print(
        f"{loaded.name}: {floating.psnr_y_db:.3f} dB in float, {result.psnr_y_db:.3f} dB in integers "
        f"on {result.images} images ({result.protocol})"
    )
    return {"out": str(out), **summary}


def quantized_costs(network: CalibratedNetwork, allocation: Allocation) -> dict[str, Any]:
    """All costs at the default size; `ops_fqsr` (10⁹) takes the bits of each convolution's input, as FQSR does."""
    layers = network.layers(DEFAULT_SIZE)
    input_bits = {layer.name: allocation.bits(f"{layer.name}.input") for layer in layers}
    costs = network.coster(DEFAULT_SIZE, ["peak_bytes"])(allocation)
    return {"size": DEFAULT_SIZE, **costs, "ops_fqsr": ops_fqsr(layers, input_bits)}


def parse_bits(text: str, sites: list[Site]) -> Allocation:
    """The uniform allocation of `w4a8`, skip operands at 8 bits, or of FQSR's wt/fm/sc such as `fqsr-4-4-8`.

    Both quantize everything: head, body, tail and skip operands; the image keeps its 8 bits.
    """
    match = BITS.fullmatch(text)
    values = [int(value) for value in match.groups() if value is not None] if match else []
    if not values or not all(2 <= value <= 8 for value in values):
        raise QsearchError(f"bits {text!r} are not of the form w4a8 or fqsr-4-4-8 with 2 to 8 bits each")
    return uniform(sites, *values)
