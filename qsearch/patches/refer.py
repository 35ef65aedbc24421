"""RefER: a query patch borrows features from its reference patch, by correlation, flow, warp and fusion."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.patches.conv8 import TOP, Conv8, rounded

FLOAT_BITS, BITS = 32, 8


class RefER(nn.Module):
    """Repairs float features [N, C, h, w] of query patches with those of their references, of the same shape.

    Both are projected to a few channels (1×1), averaged over cells of `reduce` × `reduce` pixels and compared by their
    cosine, every cell with every cell; softmax(cosine/τ) gives each query cell its mean place in the reference, the
    flow, which is enlarged bilinearly; the reference is sampled there; a convolution of both, starting from zero, is
    added to the query. A new module is therefore the identity. τ is learned, as its logarithm.

    The convolutions and the comparison are on 8-bit values; softmax, flow and sampling are float.
    """

    def __init__(
        self, channels: int, projected: int = 16, reduce: int = 4, kernel: int = 3, temperature: float = 0.05
    ) -> None:
        super().__init__()
        if min(channels, projected, reduce) < 1 or kernel % 2 == 0 or temperature <= 0:
            raise QsearchError("RefER needs positive channels, cells and temperature, and a kernel of odd size")
        self.channels, self.projected, self.reduce, self.kernel = channels, projected, reduce, kernel
        self.project = Conv8(channels, projected, 1, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.fuse = Conv8(2 * channels, channels, kernel)
        nn.init.zeros_(self.fuse.weight)
        assert self.fuse.bias is not None
        nn.init.zeros_(self.fuse.bias)

    def forward(self, query: Tensor, reference: Tensor) -> Tensor:
        warped = warp(reference, self.flow(query, reference))
        return query + self.fuse(torch.cat([query, warped], 1))

    def flow(self, query: Tensor, reference: Tensor) -> Tensor:
        """Displacement [N, 2, h, w] in pixels, rows first: where in the reference each query pixel finds its like."""
        rows, columns = query.shape[2:]
        volume = self.volume(query, reference)
        cells = -(-rows // self.reduce), -(-columns // self.reduce)
        place = _cells(*cells, query.device).to(query.dtype)
        expected = torch.softmax(volume / self.log_temperature.exp(), -1) @ place
        flow = (expected - place).transpose(1, 2).reshape(-1, 2, *cells) * self.reduce
        if self.reduce > 1:
            flow = F.interpolate(flow, scale_factor=float(self.reduce), mode="bilinear", align_corners=False)
        return flow[:, :, :rows, :columns]

    def volume(self, query: Tensor, reference: Tensor) -> Tensor:
        """Cosines [N, cells of the query, cells of the reference]."""
        if query.shape != reference.shape:
            raise QsearchError(f"a query of {list(query.shape)} has a reference of {list(reference.shape)}")
        step = torch.tensor(1 / TOP, device=query.device)
        a, b = (rounded(F.normalize(self._keys(value), dim=1), step) for value in (query, reference))
        return a.transpose(1, 2) @ b

    def macs(self, rows: int, columns: int) -> dict[str, int]:
        """Multiplications for one query patch: `project` (both patches), `volume`, `flow`, `warp` and `fuse`."""
        return refer_macs(self.channels, self.projected, self.reduce, self.kernel, rows, columns)

    def bitops(self, rows: int, columns: int) -> int:
        """Σ MAC · 8 · 8 for one query patch, the flow in float as MAC · 32 · 32."""
        macs = self.macs(rows, columns)
        flow = macs.pop("flow")
        return sum(macs.values()) * BITS**2 + flow * FLOAT_BITS**2

    def _keys(self, features: Tensor) -> Tensor:
        # Deployed, a feature is on one grid for the projection and the fusion.
        keys = self.project(features, self.fuse.top)
        if self.reduce > 1:
            keys = F.avg_pool2d(keys, self.reduce, ceil_mode=True)
        return keys.flatten(2)


def refer_macs(channels: int, projected: int, reduce: int, kernel: int, rows: int, columns: int) -> dict[str, int]:
    """See `RefER.macs`."""
    pixels = rows * columns
    cells = -(-rows // reduce) * -(-columns // reduce)
    return {
        "project": 2 * channels * projected * pixels,
        "volume": cells**2 * projected,
        "flow": 2 * cells**2 + 8 * pixels,
        "warp": 4 * channels * pixels,
        "fuse": 2 * channels**2 * kernel**2 * pixels,
    }


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """`features` [N, C, h, w] sampled bilinearly at every pixel's place plus `flow` [N, 2, h, w] (rows, columns)."""
    rows, columns = features.shape[2:]
    place = _cells(rows, columns, flow.device).to(flow.dtype).T.reshape(1, 2, rows, columns) + flow
    last = torch.tensor([max(columns - 1, 1), max(rows - 1, 1)], dtype=flow.dtype, device=flow.device)
    # grid_sample wants (column, row) in −1…1 from the first pixel's centre to the last one's.
    grid = place.flip(1).permute(0, 2, 3, 1) * 2 / last - 1
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _cells(rows: int, columns: int, device: torch.device) -> Tensor:
    """(row, column) of every cell, int64 [rows·columns, 2]."""
    return torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
