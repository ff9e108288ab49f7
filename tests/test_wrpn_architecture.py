"""Networks as records: parameters and FMAs of well-known ones against published figures, shapes, widening, costs, bad input."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from lowprec import wrpn
from lowprec.wrpn import (
    ARCHITECTURES,
    Architecture,
    Node,
    compute_cost,
    first_order_speedup,
    fmas,
    get_architecture,
    inference_memory,
    training_memory,
    widened,
)

# Parameters as torchvision, Caffe and the ResNet paper's followers publish them.
PARAMETERS = {
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "alexnet-torchvision": 61_100_840,
    "alexnet-grouped": 60_965_224,
    "lenet": 431_080,
    "resnet-20": 272_474,
}

# Counted by hand: window, channels read, filters, places.
ALEXNET_FMAS = {
    "conv0": 12 * 12 * 3 * 96 * 54 * 54,
    "conv1": 5 * 5 * 96 * 256 * 54 * 54,
    "conv2": 3 * 3 * 256 * 384 * 27 * 27,
    "conv3": 3 * 3 * 384 * 384 * 14 * 14,
    "conv4": 3 * 3 * 384 * 256 * 14 * 14,
    "fc0": 256 * 6 * 6 * 4096,
    "fc1": 4096 * 4096,
    "fct": 4096 * 1000,
}


def small(*nodes, shape=(3, 8, 8)):
    return Architecture("small", shape, nodes)


def conv(name="c", source="input", **attributes):
    return Node(name, "conv", source, **{"channels": 4, "kernel": 3, **attributes})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_as_published(name):
    assert get_architecture(name).parameters() == PARAMETERS[name]


def test_alexnet_layer_by_layer():
    assert {count.name: count.fmas for count in get_architecture("alexnet").counts()} == ALEXNET_FMAS


def test_fmas():
    # resnet-34: conv1 3.22 % of 3,663.8 M.
    assert fmas("resnet-34") == fmas("resnet-34-preact") == 3_663_761_408
    assert get_architecture("resnet-34").counts()[0].fmas == 7 * 7 * 3 * 64 * 112 * 112
    # Groups: each filter reads its half.
    assert fmas("alexnet-dorefa") == sum(n // 2 if k in ("conv1", "conv3", "conv4") else n for k, n in ALEXNET_FMAS.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name):
    a = get_architecture(name)
    assert a.name == name
    counts = a.counts()
    shapes = a.shapes()
    # The dense definition: every output is a sum of as many products as a filter has weights.
    for count in counts:
        node = a[count.name]
        groups = node["groups"] if node.op == "conv" else 1
        assert count.weights == count.filters * math.prod(count.kernel) * shapes[node.inputs[0]][0] // groups
        assert count.fmas * count.filters == count.weights * math.prod(count.output_shape)
    assert a.quantized == tuple(count.name for count in counts[1:-1])
    assert shapes[a.nodes[-1].name] in ((1000,), (10,))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ("alexnet-dorefa", "alexnet-grouped")])
@pytest.mark.parametrize("factor", [2, 3, 1.3, 0.5])
def test_widening(name, factor):
    narrow = get_architecture(name)
    wide = narrow.widen(factor)
    last = narrow.layers[-1].name
    assert [node.name for node in wide.nodes] == [node.name for node in narrow.nodes]
    for before, after in zip(narrow.counts(), wide.counts(), strict=True):
        assert after.filters == (before.filters if before.name == last else round(before.filters * factor))
        assert (after.kernel, after.stride, after.output_shape[1:]) == (before.kernel, before.stride, before.output_shape[1:])
        if factor in (2, 3):
            ends = (narrow.layers[0].name, last)
            assert after.fmas == before.fmas * (factor if before.name in ends else factor**2)


def test_widening_rules():
    assert [widened(n, 1.3) for n in (1, 3, 64)] == [1, 4, 83]
    assert [widened(n, 1.25) for n in (2, 6, 10)] == [2, 8, 12]  # halves to even
    assert widened(3, 0.1) == 1
    a = get_architecture("lenet")
    assert a.widen(1) is a
    assert a.widen(2).widen(0.5) == Architecture("lenet-2x-0.5x", a.input_shape, a.nodes)
    # Both sides of every residual add are widened alike, whatever the factor.
    assert get_architecture("resnet-20").widen(1.7).shapes()["layer1.0.add"] == (27, 32, 32)
    assert get_architecture("alexnet-grouped").widen(1.5).shapes()["conv1"] == (144, 55, 55)


def test_bits_and_bytes():
    first, *_, last = counts = get_architecture("alexnet").counts(3, 5)
    assert (first.weight_bits, first.activation_bits, last.weight_bits, last.activation_bits) == (32, 32, 32, 32)
    assert {(c.weight_bits, c.activation_bits) for c in counts[1:-1]} == {(3, 5)}
    fc1 = counts[-2]
    assert fc1.weight_bytes == 4096 * 4096 * 3 // 8
    assert fc1.activation_bytes == 4096 * 5 // 8
    assert fc1.cost == 4096 * 4096 * 8
    assert first.activation_bytes == 4 * 3 * 224 * 224
    # What does not fill the last byte takes one.
    (count,) = (c for c in small(conv("a", padding=1), conv("b", "a", channels=1, kernel=1), conv("c", "b")).counts(1, 1)[1:-1])
    assert (count.weights, count.weight_bytes) == (4, 1)


def test_windows_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'lowprec[wrpn]'")
    x = {size: torch.zeros(1, 1, size, size) for size in range(3, 12)}
    for kernel in (1, 2, 3, 5):
        for stride in (1, 2, 3):
            for padding in range(kernel // 2 + 1):
                for size, image in x.items():
                    if size + 2 * padding < kernel:
                        continue
                    window = {"kernel": kernel, "stride": stride, "padding": padding}
                    for ceil in (False, True):
                        pooled = torch.nn.functional.max_pool2d(image, kernel, stride, padding, ceil_mode=ceil)
                        nodes = (Node("p", "max_pool", "input", ceil=ceil, **window), conv("c", "p", kernel=1))
                        assert small(*nodes, shape=(1, size, size)).shapes()["p"] == tuple(pooled.shape[1:]), (window, size, ceil)
                    convolved = torch.nn.functional.conv2d(image, torch.zeros(4, 1, kernel, kernel), None, stride, padding)
                    assert small(conv(**window), shape=(1, size, size)).shapes()["c"] == tuple(convolved.shape[1:])


def test_shapes_of_joins():
    a = small(
        conv("a", padding=1), conv("b", padding=1), Node("sum", "add", ["a", "b"]), Node("both", "concat", ["sum", "a"]),
        Node("flat", "flatten", "both"), Node("l", "linear", "flat", features=5),
    )  # fmt: skip
    assert a.shapes() == {
        "input": (3, 8, 8), "a": (4, 8, 8), "b": (4, 8, 8), "sum": (4, 8, 8), "both": (8, 8, 8), "flat": (512,), "l": (5,),
    }  # fmt: skip
    assert a.counts()[-1].parameters == 512 * 5 + 5


def test_costs():
    assert first_order_speedup(4, 4) == 8.0
    assert first_order_speedup(2, 4) == 64 / 6
    for name in ("alexnet", "resnet-34", "bn-inception"):
        assert compute_cost(name, 32, 32) == compute_cost(name, 32, 32, convention="float_ends") == 1.0
        # Inner layers read and write twice as many channels.
        assert compute_cost(name, 4, 4, widen=2, convention="quantized") == 0.5
    total, ends = sum(ALEXNET_FMAS.values()), ALEXNET_FMAS["conv0"] + ALEXNET_FMAS["fct"]
    assert compute_cost("alexnet", 4, 4, widen=2) == (4 * (total - ends) + 2 * ends) * 8 / (64 * total)
    float_ends = (4 * (total - ends) * 8 + 2 * ends * 64) / (64 * total)
    assert compute_cost("alexnet", 4, 4, widen=2, convention="float_ends") == float_ends
    # A network of one layer: it is the first and the last, and never quantized.
    one = small(conv())
    assert compute_cost(one, 1, 1, convention="float_ends") == 1.0


def test_memory():
    a = small(conv("a", padding=1), conv("b", "a", channels=2, padding=1), conv("c", "b", kernel=8))
    weights = 9 * 3 * 4 + 9 * 4 * 2 + 64 * 2 * 4
    read, written = [3 * 64, 4 * 64, 2 * 64], [4 * 64, 2 * 64, 4]
    training = training_memory(a, 2)
    assert (training.weights, training.activations, training.gradients) == (weights, 2 * sum(read), 2 * max(written))
    assert training_memory(a, 2, input_gradients=True).gradients == 2 * (max(written) + max(read))
    inference = inference_memory(a, 2)
    assert (inference.weights, inference.activations, inference.gradients) == (weights, 2 * (max(read) + max(written)), 0)
    assert inference.activation_share == 1024 / (1024 + weights)


def test_nothing_imports_torch():
    code = "import lowprec.wrpn, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_names_of_the_face():
    assert set(wrpn.__all__) <= set(dir(wrpn))
    with pytest.raises(AttributeError, match=r"module 'lowprec\.wrpn' has no attribute 'nothing'"):
        _ = wrpn.nothing


BAD = [
    (lambda: get_architecture("vgg"), ValueError, "architecture: choose one of {alexnet, alexnet-dorefa"),
    (lambda: get_architecture(34), TypeError, "architecture: expected one of {alexnet"),
    (lambda: compute_cost("vgg", 4, 4), ValueError, "choose one of {alexnet"),
    (lambda: get_architecture("lenet").widen(0), ValueError, "widen: must be finite and positive; got 0"),
    (lambda: get_architecture("lenet").widen(-2), ValueError, "widen: must be finite and positive; got -2"),
    (lambda: get_architecture("lenet").widen(float("nan")), ValueError, "widen: must be finite and positive; got nan"),
    (lambda: get_architecture("lenet").widen("2"), TypeError, "widen: expected a real number; got str"),
    (lambda: get_architecture("alexnet-grouped").widen(1.3), ValueError, "conv2 works in 2 groups, so the channels it reads"),
    (lambda: get_architecture("lenet").counts(0), ValueError, "weight_bits: must lie in [1, 8], or be 32 for float32; got 0"),
    (lambda: get_architecture("lenet").counts(4, 9), ValueError, "activation_bits: must lie in [1, 8], or be 32 for float32"),
    (lambda: get_architecture("lenet").counts(True), TypeError, "weight_bits: expected an integer; got bool"),
    (lambda: get_architecture("lenet").counts(2.0), TypeError, "weight_bits: expected an integer; got float"),
    (lambda: get_architecture("lenet")["conv9"], ValueError, "name: choose one of {conv1, relu_conv1"),
    (lambda: compute_cost("lenet", 4, 4, convention="all"), ValueError, "choose one of {uniform, quantized, float_ends}"),
    (lambda: compute_cost(small(conv()), 4, 4, convention="quantized"), ValueError, "small has no layer between its first and"),
    (lambda: first_order_speedup(16, 4), ValueError, "weight_bits: must lie in [1, 8], or be 32 for float32; got 16"),
    (lambda: training_memory("lenet", 0), ValueError, "batch_size: must be at least 1; got 0"),
    (lambda: inference_memory("lenet", 1.0), TypeError, "batch_size: expected an integer"),
    (lambda: training_memory("lenet", 1, input_gradients=1), TypeError, "input_gradients: expected True or False"),
    (lambda: Node("a", "sigmoid", "input"), ValueError, "op of a: choose one of {conv, linear, batch_norm"),
    (lambda: Node("a b", "relu", "input"), ValueError, "name: must be words of letters, digits and _"),
    (lambda: Node("", "relu", "input"), ValueError, "name: must be words of letters"),
    (lambda: Node("a..b", "relu", "input"), ValueError, "name: must be words of letters"),
    (lambda: Node(3, "relu", "input"), TypeError, "name: expected the name of a node; got int 3"),
    (lambda: Node("input", "relu", "input"), ValueError, "name: must not be the name of the network's input"),
    (lambda: Node("a", "conv", "input", channels=3), ValueError, "attributes of a: conv needs kernel; got channels"),
    (lambda: Node("a", "relu", "input", slope=1), ValueError, "attributes of a: relu has none; got slope"),
    (lambda: conv(kernel=0), ValueError, "kernel of c: must be at least 1; got 0"),
    (lambda: conv(kernel=(3, 3, 3)), ValueError, "kernel of c: must be one number or (y, x)"),
    (lambda: conv(padding=-1), ValueError, "padding of c: must be at least 0; got -1"),
    (lambda: conv(bias=1), TypeError, "bias of c: expected True or False"),
    (lambda: Node("d", "dropout", "input", p=2), ValueError, "p of d: must lie in [0, 1]; got 2"),
    (lambda: Node("a", "relu", ["x", "y"]), ValueError, "inputs of a: relu reads one node; got 2 of them"),
    (lambda: Node("a", "add", ["x"]), ValueError, "inputs of a: add reads two nodes; got 1 of them"),
    (lambda: Node("a", "concat", "x"), ValueError, "inputs of a: concat reads two nodes or more"),
    (lambda: small(conv(), shape=(3, 8)), ValueError, "input_shape: must be (channels, height, width)"),
    (lambda: small(conv(), shape=8), TypeError, "input_shape: expected (channels, height, width); got int 8"),
    (lambda: small(conv(), shape=(3, 8, 0)), ValueError, "input_shape: must be at least 1; got 0"),
    (lambda: Architecture(3, (3, 8, 8), [conv()]), TypeError, "name: expected the name of an architecture"),
    (lambda: small(), ValueError, "nodes: there must be a conv or linear; got none"),
    (lambda: small("conv"), TypeError, "nodes: expected Nodes; got str"),
    (lambda: small(conv(), conv()), ValueError, "nodes: every name must stand once; got c"),
    (lambda: small(conv("a", "b"), conv("b")), ValueError, "inputs of a: must be input or nodes before it; got b"),
    (lambda: small(conv("a"), conv("a.b", "a")), ValueError, "must not begin with the name of another node; got a"),
    (lambda: small(conv(kernel=9)), ValueError, "kernel of c: its window of 9 must fit 8 and a padding of 0"),
    (lambda: small(conv(groups=2)), ValueError, "c works in 2 groups, so the channels it reads must be a multiple of 2; got 3"),
    (lambda: small(conv(groups=3)), ValueError, "c works in 3 groups, so the channels it has must be a multiple of 3; got 4"),
    (lambda: small(Node("l", "linear", "input", features=2)), ValueError, "input of l: linear reads a vector; flatten before it"),
    (lambda: small(Node("f", "flatten", "input"), conv("c", "f")), ValueError, "input of c: conv reads a map"),
    (lambda: small(conv("a"), Node("s", "add", ["a", "input"])), ValueError, "inputs of s: add reads two of one shape"),
    (lambda: small(conv("a"), Node("s", "concat", ["a", "input"])), ValueError, "concat reads maps of one height and width"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), BAD, ids=range(len(BAD)))
def test_bad_input(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    assert text in str(caught.value)
