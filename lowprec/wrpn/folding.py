"""From a network as it was trained to the layers that run: what follows a sum is folded into what makes it.

A draft computes with real numbers, a layer with codes. Scales are float64 until a layer is made, and rounded to float32 then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .layers import INPUT, Layer, moved
from .quantizers import largest_activation, largest_weight

__all__ = ["Draft", "Drafts", "fold"]


@dataclass(eq=False, kw_only=True)
class Draft:
    """What will become a layer, or part of one.

    Attributes
    ----------
    name, op, inputs, bits, weights, weight_bits, kernel, stride, padding, ceil_mode, groups, relu
        As of a `Layer`. A conv that reads a second one adds it.
    scale, shift : ndarray of float64, shape (C,)
        conv and affine: result = sum * scale + shift, of real numbers. Of weights of one bit, scale has their means as a factor.
    factors : list of float
        add: what its inputs are multiplied with; of a conv that reads two the second counts.
    step : float or None
        Of one that gives codes: what code 1 stands for; None: 1 / (2**bits - 1).
    """

    name: str
    op: str
    inputs: list[str]
    bits: int | None = None
    weights: np.ndarray | None = None
    weight_bits: int | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    factors: list[float] = field(default_factory=lambda: [1.0, 1.0])
    step: float | None = None
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

    @property
    def is_factor(self) -> bool:
        """Whether an affine is a multiplication with one number, and no more."""
        assert self.scale is not None
        assert self.shift is not None
        plain = self.bits is None and not self.relu and not self.shift.any()
        return self.op == "affine" and plain and bool((self.scale == self.scale[0]).all())


class Drafts:
    """Drafts of a network in the making, in order, and what each of them gives.

    Attributes
    ----------
    made : list of Draft
    shapes : dict
        Of what each gives: channels, height and width.
    bits : dict
        Of its codes; None: float32.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.made: list[Draft] = []
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: input_shape}
        self.bits: dict[str, int | None] = {INPUT: None}
        self._steps: dict[str, float | None] = {INPUT: None}
        # Which draft rounds another to so many bits, of such a step.
        self._rounded: dict[tuple[str, int, float | None], str] = {}

    def draft(self, name: str, op: str, inputs: list[str], shape: tuple[int, ...], **how: Any) -> str:
        """Add one; returns its name, which may have a number behind, since one module may be called in several places."""
        unique, k = name, 1
        while unique in self.shapes:
            k += 1
            unique = f"{name}.{k}"
        made = Draft(name=unique, op=op, inputs=inputs, **how)
        self.made.append(made)
        self.shapes[unique], self.bits[unique], self._steps[unique] = shape, made.bits, made.step
        return unique

    def clipped(self, name: str, source: str, **how: Any) -> str:
        """An affine that leaves numbers as they are, but for what its output is."""
        shape = self.shapes[source]
        return self.draft(name, "affine", [source], shape, scale=np.ones(shape[0]), shift=np.zeros(shape[0]), **how)

    def codes(self, name: str, source: str, bits: int, step: float | None = None) -> str:
        """The source, clipped and rounded to codes; the same draft for all that read it so."""
        if (self.bits[source], self._steps[source]) == (bits, step):
            return source
        if (source, bits, step) not in self._rounded:
            self._rounded[source, bits, step] = self.clipped(name, source, bits=bits, step=step)
        return self._rounded[source, bits, step]

    def float32(self, source: str) -> str:
        """The source as numbers."""
        return source if self.bits[source] is None else self.clipped(f"{source}.float32", source)

    def pool(self, name: str, op: str, source: str, **how: Any) -> str:
        """A max_pool or average_pool."""
        channels, *size = self.shapes[source]
        window = [how["kernel"], how.get("stride", (1, 1)), how.get("padding", (0, 0)), how.get("ceil_mode", False)]
        if op == "max_pool":
            how |= {"bits": self.bits[source], "step": self._steps[source]}
        return self.draft(name, op, [source], (channels, *moved(size, *window)), **how)

    def concat(self, name: str, inputs: list[str]) -> str:
        """The inputs, as float32 unless their codes mean the same."""
        if len({(self.bits[source], self._steps[source]) for source in inputs}) > 1:
            inputs = [self.float32(source) for source in inputs]
        shape = (sum(self.shapes[source][0] for source in inputs), *self.shapes[inputs[0]][1:])
        return self.draft(name, "concat", inputs, shape, bits=self.bits[inputs[0]], step=self._steps[inputs[0]])

    def sums(
        self, name: str, source: str, weights: np.ndarray, weight_bits: int | None, scale: np.ndarray, bias: np.ndarray | None,
        **how: Any,
    ) -> str:  # fmt: skip
        """A conv with weights (O, I, kh, kw)."""
        if weight_bits is None:
            source = self.float32(source)
        size = moved(self.shapes[source][1:], weights.shape[2:], how.get("stride", (1, 1)), how.get("padding", (0, 0)))
        shift = np.zeros(len(weights)) if bias is None else bias
        how |= {"weights": weights.transpose(0, 2, 3, 1), "weight_bits": weight_bits, "scale": scale, "shift": shift}
        return self.draft(name, "conv", [source], (len(weights), *size), **how)


