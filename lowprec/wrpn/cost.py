"""What a network costs: operations times bits, the speedup to expect of fewer bits, and memory; all relative to float32.

The definitions are those of Mishra et al., WRPN (arXiv 1709.01134): footnote 1, Section 5.1 and Fig 1. What they leave open is
stated at each function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import checks
from .architecture import FLOAT, Architecture, LayerCounts, check_bits
from .architectures import as_architecture

__all__ = [
    "CONVENTIONS",
    "Memory",
    "compute_cost",
    "first_order_speedup",
    "fmas",
    "inference_memory",
    "training_memory",
]

#: Layers that a compute cost is of, and what they are charged. uniform: all layers, all at the bits that are asked for.
#: quantized: those alone that are quantized. float_ends: all layers, the first and the last at 32 bits, which they are left at.
CONVENTIONS = ("uniform", "quantized", "float_ends")


def fmas(architecture: Architecture | str) -> int:
    """Multiplications with an addition each of all conv and linear layers, for one image."""
    return sum(count.fmas for count in as_architecture(architecture).counts())


def first_order_speedup(weight_bits: int, activation_bits: int) -> float:
    """How much faster than float32 hardware is whose time goes with the bits: 64 / (activation bits + weight bits), Fig 3b."""
    return 2 * FLOAT / (check_bits("weight_bits", weight_bits) + check_bits("activation_bits", activation_bits))


def compute_cost(
    architecture: Architecture | str, weight_bits: int, activation_bits: int, *, widen: float = 1.0, convention: str = "uniform"
) -> float:
    """FMAs times (activation bits + weight bits) of a treated network, over those of the same network at 1x in float32.

    Parameters
    ----------
    architecture : Architecture or str
        The network at 1x.
    weight_bits, activation_bits : int
        1 to 8, or 32 for float32.
    widen : float
        As of `Architecture.widen`.
    convention : {"uniform", "quantized", "float_ends"}
        Which layers are charged, and what; the paper does not say. uniform: all, at the bits asked for, as the printed costs of
        AlexNet come out. quantized: those that are quantized, alone, on both sides, as those of BN-Inception do. float_ends: all,
        but the first and the last at 32 bits.

    Raises
    ------
    TypeError, ValueError
        For what is no architecture, width, number of bits or convention; for quantized where there are no such layers.
    """
    narrow = as_architecture(architecture)
    checks.check_choice("convention", convention, CONVENTIONS)
    bits = check_bits("weight_bits", weight_bits) + check_bits("activation_bits", activation_bits)
    before, after = narrow.counts(), narrow.widen(widen).counts()
    if convention == "quantized":
        if len(before) < 3:
            rule = f"{narrow.name} has no layer between its first and its last; choose uniform or float_ends"
            raise checks.wrong_value("convention", rule, convention)
        before, after = before[1:-1], after[1:-1]
    total = sum(count.fmas for count in after) * bits
    if convention == "float_ends":
        # A layer that is the first and the last stands here once.
        ends = after if len(after) < 3 else [after[0], after[-1]]
        total += sum(count.fmas for count in ends) * (2 * FLOAT - bits)
    return total / (2 * FLOAT * sum(count.fmas for count in before))


@dataclass(frozen=True)
class Memory:
    """Numbers that are held at one time, by what they are.

    Attributes
    ----------
    weights : int
        Of all conv and linear layers. Biases and batch normalization are left out.
    activations : int
        Training: what the layers read, kept for the way back. Inference: the largest map read and the largest map written.
    gradients : int
        Training: the largest gradient of a map. Inference: 0.
    """

    weights: int
    activations: int
    gradients: int

    @property
    def activation_share(self) -> float:
        """Share of activations and gradients in all of it."""
        maps = self.activations + self.gradients
        return maps / (maps + self.weights)


def _maps(counts: Sequence[LayerCounts]) -> tuple[list[int], list[int]]:
    """Numbers that each layer reads and writes, of one image."""
    return [math.prod(count.input_shape) for count in counts], [math.prod(count.output_shape) for count in counts]


def training_memory(architecture: Architecture | str, batch_size: int = 1, *, input_gradients: bool = False) -> Memory:
    """What training holds: all weights, what every layer reads, and the largest gradient of a layer's output.

    Parameters
    ----------
    architecture : Architecture or str
    batch_size : int
    input_gradients : bool
        Also the largest gradient of a layer's input, which the paper's text adds and the shares of its Fig 1 do not have.
    """
    counts = as_architecture(architecture).counts()
    batch_size = checks.check_int("batch_size", batch_size, minimum=1)
    read, written = _maps(counts)
    gradients = max(written) + (max(read) if checks.check_bool("input_gradients", input_gradients) else 0)
    weights = sum(count.weights for count in counts)
    return Memory(weights, batch_size * sum(read), batch_size * gradients)


def inference_memory(architecture: Architecture | str, batch_size: int = 1) -> Memory:
    """What inference holds: all weights, and two buffers that every layer uses again, one to read and one to write.

    Parameters
    ----------
    architecture : Architecture or str
    batch_size : int
    """
    counts = as_architecture(architecture).counts()
    batch_size = checks.check_int("batch_size", batch_size, minimum=1)
    read, written = _maps(counts)
    return Memory(sum(count.weights for count in counts), batch_size * (max(read) + max(written)), 0)
