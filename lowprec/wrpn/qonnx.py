"""Networks as QONNX and back: ONNX with nodes that quantize (A. Pappalardo et al., "QONNX: Representing Arbitrary-Precision
Quantized Neural Networks", 2022). Needs the packages onnx and qonnx: ``pip install 'lowprec[qonnx]'``.

`to_qonnx` writes codes as whole numbers (all its quantizers have a scale of 1): in float32 the file gives the codes of the
integer network, where sums stay below 2^24. `from_qonnx` also reads other scales, and what is not folded yet.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import checks
from .folding import Drafts, fold
from .integer import IntegerNetwork
from .layers import INPUT, Layer

__all__ = ["from_qonnx", "to_qonnx"]

_DOMAIN = "qonnx.custom_op.general"
_OUTPUT = "output"


def to_qonnx(network: IntegerNetwork) -> Any:
    """A network as a QONNX model, for ``onnx.save``.

    Parameters
    ----------
    network : IntegerNetwork

    Returns
    -------
    onnx.ModelProto
        From ``"input"``, (N, C, H, W), to ``"output"``, (N, classes). What layer NAME gives is the tensor ``NAME/result``. An
        average_pool is a depthwise convolution with ones, which is exact.
    """
    onnx = checks.need_extra("onnx", "qonnx", "to_qonnx")
    written = _Written(onnx.helper, onnx.numpy_helper)
    for layer in network.layers:
        written.add(layer, network.shapes[layer.inputs[0]].channels)
    last = network.layers[-1].name
    written.node("Flatten", [written.results[last]], _OUTPUT, axis=1)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    output = helper.make_tensor_value_info(_OUTPUT, kind, [1, network.shapes[last].channels])
    inputs = [helper.make_tensor_value_info(INPUT, kind, [1, *network.input_shape])]
    graph = helper.make_graph(written.nodes, "lowprec", inputs, [output], written.constants)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="lowprec", ir_version=8)


class _Written:
    """Nodes and constants, layer by layer. What is first computed of a layer has its name, what it gives ``/result`` behind."""

    def __init__(self, helper: Any, arrays: Any) -> None:
        self._helper, self._arrays = helper, arrays
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.results = {INPUT: INPUT}
        self._count = 0

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(self._helper.make_node(op, inputs, [output], name=f"{op}/{output}", domain=domain, **attributes))
        return output

    def constant(self, value: Any) -> str:
        name = self._new("constant")
        self.constants.append(self._arrays.from_array(np.asarray(value, np.float32), name))
        return name

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{name}/{self._count}"

    def _quant(self, x: str, bits: int, output: str, signed: int) -> str:
        inputs = [x, *(self.constant(value) for value in (1, 0, bits))]
        return self.node("Quant", inputs, output, _DOMAIN, signed=signed, narrow=signed, rounding_mode="ROUND")

    def _times(self, x: str, value: Any, output: str) -> str:
        return self.node("Mul", [x, self.constant(value)], output)

    def add(self, layer: Layer, channels: int) -> None:
        """The nodes of a layer that reads so many channels."""
        name, (py, px), inputs = layer.name, layer.padding, [self.results[source] for source in layer.inputs]
        window = {"kernel_shape": layer.window, "strides": layer.stride, "pads": [py, px, py, px]}
        if layer.op == "max_pool":
            self.results[name] = self.node("MaxPool", inputs, name, ceil_mode=int(layer.ceil_mode), **window)
            return
        if layer.op == "concat":
            self.results[name] = self.node("Concat", inputs, name, axis=1)
            return
        if layer.op == "add":
            assert layer.scale is not None
            y = self.node("Add", [self._times(x, s, self._new(name)) for x, s in zip(inputs, layer.scale, strict=True)], name)
        else:
            y = self._scaled(layer, inputs[0], channels, window)
        if layer.residual_scale is not None:
            y = self.node("Add", [y, self._times(inputs[1], layer.residual_scale, self._new(name))], self._new(name))
        self.results[name] = f"{name}/result"
        if layer.bits is not None:
            self._quant(y, layer.bits, self.results[name], signed=0)
        else:
            self.node("Relu" if layer.relu else "Identity", [y], self.results[name])

    def _scaled(self, layer: Layer, x: str, channels: int, window: dict[str, Any]) -> str:
        """A conv, average_pool or affine up to its shift."""
        first = layer.name
        if layer.op != "affine":
            w, bits, groups = layer.weights, layer.weight_bits, layer.groups
            if w is None:
                w, bits, groups = np.ones((channels, *layer.window, 1), np.float32), 2, channels
            weights = self.constant(w.transpose(0, 3, 1, 2))
            if bits == 1:
                weights = self.node("BipolarQuant", [weights, self.constant(1)], self._new(first), _DOMAIN)
            elif bits is not None:
                weights = self._quant(weights, bits, self._new(first), signed=1)
            x, first = self.node("Conv", [x, weights], first, group=groups, **window), self._new(first)
        assert layer.scale is not None
        y = self._times(x, layer.scale.reshape(1, -1, 1, 1), first)
        if layer.shift is None:
            return y
        return self.node("Add", [y, self.constant(layer.shift.reshape(1, -1, 1, 1))], self._new(layer.name))


def from_qonnx(path: str | os.PathLike[str]) -> IntegerNetwork:
    """The integer network of a QONNX file.

    Parameters
    ----------
    path : path-like
        A model of one input, (N, C, H, W), and one output of one number for each class; of Conv, Gemm or MatMul with constant
        weights, BatchNormalization, Relu, Mul, Div, Add and Sub, MaxPool, AveragePool, GlobalAveragePool, Concat, Flatten,
        Reshape to vectors, and Quant: of weights signed, with any scale for each output; of activations unsigned, with one
        scale; the zero point 0, rounded half to even, 1 to 8 bits. BipolarQuant of weights is 1 bit.

    Returns
    -------
    IntegerNetwork

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ONNX, or for a node that is not supported: the message names it.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file; expected a QONNX model")
    wrapper_of = checks.need_extra("qonnx.core.modelwrapper", "qonnx", "from_qonnx").ModelWrapper
    from google.protobuf.message import DecodeError
    from qonnx.transformation.batchnorm_to_affine import BatchNormToAffine
    from qonnx.transformation.extract_conv_bias import ExtractBiasFromConv
    from qonnx.transformation.fold_constants import FoldConstants
    from qonnx.transformation.general import ConvertDivToMul, ConvertSubToAdd, SortGraph
    from qonnx.transformation.infer_shapes import InferShapes

    try:
        wrapper = wrapper_of(name)
    except DecodeError as error:
        raise checks.bad_file(name, f"is cut short, or no ONNX ({error})", expected="a QONNX model") from None
    simpler = (InferShapes, FoldConstants, ExtractBiasFromConv, BatchNormToAffine, ConvertSubToAdd, ConvertDivToMul, SortGraph)
    for change in simpler:
        wrapper = wrapper.transform(change())
    graph = wrapper.graph
    inputs = [tensor.name for tensor in graph.input if wrapper.get_initializer(tensor.name) is None]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise checks.bad_file(name, f"has {len(inputs)} inputs and {len(graph.output)} outputs", expected="one of each")
    shape = wrapper.get_tensor_shape(inputs[0])
    if shape is None or len(shape) != 4:
        raise checks.bad_file(name, f"its input has the shape {shape}", expected="(N, C, H, W)")
    read = _Read(wrapper, inputs[0], tuple(shape[1:]))
    for node in graph.node:
        read.add(node)
    output = read.float32(read.found[graph.output[0].name])
    return IntegerNetwork(fold(read.made, output)[0], tuple(shape[1:]))