def fold(drafts: Sequence[Draft], output: str) -> tuple[list[Layer], dict[str, str]]:
    """The layers that give what the drafts give; and, for each draft whose own result a layer gives, the name of that layer.

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
    steps = {draft.name: _step(draft) for draft in graph.drafts}
    return [_layer(draft, steps) for draft in graph.drafts], graph.places


class _Graph:
    def __init__(self, drafts: list[Draft], output: str) -> None:
        self.drafts, self.output = drafts, output
        self.places: dict[str, str] = {}

    def keep_needed(self) -> None:
        needed = {self.output}
        for draft in reversed(self.drafts):
            if draft.name in needed:
                needed.update(draft.inputs)
        self.drafts = [draft for draft in self.drafts if draft.name in needed]
        self.places = {draft.name: draft.name for draft in self.drafts}

    def merge(self, draft: Draft) -> bool:
        """Fold one into one before it, if that is possible."""
        if draft.op == "affine":
            return self._merge_affine(draft)
        return draft.op == "add" and (self._merge_factor(draft) or self._merge_add(draft))

    def _producer(self, name: str) -> Draft | None:
        """The one of that name, if it gives float32 that one other alone reads."""
        readers = sum(other.inputs.count(name) for other in self.drafts) + (name == self.output)
        found = [other for other in self.drafts if other.name == name]
        return found[0] if found and readers == 1 and found[0].bits is None else None

    def _merge_affine(self, draft: Draft) -> bool:
        before = self._producer(draft.inputs[0])
        if before is None or (draft.is_factor and self._only_added(draft.name)):
            return False
        if before.op == "max_pool" and draft.is_unit:
            draft.inputs, before.inputs = before.inputs, [draft.name]
            before.bits, before.step = draft.bits, draft.step
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
        before.bits, before.step = draft.bits, draft.step
        self.drafts.remove(draft)
        self._redirect(draft, before)
        return True

    def _only_added(self, name: str) -> bool:
        return self._producer(name) is not None and all(other.op == "add" for other in self.drafts if name in other.inputs)

    def _merge_factor(self, draft: Draft) -> bool:
        """A multiplication with one number before a sum becomes one of the sum's own."""
        for i, name in enumerate(draft.inputs):
            before = self._producer(name)
            if before is not None and before.is_factor:
                assert before.scale is not None
                draft.factors[i] *= float(before.scale[0])
                draft.inputs[i] = before.inputs[0]
                self.drafts.remove(before)
                self.places.pop(name, None)
                return True
        return False

    def _merge_add(self, draft: Draft) -> bool:
        for conv in reversed(self.drafts):
            if conv.op == "conv" and conv.name in draft.inputs and conv is self._producer(conv.name):
                if conv.relu or len(conv.inputs) == 2:
                    continue
                i = draft.inputs.index(conv.name)
                conv.scale, conv.shift = conv.scale * draft.factors[i], conv.shift * draft.factors[i]
                conv.inputs, conv.factors = [*conv.inputs, draft.inputs[1 - i]], [1.0, draft.factors[1 - i]]
                conv.bits, conv.relu, conv.step = draft.bits, draft.relu, draft.step
                self.drafts.remove(conv)
                self.drafts[self.drafts.index(draft)] = conv
                self._redirect(draft, conv)
                return True
        return False

    def _redirect(self, gone: Draft, now: Draft, but: Draft | None = None) -> None:
        for other in self.drafts:
            if other is not but:
                other.inputs = [now.name if name == gone.name else name for name in other.inputs]
        # `now` gives what `gone` gave, and no longer what it gave before.
        kept = {name: place for name, place in self.places.items() if place != now.name}
        self.places = {name: now.name if place == gone.name else place for name, place in kept.items()}
        if self.output == gone.name:
            self.output = now.name


def _layer(draft: Draft, steps: dict[str, float]) -> Layer:
    units = [steps.get(name, 1.0) for name in draft.inputs]
    out = 1.0 / steps[draft.name]
    how = {name: getattr(draft, name) for name in ("name", "op", "bits", "relu")} | {"inputs": tuple(draft.inputs)}
    if draft.op in ("max_pool", "average_pool"):
        how |= {"kernel": draft.kernel, "stride": draft.stride, "padding": draft.padding}
    if draft.op == "max_pool":
        how["ceil_mode"] = draft.ceil_mode
    elif draft.op == "average_pool":
        assert draft.kernel is not None
        how["scale"] = np.array([out * units[0] / (draft.kernel[0] * draft.kernel[1])], np.float32)
    elif draft.op == "add":
        how["scale"] = np.array([out * unit * factor for unit, factor in zip(units, draft.factors, strict=True)], np.float32)
    elif draft.op in ("conv", "affine"):
        assert draft.scale is not None
        assert draft.shift is not None
        unit = units[0] / (1 if draft.weight_bits is None else largest_weight(draft.weight_bits))
        with np.errstate(over="ignore"):  # a layer says that a number is not finite
            how |= {"scale": (draft.scale * (out * unit)).astype(np.float32), "shift": (draft.shift * out).astype(np.float32)}
    if draft.op == "conv":
        how |= {name: getattr(draft, name) for name in ("weights", "weight_bits", "stride", "padding", "groups")}
        if len(units) == 2:
            how["residual_scale"] = float(np.float32(out * units[1] * draft.factors[1]))
    return Layer(**how)


def _step(draft: Draft) -> float:
    """What 1 stands for in what a draft gives."""
    if draft.bits is None:
        return 1.0
    return 1.0 / largest_activation(draft.bits) if draft.step is None else draft.step
