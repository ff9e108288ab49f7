"""A trained network as an `IntegerNetwork`: `export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import checks
from .conversion import Step, read_graph, trace
from .folding import Draft, fold
from .integer import IntegerNetwork
from .layers import INPUT, check_input_shape, moved
from .quantizers import quantize_weights, weight_codes

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.export")

from torch import nn  # noqa: E402 - only after its absence would have been a sentence

FLOAT_BITS = 32

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
    drafts = _Drafts(check_input_shape(input_shape))
    for step in read_graph(graph):
        drafts.add(step)
    return IntegerNetwork(fold(drafts.made, drafts.output), input_shape, about)


class _Drafts:
    """The steps of a traced network, one after the other, as drafts of layers."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.made: list[Draft] = []
        self.output = INPUT
        # Of each draft: channels, height and width of what it gives, and the bits of its codes.
        self._shapes: dict[str, tuple[int, ...]] = {INPUT: input_shape}
        self._bits: dict[str, int | None] = {INPUT: None}
        # The draft that gives what a node of the graph gives; the one that rounds a draft to so many bits.
        self._found: dict[Any, str] = {}
        self._rounded: dict[tuple[str, int], str] = {}

    def add(self, step: Step) -> None:
        make: Callable[[str, Any, list[str]], str] = getattr(self, f"_{step.kind}")
        self._found[step.node] = make(step.name, step.module, [self._found[node] for node in step.inputs])

    def _draft(self, name: str, op: str, inputs: list[str], shape: tuple[int, ...], bits: int | None = None, **how: Any) -> str:
        unique, k = name, 1
        while unique in self._shapes:  # one module may be called in several places
            k += 1
            unique = f"{name}.{k}"
        self.made.append(Draft(name=unique, op=op, inputs=inputs, bits=bits, **how))
        self._shapes[unique], self._bits[unique] = shape, bits
        return unique

    # ---- what only carries numbers on --------------------------------------------------------------------------

    def _input(self, name: str, module: Any, inputs: list[str]) -> str:
        return INPUT

    def _identity(self, name: str, module: Any, inputs: list[str]) -> str:
        return inputs[0]

    _dropout = _flatten = _identity

    def _output(self, name: str, module: Any, inputs: list[str]) -> str:
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

    def _relu(self, name: str, module: Any, inputs: list[str]) -> str:
        return inputs[0] if self._bits[inputs[0]] is not None else self._clipped(name, inputs[0], relu=True)

    def _quantized_relu(self, name: str, module: Any, inputs: list[str]) -> str:
        return self._codes(name, inputs[0], module.bits)

    def _batch_norm(self, name: str, module: Any, inputs: list[str]) -> str:
        shape = self._shapes[inputs[0]]
        if module.running_mean is None:
            raise checks.wrong_value(f"layer {name!r}", "must have running statistics to be exported", "none")
        if module.num_features != shape[0]:
            rule = f"must normalize the {shape[0]} channels that it reads"
            raise checks.wrong_value(f"layer {name!r}", rule, module.num_features)
        names = ("running_mean", "running_var") + (("weight", "bias") if module.affine else ())
        found = {what: _float64(name, module, what) for what in names}
        scale = found.get("weight", 1.0) / np.sqrt(found["running_var"] + module.eps)
        shift = found.get("bias", 0.0) - found["running_mean"] * scale
        return self._draft(name, "affine", inputs, shape, scale=scale, shift=shift)

    # ---- windows -----------------------------------------------------------------------------------------------

    def _max_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        if _pair(module.dilation) != (1, 1):
            raise checks.wrong_value(f"layer {name!r}", "is supported without dilation", module.dilation)
        return self._pool(name, module, "max_pool", inputs, self._bits[inputs[0]], ceil_mode=module.ceil_mode)

    def _average_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        left_out = not module.count_include_pad and any(_pair(module.padding))
        if module.ceil_mode or module.divisor_override is not None or left_out:
            rule = "is supported without ceil_mode and divisor_override, and with count_include_pad"
            raise checks.wrong_value(f"layer {name!r}", rule, repr(module))
        return self._pool(name, module, "average_pool", inputs)

    def _pool(self, name: str, module: Any, op: str, inputs: list[str], bits: int | None = None, **how: bool) -> str:
        channels, *size = self._shapes[inputs[0]]
        kernel, padding = _pair(module.kernel_size), _pair(module.padding)
        stride = kernel if module.stride is None else _pair(module.stride)
        shape = (channels, *moved(size, kernel, stride, padding, **how))
        return self._draft(name, op, inputs, shape, bits, kernel=kernel, stride=stride, padding=padding, **how)

    def _global_average_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        channels, height, width = self._shapes[inputs[0]]
        return self._draft(name, "average_pool", inputs, (channels, 1, 1), kernel=(height, width))

    # ---- several inputs ----------------------------------------------------------------------------------------

    def _add(self, name: str, module: Any, inputs: list[str]) -> str:
        return self._draft(name, "add", inputs, self._shapes[inputs[0]])

    def _concat(self, name: str, module: Any, inputs: list[str]) -> str:
        kinds = {self._bits[name] for name in inputs}
        if len(kinds) > 1:
            inputs = [self._float32(name) for name in inputs]
        channels = sum(self._shapes[name][0] for name in inputs)
        return self._draft(name, "concat", inputs, (channels, *self._shapes[inputs[0]][1:]), self._bits[inputs[0]])

    # ---- layers with weights -----------------------------------------------------------------------------------

    def _conv(self, name: str, module: Any, inputs: list[str]) -> str:
        if module.dilation != (1, 1) or module.padding_mode != "zeros":
            rule = "is supported without dilation, and with a padding of zeros"
            raise checks.wrong_value(f"layer {name!r}", rule, repr(module))
        # torch has the columns' padding first: left, right, top, bottom
        left, right, top, bottom = module._reversed_padding_repeated_twice
        if left != right or top != bottom:
            raise checks.wrong_value(f"layer {name!r}", "is supported with the same padding on both sides", repr(module))
        weights = _float32(name, module, "weight")
        return self._sums(name, module, inputs[0], weights, stride=module.stride, padding=(top, left), groups=module.groups)

    def _linear(self, name: str, module: Any, inputs: list[str]) -> str:
        channels, height, width = self._shapes[inputs[0]]
        weights = _float32(name, module, "weight")
        if weights.shape[1] != channels * height * width:
            got = f"{channels} channels of {height} x {width}"
            raise checks.wrong_value(f"layer {name!r}", f"must read {weights.shape[1]} numbers, as it has weights for", got)
        return self._sums(name, module, inputs[0], weights.reshape(-1, channels, height, width))

    def _sums(self, name: str, module: Any, source: str, weights: np.ndarray, **how: Any) -> str:
        """A draft of a layer with weights (O, I, kh, kw)."""
        weight_bits = getattr(module, "weight_bits", FLOAT_BITS)
        input_bits = getattr(module, "input_bits", FLOAT_BITS)
        if input_bits != FLOAT_BITS:
            source = self._codes(f"{name}.input", source, input_bits)
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
            name, "conv", [source], (len(weights), *size), weights=weights.transpose(0, 2, 3, 1),
            weight_bits=None if weight_bits == FLOAT_BITS else weight_bits, scale=scale,
            shift=np.zeros(len(weights)) if module.bias is None else _float64(name, module, "bias"), **how,
        )  # fmt: skip


def _float32(name: str, module: Any, what: str) -> np.ndarray:
    """A parameter of a layer."""
    value: np.ndarray = getattr(module, what).detach().cpu().float().numpy()
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        where = tuple(bad[0].tolist())
        raise checks.wrong_value(f"layer {name!r}: {what}", "every value must be finite", f"{value[where]} at index {where}")
    return value


def _float64(name: str, module: Any, what: str) -> np.ndarray:
    return _float32(name, module, what).astype(np.float64)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
