"""The records that an `IntegerNetwork` is made of, and every rule they keep.

A layer reads tensors and gives one. A tensor is (height, width, channels) for each image, either codes (uint8; `bits` says how
many are used, and code c of b bits stands for c / (2**b - 1)) or float32. The arithmetic of each layer is in docs/wrpn.md,
"Integer networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from .quantizers import largest_activation, largest_weight

__all__ = ["INPUT", "MAX_BITS", "OPS", "Layer", "Tensor", "check_input_shape", "infer", "moved", "packed_row"]

#: What a layer calls the network's input: float32.
INPUT = "input"

MAX_BITS = 8

#: Of each op: how many inputs it has, and which fields besides name, op, inputs and bits are its own.
OPS: dict[str, tuple[tuple[int, int | None], tuple[str, ...]]] = {
    "conv": ((1, 2), ("weights", "weight_bits", "scale", "shift", "residual_scale", "stride", "padding", "groups", "relu")),
    "max_pool": ((1, 1), ("kernel", "stride", "padding", "ceil_mode")),
    "average_pool": ((1, 1), ("kernel", "stride", "padding", "scale", "relu")),
    "affine": ((1, 1), ("scale", "shift", "relu")),
    "add": ((2, 2), ("scale", "relu")),
    "concat": ((1, None), ()),
}

_LARGEST_SUM = 2**31 - 1


def packed_row(depth: int, bits: int) -> int:
    """Bytes of a row of so many weights in a file."""
    return -(-depth * bits // 8)


class Tensor(NamedTuple):
    """What a layer gives for one image.

    Attributes
    ----------
    height, width, channels : int
    bits : int or None
        Of its codes; None: float32.
    """

    height: int
    width: int
    channels: int
    bits: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One step of a network. What an op has no use for keeps its default.

    Attributes
    ----------
    name : str
    op : str
        ``"conv"`` (every linear layer is one: its kernel is as large as its input), ``"max_pool"``, ``"average_pool"``,
        ``"affine"`` (one scale and shift for each channel), ``"add"`` or ``"concat"`` (of channels).
    inputs : tuple of str
        Names of earlier layers, or ``"input"``. A conv may have two: the second is its residual, which is added to the result.
    bits : int or None
        What the layer gives: codes of so many bits, 1 to 8, or (None) float32. max_pool and concat give what they get.
    weights : ndarray or None
        Of a conv, shape (O, kh, kw, I / groups): int8 codes, and then its input is codes; or float32, and then its input is too.
    weight_bits : int or None
        Of weights that are codes: 1 to 8. One bit: -1 and 1; more: +-(2**(bits - 1) - 1).
    scale, shift : ndarray of float32 or None
        conv and affine: y = x * scale[c] + shift[c] with one of each for every channel that is given. average_pool: one scale,
        y = sum * scale[0]. add: two scales, y = a * scale[0] + b * scale[1]. Every product and every sum is rounded to float32.
        Of a layer that gives codes, y is in units of a code, and the code is y rounded half to even and clipped to
        [0, 2**bits - 1].
    residual_scale : float or None
        Of a conv with a residual r: y = (x * scale[c] + shift[c]) + r * residual_scale, in this order. A float32 number.
    kernel, stride, padding : tuple of int or None
        (vertical, horizontal). The kernel of a conv is in the shape of its weights. Padding is on both sides: zeros, which a
        max_pool leaves out and an average_pool counts.
    ceil_mode : bool
        Of a max_pool: whether a last window that is partly outside counts, as in torch.
    groups : int
        Of a conv: input and output channels are in so many groups, each with weights of its own.
    relu : bool
        Of a layer that gives float32: y = max(y, 0).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    bits: int | None = None
    weights: np.ndarray | None = None
    weight_bits: int | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    residual_scale: float | None = None
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False
    groups: int = 1
    relu: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise checks.wrong_type("layer: name", "a string", self.name)
        if not self.name or self.name == INPUT:
            raise checks.wrong_value("layer: name", f"must be neither empty nor {INPUT!r}", repr(self.name))
        checks.check_choice(self._of("op"), self.op, OPS)
        self._check_inputs()
        own = OPS[self.op][1]
        for field in fields(self)[4:]:
            value = getattr(self, field.name)
            if field.name not in own and not _same(value, field.default):
                raise self._fault(field.name, f"is no part of {self.op}; leave it out", value)
        self._set("bits", self._bits("bits"))
        self._set("relu", checks.check_bool(self._of("relu"), self.relu))
        self._set("ceil_mode", checks.check_bool(self._of("ceil_mode"), self.ceil_mode))
        self._set("stride", self._pair("stride", 1))
        self._set("padding", self._pair("padding", 0))
        if self.relu and self.bits is not None:
            raise self._fault("relu", "is for layers that give float32; codes are never negative", self.relu)
        if "kernel" in own:
            self._set("kernel", self._pair("kernel", 1))
            if any(2 * p > k for p, k in zip(self.padding, self.window, strict=True)):
                raise self._fault("padding", f"must be at most half of kernel {self.window}", self.padding)
        if self.op == "conv":
            self._check_weights()
        sizes = {"average_pool": 1, "add": 2}
        for name in ("scale", "shift"):
            if name in own:
                size = sizes.get(self.op, None if self.weights is None else self.weights.shape[0])
                self._set(name, self._floats(name, getattr(self, name), size))
        if self.op == "affine" and self._given("scale").shape != self._given("shift").shape:
            got = f"shape {self._given('shift').shape}"
            raise self._fault("shift", f"must have the shape of scale, {self._given('scale').shape}", got)

    # ---- what it is made of --------------------------------------------------------------------------------

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of what one output looks at."""
        if self.weights is not None:
            return self.weights.shape[1], self.weights.shape[2]
        return self.kernel or (1, 1)

    @property
    def depth(self) -> int:
        """How many products a sum of a conv has."""
        return int(np.prod(self._given("weights").shape[1:]))

    @property
    def parameters(self) -> int:
        """How many numbers its arrays hold."""
        return sum(a.size for a in (self.weights, self.scale, self.shift) if a is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays in a file: every row of weights packed at its bits, all else float32."""
        total = sum(a.nbytes for a in (self.weights, self.scale, self.shift) if a is not None)
        if self.weights is not None and self.weight_bits is not None:
            total += len(self.weights) * packed_row(self.depth, self.weight_bits) - self.weights.nbytes
        return total

    def _given(self, name: str) -> np.ndarray:
        value: np.ndarray | None = getattr(self, name)
        assert value is not None
        return value

    def __eq__(self, other: object) -> bool:
        """Whether all fields are the same, numbers to the bit."""
        if not isinstance(other, Layer):
            return NotImplemented
        return all(_same(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]

    # ---- checks --------------------------------------------------------------------------------------------

    def _of(self, name: str) -> str:
        return f"layer {self.name!r}: {name}"

    def _fault(self, name: str, rule: str, got: Any) -> ValueError:
        return checks.wrong_value(self._of(name), rule, got)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_inputs(self) -> None:
        if isinstance(self.inputs, str) or not all(isinstance(name, str) for name in self.inputs):
            raise checks.wrong_type(self._of("inputs"), "names in a tuple", self.inputs)
        self._set("inputs", tuple(self.inputs))
        least, most = OPS[self.op][0]
        if not least <= len(self.inputs) <= (most or len(self.inputs)):
            counts = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} or {most}"
            raise self._fault("inputs", f"must be {counts} of {self.op}", f"{len(self.inputs)}")

    def _bits(self, name: str) -> int | None:
        value = getattr(self, name)
        return None if value is None else checks.check_int(self._of(name), value, minimum=1, maximum=MAX_BITS)

    def _pair(self, name: str, minimum: int) -> tuple[int, int]:
        value = getattr(self, name)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise checks.wrong_type(self._of(name), "a pair of integers, (vertical, horizontal)", value)
        y, x = (checks.check_int(self._of(name), v, minimum=minimum, maximum=2**16) for v in value)
        return y, x

    def _floats(self, name: str, value: Any, size: int | None) -> np.ndarray:
        if not isinstance(value, np.ndarray) or value.dtype != np.float32:
            raise checks.wrong_type(self._of(name), "an array of float32", value)
        if value.ndim != 1 or value.size == 0 or (size is not None and value.size != size):
            rule = "must be one number for each channel" if size is None else f"must have shape ({size},)"
            raise self._fault(name, rule, f"shape {value.shape}")
        return self._finite(name, value)

    def _finite(self, name: str, value: np.ndarray) -> np.ndarray:
        bad = np.argwhere(~np.isfinite(value))
        if len(bad):
            where = tuple(bad[0].tolist())
            raise self._fault(name, "every value must be finite", f"{value[where]} at index {where}")
        return _frozen(value)

    def _check_weights(self) -> None:
        w, name = self.weights, self._of("weights")
        self._set("weight_bits", self._bits("weight_bits"))
        dtype = np.dtype(np.float32 if self.weight_bits is None else np.int8)
        if not isinstance(w, np.ndarray) or w.dtype != dtype:
            kind = "float32, where weight_bits is None" if self.weight_bits is None else "int8, since weight_bits are given"
            raise checks.wrong_type(name, f"an array of {kind}", w)
        if w.ndim != 4 or w.size == 0:
            raise self._fault("weights", "must have shape (O, kh, kw, I / groups), none of them 0", f"shape {w.shape}")
        groups = checks.check_int(self._of("groups"), self.groups, minimum=1, maximum=w.shape[0])
        if w.shape[0] % groups:
            raise self._fault("groups", f"must divide the {w.shape[0]} channels that it gives", groups)
        self._set("groups", groups)
        if self.weight_bits is None:
            self._set("weights", self._finite("weights", w))
        else:
            most = largest_weight(self.weight_bits)
            lie = "be -1 or 1" if self.weight_bits == 1 else f"lie in [-{most}, {most}]"
            bad = w[(w < -most) | (w > most) | ((w == 0) & (self.weight_bits == 1))]
            if bad.size:
                raise self._fault("weights", f"must {lie}, of {self.weight_bits} bits", int(bad[0]))
            self._set("weights", _frozen(w))
        if (len(self.inputs) == 2) != (self.residual_scale is not None):
            rule = "must be given with a second input, and only then"
            raise self._fault("residual_scale", rule, self.residual_scale)
        if self.residual_scale is not None:
            value = checks.check_finite_scalar(self._of("residual_scale"), self.residual_scale)
            if float(np.float32(value)) != value:
                raise self._fault("residual_scale", "must be a float32 number", value)
            self._set("residual_scale", value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def _frozen(a: np.ndarray) -> np.ndarray:
    """A copy, contiguous, that nobody can change."""
    result = np.array(a, order="C")
    result.flags.writeable = False
    return result


# ---- layers together ---------------------------------------------------------------------------------------


def infer(layers: Sequence[Layer], input_shape: Sequence[int]) -> dict[str, Tensor]:
    """What every layer gives, if the layers fit each other.

    Parameters
    ----------
    layers : sequence of Layer
        In an order in which each comes after what it reads. The last gives the network's output.
    input_shape : (C, H, W)
        Of an image.

    Returns
    -------
    dict
        A `Tensor` for ``"input"`` and for each layer, by name, in order.

    Raises
    ------
    ValueError
        If a layer does not fit what it reads, is called as another, is read by none, or if its sums could leave int32.
    """
    if not layers:
        raise checks.wrong_value("layers", "must not be empty", "no layer")
    for layer in layers:
        if not isinstance(layer, Layer):
            raise checks.wrong_type("layers", "layers alone", layer)
    channels, height, width = check_input_shape(input_shape)
    found = {INPUT: Tensor(height, width, channels, None)}
    for layer in layers:
        if layer.name in found:
            raise checks.wrong_value("layers", "every name must be there once", f"{layer.name!r} twice")
        for name in layer.inputs:
            if name not in found:
                raise checks.wrong_value(f"layer {layer.name!r}: inputs", f"must be earlier layers or {INPUT!r}", repr(name))
        found[layer.name] = _RULES[layer.op](layer, [found[name] for name in layer.inputs])
    last = layers[-1].name
    read = {name for layer in layers for name in layer.inputs}
    for name in found:
        if name not in read and name != last:
            raise checks.wrong_value(f"layer {name!r}", "must be read by another, or be the last", "neither")
    output = found[last]
    if output.bits is not None or (output.height, output.width) != (1, 1):
        rule = "is the last, and must give one float32 number for each channel"
        raise checks.wrong_value(f"layer {last!r}", rule, _words(output))
    return found


def moved(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool = False
) -> list[int]:
    """Height and width of what a window gives that moves over a tensor, as torch counts them; below 1 if it does not fit.

    With `ceil_mode` a window may end outside, if it begins inside or in the padding before.
    """
    result = []
    for n, k, s, p in zip(size, kernel, stride, padding, strict=True):
        room = n + 2 * p - k
        steps = -(-room // s) if ceil_mode else room // s
        result.append(steps if ceil_mode and steps * s >= n + p else steps + 1)
    return result


def check_input_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """`input_shape` as (channels, height, width)."""
    if not isinstance(input_shape, (tuple, list)):
        raise checks.wrong_type("input_shape", "three integers, (channels, height, width)", input_shape)
    if len(input_shape) != 3:
        raise checks.wrong_value("input_shape", "must be three integers, (channels, height, width)", tuple(input_shape))
    channels, height, width = (checks.check_int("input_shape", v, minimum=1, maximum=2**20) for v in input_shape)
    return channels, height, width


def _words(tensor: Tensor) -> str:
    kind = "float32" if tensor.bits is None else f"codes of {tensor.bits} bits"
    return f"{tensor.channels} channels of {tensor.height} x {tensor.width} {kind}"


def _moved(layer: Layer, tensor: Tensor, channels: int) -> Tensor:
    """What a window gives that moves over a tensor."""
    sizes = moved(tensor[:2], layer.window, layer.stride, layer.padding, layer.ceil_mode)
    if min(sizes) < 1:
        rule = f"its kernel, {layer.window}, must fit into its padded input"
        raise checks.wrong_value(f"layer {layer.name!r}", rule, _words(tensor))
    return Tensor(sizes[0], sizes[1], channels, layer.bits)


def _conv(layer: Layer, inputs: list[Tensor]) -> Tensor:
    of, x, w = f"layer {layer.name!r}", inputs[0], layer.weights
    assert w is not None
    if (x.bits is None) != (layer.weight_bits is None):
        rule = "reads codes with weights that are codes, and float32 with float32 weights"
        raise checks.wrong_value(of, rule, f"{w.dtype} weights on {_words(x)}")
    if x.channels != w.shape[3] * layer.groups:
        raise checks.wrong_value(f"{of}: weights", f"must be for {layer.groups} groups of {w.shape[3]} input channels", _words(x))
    if x.bits is not None and layer.weight_bits is not None:
        largest = layer.depth * largest_activation(x.bits) * largest_weight(layer.weight_bits)
        if largest > _LARGEST_SUM:
            raise checks.wrong_value(of, f"its sums must stay within int32, +-{_LARGEST_SUM}", f"up to {largest}")
    result = _moved(layer, x, w.shape[0])
    if len(inputs) == 2 and inputs[1][:3] != result[:3]:
        rule = f"its residual must have the shape of what it gives, {_words(result)}"
        raise checks.wrong_value(f"{of}: inputs", rule, _words(inputs[1]))
    return result


def _max_pool(layer: Layer, inputs: list[Tensor]) -> Tensor:
    return _unchanged(layer, inputs, _moved(layer, inputs[0], inputs[0].channels))


def _average_pool(layer: Layer, inputs: list[Tensor]) -> Tensor:
    return _moved(layer, inputs[0], inputs[0].channels)


def _affine(layer: Layer, inputs: list[Tensor]) -> Tensor:
    assert layer.scale is not None
    if layer.scale.size != inputs[0].channels:
        rule = f"must have shape ({inputs[0].channels},)"
        raise checks.wrong_value(f"layer {layer.name!r}: scale", rule, f"shape {layer.scale.shape}")
    return inputs[0]._replace(bits=layer.bits)


def _add(layer: Layer, inputs: list[Tensor]) -> Tensor:
    a, b = inputs
    if a[:3] != b[:3]:
        raise checks.wrong_value(f"layer {layer.name!r}: inputs", "must have one shape", f"{_words(a)}, and {_words(b)}")
    return a._replace(bits=layer.bits)


def _concat(layer: Layer, inputs: list[Tensor]) -> Tensor:
    first = inputs[0]
    for other in inputs[1:]:
        if other[:2] != first[:2] or other.bits != first.bits:
            rule = "must differ in their channels alone"
            raise checks.wrong_value(f"layer {layer.name!r}: inputs", rule, f"{_words(first)}, and {_words(other)}")
    return _unchanged(layer, inputs, first._replace(channels=sum(t.channels for t in inputs), bits=layer.bits))


def _unchanged(layer: Layer, inputs: list[Tensor], result: Tensor) -> Tensor:
    if layer.bits != inputs[0].bits:
        raise checks.wrong_value(f"layer {layer.name!r}: bits", f"must be those of what it reads, {inputs[0].bits}", layer.bits)
    return result


_RULES = {"conv": _conv, "max_pool": _max_pool, "average_pool": _average_pool, "affine": _affine, "add": _add, "concat": _concat}
