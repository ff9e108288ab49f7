"""From a network as it was trained to the layers that run: what follows a sum is folded into what makes it.

A draft computes with real numbers, a layer with codes. Scales are float64 until a layer is made, and rounded to float32 then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .layers import Layer
from .quantizers import largest_activation, largest_weight

__all__ = ["Draft", "fold"]


@dataclass(eq=False, kw_only=True)
class Draft:
    """What will become a layer, or part of one.

    Attributes
    ----------
    name, op, inputs, bits, weights, weight_bits, kernel, stride, padding, ceil_mode, groups, relu
        As of a `Layer`. A conv that reads a second one adds it.
    scale, shift : ndarray of float64, shape (C,)
        conv and affine: result = sum * scale + shift, of real numbers. Of weights of one bit, scale has their means as a factor.
    """

    name: str
    op: str
    inputs: list[str]
    bits: int | None = None
    weights: np.ndarray | None = None
    weight_bits: int | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False
    groups: int = 1
    relu: bool = False

    @property
    def is_unit(self) -> bool:
        """Whether an affine only clips: then the order of it and of a maximum does not matter."""
        assert self.scale is not None
        assert self.shift is not None
        return bool((self.scale == 1).all() and not self.shift.any())


def fold(drafts: Sequence[Draft], output: str) -> list[Layer]:
    """The layers that give what the drafts give.

    Batch normalization, ReLU and rounding become part of the convolution, pooling or sum before them, if that is read by nothing
    else; rounding moves before a max_pool, which changes no bit; a convolution takes a sum with another result on itself. What
    `output` does not need is left out.

    Parameters
    ----------
    drafts : sequence of Draft
        In order; they are changed.
    output : str
        The one whose result the network gives.
    """
    graph = _Graph(list(drafts), output)
    graph.keep_needed()
    while any(graph.merge(draft) for draft in graph.drafts):
        pass
    return [_layer(draft, {other.name: other.bits for other in graph.drafts}) for draft in graph.drafts]


class _Graph:
    def __init__(self, drafts: list[Draft], output: str) -> None:
        self.drafts, self.output = drafts, output

    def keep_needed(self) -> None:
        needed = {self.output}
        for draft in reversed(self.drafts):
            if draft.name in needed:
                needed.update(draft.inputs)
        self.drafts = [draft for draft in self.drafts if draft.name in needed]

    def merge(self, draft: Draft) -> bool:
        """Fold one into one before it, if that is possible."""
        if draft.op == "affine":
            return self._merge_affine(draft)
        return draft.op == "add" and self._merge_add(draft)

    def _producer(self, name: str) -> Draft | None:
        """The one of that name, if it gives float32 that one other alone reads."""
        readers = sum(other.inputs.count(name) for other in self.drafts) + (name == self.output)
        found = [other for other in self.drafts if other.name == name]
        return found[0] if found and readers == 1 and found[0].bits is None else None

    def _merge_affine(self, draft: Draft) -> bool:
        before = self._producer(draft.inputs[0])
        if before is None:
            return False
        if before.op == "max_pool" and draft.is_unit:
            draft.inputs, before.inputs = before.inputs, [draft.name]
            before.bits = draft.bits
            i = self.drafts.index(before)
            self.drafts.remove(draft)
            self.drafts.insert(i, draft)
            self._redirect(draft, before, but=before)
            return True
        scales = before.op == "affine" or (before.op == "conv" and len(before.inputs) == 1)
        if not (scales and not before.relu) and not (draft.is_unit and before.op in ("conv", "average_pool", "affine", "add")):
            return False
        if scales and not draft.is_unit:
            before.scale, before.shift = before.scale * draft.scale, before.shift * draft.scale + draft.shift
        before.relu = (before.relu or draft.relu) and draft.bits is None
        before.bits = draft.bits
        self.drafts.remove(draft)
        self._redirect(draft, before)
        return True

    def _merge_add(self, draft: Draft) -> bool:
        for conv in reversed(self.drafts):
            if conv.op == "conv" and conv.name in draft.inputs and conv is self._producer(conv.name):
                if conv.relu or len(conv.inputs) == 2:
                    continue
                conv.inputs = conv.inputs + [name for name in draft.inputs if name != conv.name]
                conv.bits, conv.relu = draft.bits, draft.relu
                self.drafts.remove(conv)
                self.drafts[self.drafts.index(draft)] = conv
                self._redirect(draft, conv)
                return True
        return False

    def _redirect(self, gone: Draft, now: Draft, but: Draft | None = None) -> None:
        for other in self.drafts:
            if other is not but:
                other.inputs = [now.name if name == gone.name else name for name in other.inputs]
        if self.output == gone.name:
            self.output = now.name


def _layer(draft: Draft, bits: dict[str, int | None]) -> Layer:
    units = [1.0 / _unit(bits.get(name)) for name in draft.inputs]
    out = _unit(draft.bits)
    how = {name: getattr(draft, name) for name in ("name", "op", "bits", "relu")} | {"inputs": tuple(draft.inputs)}
    if draft.op in ("max_pool", "average_pool"):
        how |= {"kernel": draft.kernel, "stride": draft.stride, "padding": draft.padding}
    if draft.op == "max_pool":
        how["ceil_mode"] = draft.ceil_mode
    elif draft.op == "average_pool":
        assert draft.kernel is not None
        how["scale"] = np.float32([out * units[0] / (draft.kernel[0] * draft.kernel[1])])
    elif draft.op == "add":
        how["scale"] = np.float32([out * unit for unit in units])
    elif draft.op in ("conv", "affine"):
        assert draft.scale is not None
        assert draft.shift is not None
        unit = units[0] / (1 if draft.weight_bits is None else largest_weight(draft.weight_bits))
        with np.errstate(over="ignore"):  # a layer says that a number is not finite
            how |= {"scale": (draft.scale * (out * unit)).astype(np.float32), "shift": (draft.shift * out).astype(np.float32)}
    if draft.op == "conv":
        how |= {name: getattr(draft, name) for name in ("weights", "weight_bits", "stride", "padding", "groups")}
        if len(units) == 2:
            how["residual_scale"] = float(np.float32(out * units[1]))
    return Layer(**how)


def _unit(bits: int | None) -> int:
    """What 1 is in a tensor."""
    return 1 if bits is None else largest_activation(bits)


