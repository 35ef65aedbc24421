"""The basis in which the linear values of a network lose least by quantization.

The noise of a quantizer of step s comes out as s²/12 · tr(M⁻ᵀ G M⁻¹) in the basis M, where G are the second moments of
the output's derivatives by the value, and s² grows with tr(M Σ Mᵀ), where Σ are those of the value. The product is
least where MᵀM is the geometric mean of G and Σ⁻¹ (Bhatia, "Positive definite matrices", 2007, chapter 4), whatever
rotation comes behind. A rotation gives all channels their share of what is strong, as known from language models
(Ashkboos et al., "QuaRot", NeurIPS 2024); it is turned until the peaks, which are what steps have to cover, are low (as
in Liu et al., "SpinQuant", ICLR 2025, with another objective). Of many that are close to it, the one is taken whose
rounded weights change the brightness of flat areas least.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import reads_image
from qsearch.quant.grid import weight_grid
from qsearch.quant.observers import weight_scale
from qsearch.quant.streams import Stream, convolution, mixed_rows, operand, streams

_PROBES = 4
"""Random directions of the output whose derivatives are taken, for each image."""
_DAMPING = 1e-4
"""Share of the mean eigenvalue that is added to G and Σ, which bounds the condition of the basis."""
_STEPS = 30
_STRONG = 24
"""Pixels of every image and quantizer whose peaks are lowered: those of the largest norm."""
_TURNS, _TURN_RATE, _PEAK_NORM = 100, 0.02, 6
"""Steps of the rotation, in radians each, and the norm over pixels and channels that stands for a peak."""
_CLOSE, _CLOSE_ANGLE = 256, 0.01
"""Rotations that are tried around it, and how far away, in radians."""
_ROUNDED_BITS = (3, 4, 5, 6, 8)


def find_bases(
    graph: GraphModule, images: Iterable[Tensor], views: Iterable[Tensor] = (), seed: int = 0
) -> dict[str, Tensor]:
    """A basis [C, C] for every stream of a prepared graph, by name, from images [1, 3, H, W] that it is run on.

    `views` are further images, whose peaks count as well. No basis for a stream that is constant or not finite.
    """
    found = streams(graph)
    if not found:
        return {}
    moments = _Moments(graph, found, seed)
    for image in images:
        moments.add(image)
    with torch.no_grad():
        for view in views:
            moments.run(view)
    random = torch.Generator().manual_seed(seed)
    return {
        stream.name: _basis(graph, stream, moments, random).float() for stream in found if moments.are_usable(stream)
    }


class _Moments(Interpreter):
    """Second moments, summed over pixels: of what quantizers and writers of streams read, and of the derivatives of the
    output by what each quantizer of a stream gives. And the strongest pixels of what quantizers read.
    """

    def __init__(self, graph: GraphModule, found: list[Stream], seed: int) -> None:
        super().__init__(graph)
        self.inputs = {operand(writer) for stream in found for writer in stream.writers}
        self.quantizers = {quantizer for stream in found for quantizer in stream.quantizers}
        self.values: dict[Node, Tensor] = {}
        self.gains: dict[Node, Tensor] = {}
        self.strong: dict[Node, list[Tensor]] = {}
        self.read: dict[Node, Tensor] = {}
        self.random = torch.Generator().manual_seed(seed)

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        if n in self.quantizers:
            # Apart from what else reads the value, so that the derivative is that by the noise of this quantizer.
            value = self.read[n] = value.view_as(value)
            pixels = value.detach().transpose(0, 1).flatten(1)
            strongest = pixels.norm(dim=0).topk(min(_STRONG, pixels.shape[1])).indices
            self.strong.setdefault(n, []).append(pixels[:, strongest])
        if value.requires_grad and (n in self.quantizers or n in self.inputs):
            self.values[n] = self.values.get(n, 0.0) + _second_moment(value.detach())
        return value

    def add(self, image: Tensor) -> None:
        """Run one image, and its output backwards from some random directions."""
        with torch.enable_grad():
            output: Tensor = self.run(image.clone().requires_grad_())
        for probe in range(_PROBES):
            direction = torch.randn(output.shape, generator=self.random)
            last = probe == _PROBES - 1
            found = torch.autograd.grad(output, list(self.read.values()), direction, retain_graph=not last)
            for node, derivative in zip(self.read, found, strict=True):
                self.gains[node] = self.gains.get(node, 0.0) + _second_moment(derivative)

    def are_usable(self, stream: Stream) -> bool:
        """Whether values and derivatives of a stream are finite and not all 0."""
        totals = [float(of[q].trace()) for q in stream.quantizers for of in (self.values, self.gains)]
        return all(0 < total < float("inf") for total in totals)


def _basis(graph: GraphModule, stream: Stream, moments: _Moments, random: torch.Generator) -> Tensor:
    """The basis of least noise over all quantizers of a stream (float64)."""
    values = torch.stack([_damped(moments.values[quantizer]) for quantizer in stream.quantizers])
    gains = torch.stack([_damped(moments.gains[quantizer]) for quantizer in stream.quantizers])
    # The noise is Σ tr(P⁻¹ Gᵢ)·tr(P Σᵢ) for P = MᵀM, which is least where P is the mean of these weighted sums.
    metric = torch.eye(values.shape[1]).double()
    for _ in range(_STEPS):
        gain = torch.einsum("nij,n->ij", gains, torch.einsum("nij,ij->n", values, metric))
        value = torch.einsum("nij,n->ij", values, torch.einsum("nij,ij->n", gains, torch.linalg.inv(metric)))
        metric = _geometric_mean(gain, torch.linalg.inv(value))
    still = _power(metric / metric.diagonal().mean(), 0.5)
    strong = torch.stack([torch.cat(moments.strong[quantizer], 1) for quantizer in stream.quantizers])
    noise = torch.einsum("nij,ij->n", gains, torch.linalg.inv(metric))
    turned = _turned(still.float() @ strong, noise.float(), random) @ still
    return _well_rounded(graph, stream, moments, turned, random)


def _turned(strong: Tensor, noise: Tensor, random: torch.Generator) -> Tensor:
    """A rotation [C, C] that makes the peaks of values [sites, C, N] low: least Σ noise[site] · peak[site]²."""
    channels = strong.shape[1]
    start = torch.linalg.qr(torch.randn(channels, channels, generator=random)).Q
    largest = strong.square().sum(1).amax(1).sqrt().view(-1, 1, 1)
    weights = noise * largest.flatten() ** 2
    angles = torch.zeros(channels, channels, requires_grad=True)
    optimizer = torch.optim.Adam([angles], lr=_TURN_RATE)
    for _ in range(_TURNS):
        with torch.enable_grad():
            rotated = torch.linalg.matrix_exp(angles - angles.T) @ start @ (strong / largest)
            peaks = rotated.abs().pow(_PEAK_NORM).mean((1, 2)).pow(2 / _PEAK_NORM)
            loss = (weights / weights.sum() * peaks).sum().log()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (torch.linalg.matrix_exp(angles - angles.T) @ start).detach().double()


def _well_rounded(
    graph: GraphModule, stream: Stream, moments: _Moments, basis: Tensor, random: torch.Generator
) -> Tensor:
    """A basis close to `basis`. Where a writer reads the image, few weights decide the brightness of all pixels, and an
    error of theirs is seen in full; the others' inputs are weaker and their weights many.
    """
    writers = [node for node in stream.writers if reads_image(operand(operand(node)))]
    if not writers:
        return basis
    gain = torch.stack([moments.gains[quantizer] for quantizer in stream.quantizers]).sum(0)
    angles = _CLOSE_ANGLE * torch.randn(_CLOSE, *basis.shape, generator=random).double()
    close = torch.linalg.matrix_exp(angles - angles.mT) @ basis
    return min(
        close,
        key=lambda one: sum(
            _brightness_noise(convolution(graph, node), moments.values[operand(node)], gain, one) for node in writers
        ),
    )


def _brightness_noise(writer: FusedConv, read: Tensor, gain: Tensor, basis: Tensor) -> float:
    """What rounding the weights of `writer` to some bits does to flat areas of the output, from the second moments of
    what it `read`s and the `gain` of what it writes.
    """
    back = torch.linalg.inv(basis)
    gain = back.T @ gain @ back
    weight = mixed_rows(writer.weight, basis)
    total = 0.0
    for bits in _ROUNDED_BITS:
        rounded = weight_grid(weight, weight_scale(weight, bits, "mse"), bits).dequantize()
        off = (rounded - weight).double().sum((2, 3)).view(len(basis), -1, weight.shape[1])
        noise = torch.einsum("cki,ij,dkj,dc->", off, read, off, gain)
        total += 4.0**bits * float(noise)
    return total


def _second_moment(value: Tensor) -> Tensor:
    """Σ v vᵀ over images and pixels of [N, C, H, W], float64 [C, C]."""
    flat = value.transpose(0, 1).flatten(1).double()
    return flat @ flat.T


def _damped(square: Tensor) -> Tensor:
    return square + _DAMPING * square.diagonal().mean() * torch.eye(len(square)).double()


def _power(square: Tensor, exponent: float) -> Tensor:
    """Of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(square)
    return (vectors * values.clamp_min(1e-30) ** exponent) @ vectors.T


def _geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """Of two symmetric positive definite matrices: the P with P A⁻¹ P = B."""
    root, inverse = _power(a, 0.5), _power(a, -0.5)
    return root @ _power(inverse @ b @ inverse, 0.5) @ root
