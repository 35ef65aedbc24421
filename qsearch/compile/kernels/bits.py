"""Bit-serial convolution: weights of −1, 0 and 1 times activations of few bits, 32 channels of one bit at a time.

A form is named after the number of bit planes of its activations, for example "bits:2". For bits a, Σ a·w plus the
number of negative weights is the number of ones in (a ∧ used) ⊕ negative, where the masks tell which weights are not
zero and which are negative: one population count for three values of a weight. Where no weight is zero, in the form
"bits:2:signs", one mask does. What is counted too much and the lowest input value, the bias takes back.
"""

from dataclasses import replace

import numpy as np

from qsearch.compile.kernels.bits_kernel import SIGNS, WORD, BitOrder, Bits, layout_of, masks_per_word, planes_of
from qsearch.compile.kernels.isa import Isa
from qsearch.compile.packing import Convolution, dense, epilogue_parameters, in_vectors
from qsearch.compile.specs import ConvSpec

_NAME = "bits"
_MOST_PLANES = 2
_FEWEST_CHANNELS = 16  # of the narrowest vector that is packed


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    planes = max((conv.values[1] - conv.values[0]).bit_length(), 1)
    ternary = bool(((conv.weight >= -1) & (conv.weight <= 1)).all())
    serves = isa.popcount is not None and conv.groups == 1 and spec.in_channels >= _FEWEST_CHANNELS
    if not (serves and ternary and planes <= _MOST_PLANES):
        return []
    # Without a mask every bit of a word counts.
    whole = spec.in_channels % 16 == 0 and spec.kernel[1] * spec.in_channels % WORD == 0
    signs = whole and conv.weight.shape[1] == spec.in_channels and conv.weight.all()
    return [replace(spec, algorithm=f"{_NAME}:{planes}" + f":{SIGNS}" * bool(signs))]


def kernel(spec: ConvSpec, isa: Isa) -> Bits:
    """See `Algorithm.kernel`."""
    return Bits(spec, isa)


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> dict[str, np.ndarray]:
    """See `Algorithm.pack`."""
    layout, lowest = layout_of(spec, isa), conv.values[0]
    weight = dense(conv.weight, conv.groups, spec.in_channels)
    too_much = (weight < 0).sum((1, 2, 3), dtype=np.int32) * (2 ** planes_of(spec) - 1)
    lost = lowest * weight.sum((1, 2, 3), dtype=np.int32) - too_much
    order = layout.order
    count = masks_per_word(spec)
    masks = np.stack([_words(mask) for mask in (weight < 0, weight != 0)[:count]], axis=1)
    lanes = np.concatenate([masks, np.zeros_like(masks[:1])])[[-1 if c is None else c for c in order]]
    parts = []
    for first, blocks in layout.tiles:
        part = lanes[first * isa.lanes : (first + blocks) * isa.lanes]
        parts.append(part.reshape(blocks, isa.lanes, count, -1).transpose(3, 0, 2, 1).ravel())
    return {
        "weight": np.concatenate(parts).view(np.int8),
        **epilogue_parameters(spec, replace(conv, bias=conv.bias + (lost << conv.shift)), order),
        "lowest": np.array([lowest], np.uint8),
    }


def _words(mask: np.ndarray) -> np.ndarray:
    """Booleans [Co, channels, rows, columns] as uint32 words [Co, rows·words] in the order of the packed bits."""
    outputs, channels, rows, columns = mask.shape
    bits, words = BitOrder(channels), BitOrder(channels).words(columns)
    # Every tap as if it were a row of its own: no vector spans two pixels.
    taps = mask.transpose(0, 2, 3, 1).reshape(outputs, rows * columns, 1, channels).transpose(0, 3, 1, 2)
    by_row = in_vectors(taps, bits.width).reshape(outputs, rows, -1)
    padded = np.zeros((outputs, rows, words * WORD), bool)
    padded[:, :, : by_row.shape[2]] = by_row
    packed = np.packbits(padded, axis=2, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4").reshape(outputs, rows * words)
