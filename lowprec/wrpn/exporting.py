"""A trained network as an `IntegerNetwork`: `export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import checks
from .architecture import FLOAT
from .conversion import Step, read_graph, trace
from .folding import Drafts, fold
from .integer import IntegerNetwork
from .layers import INPUT, check_input_shape
from .quantizers import quantize_weights, weight_codes

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.export")

from torch import nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = ["export", "export_steps"]


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
    return export_steps(read_graph(trace(model)), input_shape, about)[0]


def export_steps(
    steps: Sequence[Step], input_shape: Sequence[int], about: dict[str, Any] | None = None
) -> tuple[IntegerNetwork, dict[str, str]]:
    """The network of a traced model; and, for each place where that rounds to codes, the layer that gives these codes.

    The place where a layer rounds its own input is called as the layer with ``.input`` behind.
    """
    drafts = _Exported(check_input_shape(input_shape))
    for step in steps:
        drafts.add(step)
    codes = {draft.name for draft in drafts.made if draft.op == "affine" and draft.bits is not None}
    layers, places = fold(drafts.made, drafts.output)
    return IntegerNetwork(layers, input_shape, about), {name: places[name] for name in places if name in codes}


class _Exported(Drafts):
    """The steps of a traced network, one after the other, as drafts of layers."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__(input_shape)
        self.output = INPUT
        # The draft that gives what a node of the graph gives.
        self._found: dict[Any, str] = {}

    def add(self, step: Step) -> None:
        make: Callable[[str, Any, list[str]], str] = getattr(self, f"_{step.kind}")
        self._found[step.node] = make(step.name, step.module, [self._found[node] for node in step.inputs])

    # ---- what only carries numbers on --------------------------------------------------------------------------

    def _input(self, name: str, module: Any, inputs: list[str]) -> str:
        return INPUT

    def _identity(self, name: str, module: Any, inputs: list[str]) -> str:
        return inputs[0]

    _dropout = _flatten = _identity

    def _output(self, name: str, module: Any, inputs: list[str]) -> str:
        self.output = self.float32(inputs[0])
        return self.output

    # ---- one number at a time ----------------------------------------------------------------------------------

    def _relu(self, name: str, module: Any, inputs: list[str]) -> str:
        return inputs[0] if self.bits[inputs[0]] is not None else self.clipped(name, inputs[0], relu=True)

    def _quantized_relu(self, name: str, module: Any, inputs: list[str]) -> str:
        return self.codes(name, inputs[0], module.bits)

    def _batch_norm(self, name: str, module: Any, inputs: list[str]) -> str:
        shape = self.shapes[inputs[0]]
        if module.running_mean is None:
            raise checks.wrong_value(f"layer {name!r}", "must have running statistics to be exported", "none")
        if module.num_features != shape[0]:
            rule = f"must normalize the {shape[0]} channels that it reads"
            raise checks.wrong_value(f"layer {name!r}", rule, module.num_features)
        names = ("running_mean", "running_var") + (("weight", "bias") if module.affine else ())
        found = {what: _float64(name, module, what) for what in names}
        scale = found.get("weight", 1.0) / np.sqrt(found["running_var"] + module.eps)
        shift = found.get("bias", 0.0) - found["running_mean"] * scale
        return self.draft(name, "affine", inputs, shape, scale=scale, shift=shift)

    # ---- windows -----------------------------------------------------------------------------------------------

    def _max_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        if _pair(module.dilation) != (1, 1):
            raise checks.wrong_value(f"layer {name!r}", "is supported without dilation", module.dilation)
        return self._pool(name, module, "max_pool", inputs[0], ceil_mode=module.ceil_mode)

    def _average_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        left_out = not module.count_include_pad and any(_pair(module.padding))
        if module.ceil_mode or module.divisor_override is not None or left_out:
            rule = "is supported without ceil_mode and divisor_override, and with count_include_pad"
            raise checks.wrong_value(f"layer {name!r}", rule, repr(module))
        return self._pool(name, module, "average_pool", inputs[0])

    def _pool(self, name: str, module: Any, op: str, source: str, **how: bool) -> str:
        kernel = _pair(module.kernel_size)
        stride = kernel if module.stride is None else _pair(module.stride)
        return self.pool(name, op, source, kernel=kernel, stride=stride, padding=_pair(module.padding), **how)

    def _global_average_pool(self, name: str, module: Any, inputs: list[str]) -> str:
        height, width = self.shapes[inputs[0]][1:]
        return self.pool(name, "average_pool", inputs[0], kernel=(height, width))

    # ---- several inputs ----------------------------------------------------------------------------------------

    def _add(self, name: str, module: Any, inputs: list[str]) -> str:
        return self.draft(name, "add", inputs, self.shapes[inputs[0]])

    def _concat(self, name: str, module: Any, inputs: list[str]) -> str:
        return self.concat(name, inputs)

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
        channels, height, width = self.shapes[inputs[0]]
        weights = _float32(name, module, "weight")
        if weights.shape[1] != channels * height * width:
            got = f"{channels} channels of {height} x {width}"
            raise checks.wrong_value(f"layer {name!r}", f"must read {weights.shape[1]} numbers, as it has weights for", got)
        return self._sums(name, module, inputs[0], weights.reshape(-1, channels, height, width))

    def _sums(self, name: str, module: Any, source: str, weights: np.ndarray, **how: Any) -> str:
        """A draft of a layer with weights (O, I, kh, kw)."""
        weight_bits = getattr(module, "weight_bits", FLOAT)
        input_bits = getattr(module, "input_bits", FLOAT)
        if input_bits != FLOAT:
            source = self.codes(f"{name}.input", source, input_bits)
        bias = None if module.bias is None else _float64(name, module, "bias")
        if weight_bits == FLOAT or self.bits[source] is None:
            weights = weights if weight_bits == FLOAT else quantize_weights(weights, weight_bits)
            return self.sums(name, source, weights, None, np.ones(len(weights)), bias, **how)
        weights, one = weight_codes(weights, weight_bits)
        scale = one.astype(np.float64) if weight_bits == 1 else np.ones(len(weights))
        return self.sums(name, source, weights, weight_bits, scale, bias, **how)


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
