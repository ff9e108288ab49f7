"""QONNX: what is written is what the qonnx package computes, and reading it back gives the same network, to the bit."""

from __future__ import annotations

import network_reference as reference
import numpy as np
import pytest
from test_wrpn_network import SHAPE, everything

from lowprec.wrpn import IntegerNetwork, from_qonnx, to_qonnx

f32 = np.float32


@pytest.fixture
def onnx():
    pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'lowprec[qonnx]'")
    return pytest.importorskip("onnx")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.onnx"


def executed(path, x):
    """What the qonnx package's own executor computes: every tensor, of images one by one."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapper = ModelWrapper(str(path)).transform(InferShapes())
    name = wrapper.graph.input[0].name
    return [execute_onnx(wrapper, {name: image[None]}, return_full_exec_context=True) for image in x]


def by_name(network):
    return {layer.name: layer for layer in network.layers}


@pytest.mark.parametrize(("weight_bits", "bits"), [(4, 4), (1, 2), (3, 5), (8, 1)])
def test_what_is_written_is_computed_and_read_back(weight_bits, bits, onnx, path, rng):
    network = IntegerNetwork(everything(rng, weight_bits, bits), SHAPE)
    onnx.save(to_qonnx(network), path)
    found = from_qonnx(path)
    assert by_name(found) == by_name(network)
    assert found.input_shape == network.input_shape
    x = rng.normal(size=(2, *SHAPE)).astype(f32)
    np.testing.assert_array_equal(found(x), network(x))
    for k, context in enumerate(executed(path, x)):
        tensors = {name: t[k : k + 1] for name, t in network.tensors(x).items()}
        for layer in network.layers:
            theirs = context.get(f"{layer.name}/result", context[layer.name])
            # Codes are equal. Float32 sums have another order: each layer is fed what the executor computed before it.
            inputs = [context.get(f"{name}/result", context[name]).transpose(0, 2, 3, 1) for name in layer.inputs]
            codes = [network.shapes[name].bits is not None for name in layer.inputs]
            inputs = [a.astype(np.uint8) if is_codes else a for a, is_codes in zip(inputs, codes, strict=True)]
            ours = reference.run_layer(layer, *inputs)[1]
            theirs = theirs.transpose(0, 2, 3, 1)
            if layer.bits is None and not codes[0] and layer.op in ("conv", "average_pool"):
                bound = 2 * reference.float_bound(layer, inputs[0]) * np.abs(layer.scale) + 4 * reference.U * np.abs(ours)
                assert (np.abs(theirs - ours) <= bound).all(), layer.name
            else:
                np.testing.assert_array_equal(theirs, ours, layer.name)
            if layer.bits is not None:
                np.testing.assert_array_equal(theirs, tensors[layer.name], layer.name)


class Graph:
    """A model by hand, as other tools write them."""

    def __init__(self, onnx, shape):
        self.onnx, self.nodes, self.constants, self.shape = onnx, [], [], shape

    def constant(self, value, name):
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, f32), name))
        return name

    def node(self, op, *inputs, domain="", **attributes):
        output = f"t{len(self.nodes)}"
        inputs = [x if isinstance(x, str) else self.constant(x, f"{output}.{k}") for k, x in enumerate(inputs)]
        name = f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def quant(self, x, scale, bits, signed=0, narrow=0, zero=0, rounding_mode="ROUND"):
        how = {"signed": signed, "narrow": narrow, "rounding_mode": rounding_mode}
        return self.node("Quant", x, scale, zero, bits, domain="qonnx.custom_op.general", **how)

    def save(self, path, output, classes=3):
        h, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        ends = [h.make_tensor_value_info(name, kind, shape) for name, shape in (("x", [1, *self.shape]), (output, [1, classes]))]
        graph = h.make_graph(self.nodes, "made", ends[:1], ends[1:], self.constants)
        opsets = [h.make_opsetid("", 13), h.make_opsetid("qonnx.custom_op.general", 1)]
        self.onnx.save(h.make_model(graph, opset_imports=opsets, ir_version=8), path)


def test_a_model_of_another_tool(onnx, path, rng):
    """Scales other than 1, bias, normalization, poolings, Gemm and MatMul: all numbers dyadic, so that nothing is rounded."""
    g = Graph(onnx, (2, 6, 6))
    x = g.quant("x", 0.125, 3)
    w = g.quant(rng.uniform(-2, 2, (4, 2, 3, 3)), np.reshape([0.25, 0.5, 0.25, 0.125], (4, 1, 1, 1)), 4, signed=1, narrow=1)
    y = g.node("Conv", x, w, [0.5, -0.25, 1, 0], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    norm = [1, 0.5, -1, 2], [0.25, 1, 2, 0.5], [0.5, 0, 1, -1], np.full(4, 4 - 2**-10)
    y = g.node("BatchNormalization", y, *norm, epsilon=2**-10)
    y = g.node("Relu", g.quant(g.node("Relu", y), 0.0625, 5))
    w = g.node("BipolarQuant", rng.normal(size=(4, 2, 1, 1)), 0.5, domain="qonnx.custom_op.general")
    z = g.node("Conv", y, w, kernel_shape=[1, 1], group=2)
    y = g.node("Add", g.node("Div", y, 2), g.node("Sub", z, 0.25))
    y = g.node("MaxPool", g.quant(y, 0.25, 4), kernel_shape=[2, 2], strides=[2, 1])
    y = g.node("AveragePool", y, kernel_shape=[2, 2], count_include_pad=1, pads=[1, 0, 1, 0])
    y = g.quant(g.node("Concat", y, y, axis=1), 0.5, 2)
    y = g.node("Flatten", g.node("GlobalAveragePool", g.node("Dropout", g.node("AveragePool", y, kernel_shape=[1, 1]))))
    y = g.quant(y, 0.25, 3)
    w = g.quant(rng.uniform(-1, 1, (5, 8)), 0.25, 3, signed=1, narrow=1)
    y = g.node("Gemm", y, w, [1, 0, 0.5, -1, 0.25], transB=1)
    y = g.node("MatMul", g.node("Relu", y), np.round(rng.normal(size=(5, 3)) * 4) / 4)
    g.save(path, g.node("Add", y, [0.5, 0, -2]))
    network = from_qonnx(path)
    x = np.round(rng.uniform(-0.5, 1.5, (6, 2, 6, 6)) * 64).astype(f32) / 64
    theirs = np.concatenate([context[f"t{len(g.nodes) - 1}"] for context in executed(path, x)])
    np.testing.assert_array_equal(network(x), theirs)
    assert len(np.unique(theirs)) > 6
    assert [layer.weight_bits for layer in network.layers if layer.op == "conv"] == [4, 1, 3, None]
    again = path.with_name("again")
    onnx.save(to_qonnx(network), again)
    assert by_name(from_qonnx(again)) == by_name(network)


BAD = {
    "not supported": (lambda g: g.node("Sigmoid", "x"), "node 'n0' (Sigmoid): is not supported; see from_qonnx"),
    "signed": (lambda g: g.quant("x", 1, 4, signed=1), "node 'n0' (Quant): of activations is supported unsigned, not narrow"),
    "zero": (lambda g: g.quant("x", 1, 4, zero=1), "node 'n0' (Quant): is supported with zero point 0, rounding half to even"),
    "bits": (lambda g: g.quant("x", 1, 9), "node 'n0' (Quant): is supported with zero point 0, rounding half to even"),
    "rounding": (lambda g: g.quant("x", 1, 4, rounding_mode="FLOOR"), "node 'n0' (Quant): is supported with zero point 0, roun"),
    "wide weights": (
        lambda g: g.node("Conv", "x", g.quant(np.full((3, 2, 3, 3), -9), 1, 4, signed=1), kernel_shape=[3, 3]),
        "node 'n0' (Quant): of weights is supported signed, with codes in +-(2^(bits - 1) - 1)",
    ),
    "pads": (
        lambda g: g.node("Conv", "x", np.ones((3, 2, 3, 3)), kernel_shape=[3, 3], pads=[1, 1, 0, 0]),
        "node 'n0' (Conv): is supported without dilation, and with the same padding on both sides",
    ),
    "two": (lambda g: g.node("MatMul", "x", "x"), "node 'n0' (MatMul): is supported where 'x' is a constant"),
    "columns": (lambda g: g.node("Mul", "x", np.arange(3.0)), "node 'n0' (Mul): is supported with one number, or one for each"),
    "rows": (lambda g: g.node("Concat", "x", "x", axis=2), "node 'n0' (Concat): is supported along the channels, axis 1"),
    "average": (
        lambda g: g.node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "node 'n0' (AveragePool): is supported without ceil_mode, and with count_include_pad",
    ),
    "flat": (lambda g: g.node("Flatten", "x", axis=2), "node 'n0' (Flatten): is supported from (N, C, H, W) to (N, C H W)"),
    "gemm": (lambda g: g.node("Gemm", g.node("Flatten", "x"), np.ones((18, 3)), alpha=2.0), "node 'n1' (Gemm): is supported wit"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_supported_is_named(what, onnx, path):
    g = Graph(onnx, (2, 3, 3))
    make, sentence = BAD[what]
    g.save(path, make(g))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        from_qonnx(path)
    assert str(caught.value).startswith(sentence)


def test_what_is_no_file(onnx, path):
    with pytest.raises(FileNotFoundError, match="no such file; expected a QONNX model"):
        from_qonnx(path)
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(ValueError, match=r"network.onnx: is cut short, or no ONNX \("):
        from_qonnx(path)


def test_it_asks_for_its_extra(path, rng, monkeypatch):
    network = IntegerNetwork(everything(rng), SHAPE)
    real = __import__("importlib").import_module

    def without(name):
        if name.split(".")[0] in ("onnx", "qonnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    path.write_bytes(b"")
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ImportError, match=r"to_qonnx needs onnx, which is not installed: pip install 'lowprec\[qonnx\]'"):
        to_qonnx(network)
    with pytest.raises(ImportError, match=r"from_qonnx needs qonnx, which is not installed: pip install 'lowprec\[qonnx\]'"):
        from_qonnx(path)
