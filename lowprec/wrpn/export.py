"""A trained network as an `IntegerNetwork`: `export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import checks
from .conversion import Step, read_graph, trace
from .folding import Draft, fold
from .integer import IntegerNetwork
from .layers import INPUT, moved
from .quantizers import FLOAT_BITS, quantize_weights, weight_codes

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.export")

from torch import nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = ["export"]


def export(model: nn.Module, input_shape: Sequence[int], about: dict[str, Any] | None = None) -> IntegerNetwork:
    """The integer network of a network that `convert` made, as it computes in evaluation mode.

    Weights become codes; batch normalization, bias, ReLU and rounding become one scale and shift of each channel behind a sum,
    computed in float64 and rounded to float32 once. A linear layer behind a flattened map becomes a convolution with a kernel as
    large as the map. Layers that are not quantized, usually the first and the last, stay float32.

    Parameters
    ----------
    model : Module
        It is left as it is.
    input_shape : (C, H, W)
        Of an image.
    about : dict, optional
        What is to be kept with the network, as JSON has it.

    Returns
    -------
    IntegerNetwork
        Its layers have the names of the modules that they begin with.

    Raises
    ------
    TypeError
        If `model` is no Module.
    ValueError
        For a layer that is not supported, weights that are not finite, or an input shape that does not fit: the message names the
        layer.
    """
    graph = trace(model)
    drafts = _Drafts(input_shape)
    for step in read_graph(graph):
        drafts.add(step)
    return IntegerNetwork(fold(drafts.made, drafts.output), input_shape, about)


class _Drafts:
    """The steps of a traced network, one after the other, as drafts of layers."""

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.made: list[Draft] = []
        self.output = INPUT
        # Of each draft: channels, height and width of what it gives, and the bits of its codes.
        self._shapes = {INPUT: tuple(input_shape)}
        self._bits: dict[str, int | None] = {INPUT: None}
        # The draft that gives what a node of the graph gives; the one that rounds a draft to so many bits.
        self._found: dict[Any, str] = {}
        self._rounded: dict[tuple[str, int], str] = {}

    def add(self, step: Step) -> None:
        make: Callable[[Step, list[str]], str] = getattr(self, f"_{step.kind}")
        self._found[step.node] = make(step, [self._found[node] for node in step.inputs])

    def _draft(self, name: str, op: str, inputs: list[str], shape: tuple[int, ...], bits: int | None = None, **how: Any) -> str:
        unique, k = name, 1
        while unique in self._shapes:  # one module may be called in several places
            k += 1
            unique = f"{name}.{k}"
        self.made.append(Draft(name=unique, op=op, inputs=inputs, bits=bits, **how))
        self._shapes[unique], self._bits[unique] = shape, bits
        return unique

    # ---- what only carries numbers on --------------------------------------------------------------------------

    def _input(self, step: Step, inputs: list[str]) -> str:
        return INPUT

    def _identity(self, step: Step, inputs: list[str]) -> str:
        return inputs[0]

    _dropout = _flatten = _identity

    def _output(self, step: Step, inputs: list[str]) -> str:
        self.output = self._float32(inputs[0])
        return self.output

    # ---- one number at a time ----------------------------------------------------------------------------------

    def _clipped(self, name: str, source: str, bits: int | None = None, relu: bool = False) -> str:
        """An affine that leaves numbers as they are, but for what its output is."""
        shape = self._shapes[source]
        return self._draft(name, "affine", [source], shape, bits, scale=np.ones(shape[0]), shift=np.zeros(shape[0]), relu=relu)

    def _codes(self, name: str, source: str, bits: int) -> str:
        """The source, clipped to [0, 1] and rounded to codes; the same draft for all that read it so."""
        if self._bits[source] == bits:
            return source
        if (source, bits) not in self._rounded:
            self._rounded[source, bits] = self._clipped(name, source, bits)
        return self._rounded[source, bits]

    def _float32(self, source: str) -> str:
        """The source as numbers."""
        return source if self._bits[source] is None else self._clipped(f"{source}.float32", source)

    def _relu(self, step: Step, inputs: list[str]) -> str:
        return inputs[0] if self._bits[inputs[0]] is not None else self._clipped(step.name, inputs[0], relu=True)

    def _quantized_relu(self, step: Step, inputs: list[str]) -> str:
        return self._codes(step.name, inputs[0], step.module.bits)

    def _batch_norm(self, step: Step, inputs: list[str]) -> str:
        norm, shape = step.module, self._shapes[inputs[0]]
        if norm.running_mean is None:
            raise checks.wrong_value(f"layer {step.name!r}", "must have running statistics to be exported", "none")
        if norm.num_features != shape[0]:
            rule = f"must normalize the {shape[0]} channels that it reads"
            raise checks.wrong_value(f"layer {step.name!r}", rule, norm.num_features)
        gamma, beta = (_float64(step, what) if norm.affine else default for what, default in (("weight", 1.0), ("bias", 0.0)))
        scale = gamma / np.sqrt(_float64(step, "running_var") + norm.eps)
        return self._draft(step.name, "affine", inputs, shape, scale=scale, shift=beta - _float64(step, "running_mean") * scale)

    # ---- windows -----------------------------------------------------------------------------------------------

    def _max_pool(self, step: Step, inputs: list[str]) -> str:
        pool = step.module
        if _pair(pool.dilation) != (1, 1):
            raise checks.wrong_value(f"layer {step.name!r}", "is supported without dilation", pool.dilation)
        return self._pool(step, "max_pool", inputs, self._bits[inputs[0]], ceil_mode=pool.ceil_mode)

    def _average_pool(self, step: Step, inputs: list[str]) -> str:
        pool = step.module
        if pool.ceil_mode or pool.divisor_override is not None or (not pool.count_include_pad and any(_pair(pool.padding))):
            rule = "is supported without ceil_mode and divisor_override, and with count_include_pad"
            raise checks.wrong_value(f"layer {step.name!r}", rule, repr(pool))
        return self._pool(step, "average_pool", inputs)

    def _pool(self, step: Step, op: str, inputs: list[str], bits: int | None = None, **how: bool) -> str:
        pool, (channels, *size) = step.module, self._shapes[inputs[0]]
        kernel, padding = _pair(pool.kernel_size), _pair(pool.padding)
        stride = kernel if pool.stride is None else _pair(pool.stride)
        shape = (channels, *moved(size, kernel, stride, padding, **how))
        return self._draft(step.name, op, inputs, shape, bits, kernel=kernel, stride=stride, padding=padding, **how)

    def _global_average_pool(self, step: Step, inputs: list[str]) -> str:
        channels, height, width = self._shapes[inputs[0]]
        return self._draft(step.name, "average_pool", inputs, (channels, 1, 1), kernel=(height, width))

    # ---- several inputs ----------------------------------------------------------------------------------------

    def _add(self, step: Step, inputs: list[str]) -> str:
        return self._draft(step.name, "add", inputs, self._shapes[inputs[0]])

    def _concat(self, step: Step, inputs: list[str]) -> str:
        kinds = {self._bits[name] for name in inputs}
        if len(kinds) > 1:
            inputs = [self._float32(name) for name in inputs]
        channels = sum(self._shapes[name][0] for name in inputs)
        return self._draft(step.name, "concat", inputs, (channels, *self._shapes[inputs[0]][1:]), self._bits[inputs[0]])

    # ---- layers with weights -----------------------------------------------------------------------------------

    def _conv(self, step: Step, inputs: list[str]) -> str:
        conv, name = step.module, f"layer {step.name!r}"
        if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
            raise checks.wrong_value(name, "is supported without dilation, and with a padding of zeros", repr(conv))
        # torch has the columns' padding first: left, right, top, bottom
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        if left != right or top != bottom:
            raise checks.wrong_value(name, "is supported with the same padding on both sides", repr(conv))
        weights = _float32(step, "weight")
        return self._sums(step, inputs[0], weights, stride=conv.stride, padding=(top, left), groups=conv.groups)

    def _linear(self, step: Step, inputs: list[str]) -> str:
        channels, height, width = self._shapes[inputs[0]]
        weights = _float32(step, "weight")
        if weights.shape[1] != channels * height * width:
            got = f"{channels} channels of {height} x {width}"
            raise checks.wrong_value(f"layer {step.name!r}", f"must read {weights.shape[1]} numbers, as it has weights for", got)
        return self._sums(step, inputs[0], weights.reshape(-1, channels, height, width))

    def _sums(self, step: Step, source: str, weights: np.ndarray, **how: Any) -> str:
        """A draft of a layer with weights (O, I, kh, kw)."""
        layer = step.module
        weight_bits = getattr(layer, "weight_bits", FLOAT_BITS)
        input_bits = getattr(layer, "input_bits", FLOAT_BITS)
        if input_bits != FLOAT_BITS:
            source = self._codes(f"{step.name}.input", source, input_bits)
        scale = np.ones(len(weights))
        if weight_bits == FLOAT_BITS:
            source = self._float32(source)
        elif self._bits[source] is None:
            weights, weight_bits = quantize_weights(weights, weight_bits), FLOAT_BITS
        else:
            weights, one = weight_codes(weights, weight_bits)
            scale = one.astype(np.float64) if weight_bits == 1 else scale
        size = moved(self._shapes[source][1:], weights.shape[2:], how.get("stride", (1, 1)), how.get("padding", (0, 0)))
        return self._draft(
            step.name, "conv", [source], (len(weights), *size), weights=weights.transpose(0, 2, 3, 1),
            weight_bits=None if weight_bits == FLOAT_BITS else weight_bits, scale=scale,
            shift=np.zeros(len(weights)) if layer.bias is None else _float64(step, "bias"), **how,
        )  # fmt: skip


def _float32(step: Step, what: str) -> np.ndarray:
    """A parameter of a layer."""
    value: np.ndarray = getattr(step.module, what).detach().cpu().float().numpy()
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        where = tuple(bad[0].tolist())
        raise checks.wrong_value(f"layer {step.name!r}: {what}", "every value must be finite", f"{value[where]} at index {where}")
    return value


def _float64(step: Step, what: str) -> np.ndarray:
    return _float32(step, what).astype(np.float64)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
