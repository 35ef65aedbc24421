"""The basis in which the linear values of a network lose least by quantization.

The noise of a quantizer of step s comes out as s²/12 · tr(M⁻ᵀ G M⁻¹) in the basis M, where G are the second moments of
the output's derivatives by the value, and s² grows with tr(M Σ Mᵀ), where Σ are those of the value. The product is
least where MᵀM is the geometric mean of G and Σ⁻¹ (Bhatia, "Positive definite matrices", 2007, chapter 4), whatever
rotation comes behind. A random rotation gives all channels their share of what is strong, as known from language models
(Ashkboos et al., "QuaRot", NeurIPS 2024); of some the one is taken that suits the rounding of the weights.
"""

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.quant.grid import weight_grid
from qsearch.quant.observers import weight_scale
from qsearch.quant.streams import Stream, convolution, mixed_rows, operand, streams

_PROBES = 4
"""Random directions of the output whose derivatives are taken, for each image."""
_DAMPING = 1e-4
"""Share of the mean eigenvalue that is added to G and Σ, which bounds the condition of the basis."""
_STEPS = 30
_ROTATIONS = 8
_ROUNDED_BITS = (3, 4, 6)


def find_bases(graph: GraphModule, images: Iterable[Tensor], seed: int = 0) -> dict[str, Tensor]:
    """A basis [C, C] for every stream of a prepared graph, by name, from images [1, 3, H, W] that it is run on.

    None for a stream that is constant or not finite on them.
    """
    found = streams(graph)
    if not found:
        return {}
    moments = _Moments(graph, found, seed)
    for image in images:
        moments.add(image)
    random = torch.Generator().manual_seed(seed)
    return {
        stream.name: _basis(graph, stream, moments, random).float() for stream in found if moments.are_usable(stream)
    }


class _Moments(Interpreter):
    """Second moments, summed over pixels: of what quantizers and writers of streams read, and of the derivatives of the
    output by what each quantizer of a stream gives.
    """

    def __init__(self, graph: GraphModule, found: list[Stream], seed: int) -> None:
        super().__init__(graph)
        self.inputs = {operand(writer) for stream in found for writer in stream.writers}
        self.quantizers = {quantizer for stream in found for quantizer in stream.quantizers}
        self.values: dict[Node, Tensor] = {}
        self.gains: dict[Node, Tensor] = {}
        self.read: dict[Node, Tensor] = {}
        self.random = torch.Generator().manual_seed(seed)

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        if n in self.quantizers:
            # Apart from what else reads the value, so that the derivative is that by the noise of this quantizer.
            value = self.read[n] = value.view_as(value)
        if n in self.quantizers or n in self.inputs:
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
    """The basis of least noise over all quantizers of a stream, rotated (float64)."""
    values = torch.stack([_damped(moments.values[quantizer]) for quantizer in stream.quantizers])
    gains = torch.stack([_damped(moments.gains[quantizer]) for quantizer in stream.quantizers])
    # The noise is Σ tr(P⁻¹ Gᵢ)·tr(P Σᵢ) for P = MᵀM, which is least where P is the mean of these weighted sums.
    metric = torch.eye(values.shape[1]).double()
    for _ in range(_STEPS):
        gain = torch.einsum("nij,n->ij", gains, torch.einsum("nij,ij->n", values, metric))
        value = torch.einsum("nij,n->ij", values, torch.einsum("nij,ij->n", gains, torch.linalg.inv(metric)))
        metric = _geometric_mean(gain, torch.linalg.inv(value))
    still = _power(metric / metric.diagonal().mean(), 0.5)
    rotated = [
        torch.linalg.qr(torch.randn(shape, generator=random).double()).Q @ still
        for shape in repeat(still.shape, _ROTATIONS)
    ]
    return min(rotated, key=lambda basis: _rounding_noise(graph, stream, moments, basis))


def _rounding_noise(graph: GraphModule, stream: Stream, moments: _Moments, basis: Tensor) -> float:
    """What rounding the weights of the writers does to flat areas: few weights decide the brightness of all pixels."""
    back = torch.linalg.inv(basis)
    gain = back.T @ torch.stack([moments.gains[quantizer] for quantizer in stream.quantizers]).sum(0) @ back
    total = 0.0
    for node in stream.writers:
        weight = mixed_rows(convolution(graph, node).weight, basis)
        for bits in _ROUNDED_BITS:
            rounded = weight_grid(weight, weight_scale(weight, bits, "mse"), bits).dequantize()
            off = (rounded - weight).double().sum((2, 3)).view(len(basis), -1, weight.shape[1])
            noise = torch.einsum("cki,ij,dkj,dc->", off, moments.values[operand(node)], off, gain)
            total += 4.0**bits * float(noise) / off.shape[1]
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
