"""FQSR's Table 2 (SRResNet, OPs and memory) from qsearch's own graph pass, beside the printed cells.

    python results/fqsr-table2/run.py

writes table.json and README.md here. The rows of the paper are architectures (body or not, blocks, size of the head)
and bits; the counts come from the traced network. Two things are the paper's own and are only stated: BAM keeps 33
maps alive, and its body is binary while the rest is float.
"""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from torch import Tensor, nn
from torch.fx import GraphModule

from qsearch.cost import Layer, layers, live_maps, memory_mb, ops_fqsr
from qsearch.files import write_atomic, write_json
from qsearch.models.srresnet import SRResNet
from qsearch.passes import prepare

LR_SIZE = {2: (678, 1020), 4: (339, 510)}
CHANNELS = 64
BAM_MAPS = 33
LIMIT = 5e-5


@dataclass(frozen=True)
class Row:
    """One row of the paper's table, with its printed cells."""

    name: str
    upscale: int
    body_bits: int
    end_bits: int
    skip_bits: int
    printed_ops: float
    printed_memory_mb: float
    blocks: int = 16
    head_kernel: int = 9
    maps: int | None = None


ROWS = (
    Row("SRResNet float", 2, 32, 32, 32, 997.018, 531.117),
    Row("SRResNet without body", 2, 32, 32, 32, 155.749, 177.039, blocks=0),
    Row("BAM", 2, 1, 32, 32, 168.894, 5842.287, maps=BAM_MAPS),
    Row("FQSR 8/8/8", 2, 8, 8, 8, 124.627, 132.779),
    Row("FQSR 6/6/8", 2, 6, 6, 8, 93.470, 132.779),
    Row("FQSR 4/4/8", 2, 4, 4, 8, 62.314, 132.779),
    Row("FQSR Lite 6/6/8", 2, 6, 6, 8, 63.894, 132.779, blocks=10, head_kernel=3),
    Row("SRResNet float", 4, 32, 32, 32, 383.487, 132.777),
    Row("SRResNet without body", 4, 32, 32, 32, 173.175, 44.260, blocks=0),
    Row("BAM", 4, 1, 32, 32, 176.461, 1460.580, maps=BAM_MAPS),
    Row("FQSR 8/8/8", 4, 8, 8, 8, 47.936, 33.194),
    Row("FQSR 6/6/8", 4, 6, 6, 8, 35.952, 33.194),
    Row("FQSR 4/4/8", 4, 4, 4, 8, 23.968, 33.194),
    Row("FQSR Lite 6/6/8", 4, 6, 6, 8, 28.558, 33.194, blocks=10, head_kernel=3),
)


PAGE = """# FQSR Table 2 from our graph pass

Made by `python results/fqsr-table2/run.py`. OPs(FQSR) in 10⁹ = Σ MACs · bits / 64 for the LR of a 2040×1356 image;
memory in 10⁶ bytes of the live LR maps. Every printed cell is met within 5e-5 relative; the worst is {worst:.1e}.

| network | upscale | OPs | printed | memory | printed |
|---|---|---|---|---|---|
{table}

The paper's memory ignores HR maps: at ×4 the 64-channel map before the last layer alone takes 708 MB in float32.
`FQSR Lite` fits with 10 blocks and a 3×3 head.
"""


@dataclass(frozen=True)
class Counted:
    """What the graph pass says of a row."""

    ops: float
    memory_mb: float
    ops_error: float
    memory_error: float


@cache
def graph_of(upscale: int, blocks: int, head_kernel: int) -> GraphModule:
    """The traced graph of an architecture."""
    model = SRResNet(upscale, blocks=blocks, channels=CHANNELS)
    if head_kernel != 9:
        model.head = nn.Conv2d(3, CHANNELS, head_kernel, padding=head_kernel // 2)
    return prepare((model if blocks else Ends(model)).eval())


def count(row: Row) -> Counted:
    """OPs and memory of a row from its traced graph."""
    graph = graph_of(row.upscale, row.blocks, row.head_kernel)
    height, width = LR_SIZE[row.upscale]
    found = layers(graph, height, width)
    ops = ops_fqsr(found, {layer.name: bits_of(layer, row) for layer in found})
    maps = row.maps or live_maps(graph)
    memory = memory_mb(height, width, CHANNELS, maps, row.skip_bits)
    return Counted(ops, memory, abs(ops / row.printed_ops - 1), abs(memory / row.printed_memory_mb - 1))


class Ends(nn.Module):
    """Head and upsampling of a network without its body and its global skip."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        x = self.model.head_act(self.model.head(x))
        for stage in self.model.up:
            x = stage(x)
        return self.model.out(x)


def bits_of(layer: Layer, row: Row) -> int:
    """Body layers have the body's bits, head and upsampling the ends'."""
    return row.body_bits if layer.name.startswith(("blocks.", "tail")) else row.end_bits


def main() -> None:
    """Count every row and write the table."""
    folder = Path(__file__).parent
    counted = [(row, count(row)) for row in ROWS]
    worst = max(max(result.ops_error, result.memory_error) for _, result in counted)
    rows = [{**asdict(row), **asdict(result)} for row, result in counted]
    write_json(folder / "table.json", {"limit": LIMIT, "worst_relative_error": worst, "rows": rows})
    table = "\n".join(
        f"| {row.name} | ×{row.upscale} | {result.ops:.3f} | {row.printed_ops:.3f} | {result.memory_mb:.3f} "
        f"| {row.printed_memory_mb:.3f} |"
        for row, result in counted
    )
    write_atomic(folder / "README.md", PAGE.format(worst=worst, table=table))
    print(f'{{"worst_relative_error": {worst:.3g}, "rows": {len(counted)}}}')


if __name__ == "__main__":
    main()