class _Read(Drafts):
    """The nodes of a model as drafts of layers."""

    def __init__(self, wrapper: Any, first: str, input_shape: tuple[int, int, int]) -> None:
        super().__init__(input_shape)
        self._wrapper, self._value = wrapper, checks.need_extra("onnx", "qonnx", "from_qonnx").helper.get_attribute_value
        # The draft that gives a tensor; the codes, bits and scale of quantized weights.
        self.found = {first: INPUT}
        self._weights: dict[str, tuple[np.ndarray, int, np.ndarray]] = {}

    def add(self, node: Any) -> None:
        make = getattr(self, f"_{node.op_type.lower()}", None)
        if make is None:
            raise self._fault(node, "is not supported")
        attributes = {a.name: self._value(a) for a in node.attribute}
        made = make(node, attributes, *(self.found.get(name) for name in node.input))
        if made is not None:
            self.found[node.output[0]] = made

    def _fault(self, node: Any, rule: str) -> ValueError:
        return ValueError(f"node {node.name or node.output[0]!r} ({node.op_type}): {rule}; see from_qonnx for what is")

    def _constant(self, node: Any, k: int) -> np.ndarray:
        value = self._wrapper.get_initializer(node.input[k])
        if value is None:
            raise self._fault(node, f"is supported where {node.input[k]!r} is a constant")
        return value

    # ---- quantizers ------------------------------------------------------------------------------------------------

    def _quant(self, node: Any, how: dict[str, Any], source: str | None, *_: Any) -> str | None:
        scale, zero, bits = (self._constant(node, k) for k in (1, 2, 3))
        rounding = how.get("rounding_mode", b"ROUND").upper()
        if zero.any() or rounding not in (b"ROUND", b"HALF_EVEN") or bits.size != 1 or bits.item() not in range(1, 9):
            raise self._fault(node, "is supported with zero point 0, rounding half to even, and 1 to 8 bits")
        b = int(bits.item())
        if source is None:
            codes = np.rint(np.clip(self._constant(node, 0) / scale, -(2 ** (b - 1)) + how["narrow"], 2 ** (b - 1) - 1))
            if not how["signed"] or b == 1 or codes.min() < -(2 ** (b - 1)) + 1:
                raise self._fault(node, "of weights is supported signed, with codes in +-(2^(bits - 1) - 1)")
            self._weights[node.output[0]] = codes.astype(np.int8), b, scale
            return None
        if how["signed"] or how["narrow"] or scale.size != 1 or scale.item() <= 0:
            raise self._fault(node, "of activations is supported unsigned, not narrow, with one scale")
        return self.codes(node.output[0], source, b, float(scale.item()))

    def _bipolarquant(self, node: Any, how: dict[str, Any], source: str | None, *_: Any) -> None:
        codes = np.where(self._constant(node, 0) >= 0, 1, -1).astype(np.int8)
        self._weights[node.output[0]] = codes, 1, self._constant(node, 1)

    # ---- sums ------------------------------------------------------------------------------------------------------

    def _conv(self, node: Any, how: dict[str, Any], source: str, *_: Any) -> str:
        pads = how.get("pads") or [0, 0, 0, 0]
        if pads[:2] != pads[2:] or how.get("auto_pad", b"NOTSET") != b"NOTSET" or set(how.get("dilations") or [1]) != {1}:
            raise self._fault(node, "is supported without dilation, and with the same padding on both sides")
        given = {"stride": tuple(how.get("strides") or (1, 1)), "padding": tuple(pads[:2])}
        w, _, scale = self._weights.get(node.input[1], (np.zeros(1), 0, np.zeros(2)))
        groups = how.get("group") or 1
        if (w == 1).all() and scale.size == 1 and groups == len(w) == self.shapes[source][0]:
            factors = [float(scale.item()) * float(np.prod(w.shape[2:])), 1.0]
            return self.pool(node.output[0], "average_pool", source, kernel=w.shape[2:], factors=factors, **given)
        return self._sums(node, source, lambda w: w, groups=groups, **given)

    def _matmul(self, node: Any, how: dict[str, Any], source: str, *_: Any) -> str:
        shape = self.shapes[source]
        return self._sums(node, source, lambda w: w.T.reshape(-1, *shape))

    def _gemm(self, node: Any, how: dict[str, Any], source: str, *_: Any) -> str:
        if how.get("transA") or how.get("alpha", 1) != 1 or how.get("beta", 1) != 1:
            raise self._fault(node, "is supported with alpha and beta 1, and transA 0")
        shape = self.shapes[source]
        bias = self._constant(node, 2).astype(np.float64).reshape(-1) if len(node.input) == 3 else None
        return self._sums(node, source, lambda w: (w if how.get("transB") else w.T).reshape(-1, *shape), bias)

    def _sums(self, node: Any, source: str, turned: Any, bias: np.ndarray | None = None, **how: Any) -> str:
        codes, bits, scale = self._weights.get(node.input[1], (None, None, np.float32(1)))
        whole = np.array(self._constant(node, 1) if codes is None else codes * scale, np.float32)
        weights = turned(whole)
        one = turned(np.broadcast_to(scale, whole.shape)).reshape(len(weights), -1)
        if codes is None or self.bits[source] is None or (one != one[:, :1]).any():
            return self.sums(node.output[0], source, weights, None, np.ones(len(weights)), bias, **how)
        unit = one[:, 0].astype(np.float64) * (1 if bits == 1 else 2 ** (bits - 1) - 1)
        return self.sums(node.output[0], source, turned(codes), bits, unit, bias, **how)

    # ---- all else --------------------------------------------------------------------------------------------------

    def _affine(self, node: Any, source: str, scale: np.ndarray, shift: np.ndarray) -> str:
        shape = self.shapes[source]
        rank = len(self._wrapper.get_tensor_shape(node.output[0]))
        both = []
        for value in (scale, shift):
            aligned = (1,) * (rank - value.ndim) + value.shape
            if value.size not in (1, shape[0]) or aligned[1] != value.size:
                raise self._fault(node, f"is supported with one number, or one for each of {shape[0]} channels")
            both.append(np.broadcast_to(value.astype(np.float64).reshape(-1), shape[:1]))
        return self.draft(node.output[0], "affine", [source], shape, scale=both[0], shift=both[1])

    def _mul(self, node: Any, how: dict[str, Any], a: str | None, b: str | None) -> str:
        source, k = (a, 1) if a is not None else (b, 0)
        return self._affine(node, source, self._constant(node, k), np.zeros(1))

    def _add(self, node: Any, how: dict[str, Any], a: str | None, b: str | None) -> str:
        if a is not None and b is not None:
            return self.draft(node.output[0], "add", [a, b], self.shapes[a])
        source, k = (a, 1) if a is not None else (b, 0)
        return self._affine(node, source, np.ones(1), self._constant(node, k))

    def _relu(self, node: Any, how: dict[str, Any], source: str) -> str:
        return source if self.bits[source] is not None else self.clipped(node.output[0], source, relu=True)

    def _maxpool(self, node: Any, how: dict[str, Any], source: str) -> str:
        return self._pool(node, "max_pool", how, source, ceil_mode=bool(how.get("ceil_mode")))

    def _averagepool(self, node: Any, how: dict[str, Any], source: str) -> str:
        if how.get("ceil_mode") or (any(how.get("pads") or [0]) and not how.get("count_include_pad")):
            raise self._fault(node, "is supported without ceil_mode, and with count_include_pad")
        return self._pool(node, "average_pool", how, source)

    def _pool(self, node: Any, op: str, how: dict[str, Any], source: str, **more: Any) -> str:
        pads = how.get("pads") or [0, 0, 0, 0]
        if pads[:2] != pads[2:] or how.get("auto_pad", b"NOTSET") != b"NOTSET" or set(how.get("dilations") or [1]) != {1}:
            raise self._fault(node, "is supported without dilation, and with the same padding on both sides")
        window = {"kernel": tuple(how["kernel_shape"]), "stride": tuple(how.get("strides") or (1, 1)), "padding": tuple(pads[:2])}
        return self.pool(node.output[0], op, source, **window, **more)

    def _globalaveragepool(self, node: Any, how: dict[str, Any], source: str) -> str:
        return self.pool(node.output[0], "average_pool", source, kernel=self.shapes[source][1:])

    def _concat(self, node: Any, how: dict[str, Any], *sources: str) -> str:
        if how.get("axis") != 1:
            raise self._fault(node, "is supported along the channels, axis 1")
        return self.concat(node.output[0], list(sources))

    def _identity(self, node: Any, how: dict[str, Any], source: str, *_: Any) -> str:
        return source

    _dropout = _identity

    def _flatten(self, node: Any, how: dict[str, Any], source: str, *_: Any) -> str:
        shape = self._wrapper.get_tensor_shape(node.output[0])
        if shape is None or len(shape) != 2 or shape[1] != np.prod(self.shapes[source]):
            raise self._fault(node, "is supported from (N, C, H, W) to (N, C H W)")
        return source

    _reshape = _flatten
