"""`lowprec.wrpn.convert`: which ReLU becomes a quantizer, which layer rounds its own input, widths, and what is refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'lowprec[wrpn]'")

from torch import nn  # noqa: E402 - what needs PyTorch comes after its absence
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

from lowprec import wrpn  # noqa: E402
from lowprec.wrpn import building, conversion  # noqa: E402
from lowprec.wrpn.architecture import Node  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """And as many as before afterwards: our kernels may share the OpenMP runtime."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_relus(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]


def quantizers(model):
    return {name: module.bits for name, module in model.named_modules() if isinstance(module, wrpn.QuantizedReLU)}


def layers(model):
    return {
        name: (module.weight_bits, module.input_bits)
        for name, module in model.named_modules()
        if isinstance(module, (wrpn.QuantizedConv2d, wrpn.QuantizedLinear))
    }


def small(name, *nodes):
    return wrpn.Architecture(name, (3, 8, 8), nodes)


def conv(name, source, channels=4, **more):
    return Node(name, "conv", source, channels=channels, kernel=3, padding=1, **more)


# ---- which ReLUs ---------------------------------------------------------------------------------------------------


def test_a_chain():
    model = wrpn.convert(wrpn.build("convnet"), 2, 4)
    assert layers(model) == {f"conv{i}": (2, 32) for i in (1, 2, 3)}
    assert quantizers(model) == {f"relu{i}": 4 for i in (0, 1, 2)}  # through max pooling too
    assert plain_relus(model) == ["relu3"]  # it feeds only the last layer


@pytest.mark.parametrize(
    ("name", "plain", "own"),
    [
        ("alexnet", ["relufc1"], []),
        ("lenet", ["relu1"], []),
        ("resnet-18", ["layer4.1.relu2"], []),
        ("resnet-20", ["layer3.2.relu2"], []),
        ("resnet-50", ["layer4.2.relu3"], []),
        ("resnet-34-preact", ["layer4.relu"], []),
        (
            "bn-inception",
            [f"incep5b.{branch}.relu" for branch in ("conv1x1", "conv3x3", "conv233b", "poolproj")],
            # the projection of an average of codes is not on their grid
            [f"incep{b}.poolproj.conv" for b in ("3a", "3b", "4a", "4b", "4c", "4d", "5a")],
        ),
    ],
)
def test_known_architectures(name, plain, own):
    architecture = wrpn.get_architecture(name)
    with torch.device("meta"):  # the shapes alone, since AlexNet is large
        model = wrpn.convert(wrpn.build(architecture), 2, 4)
    assert plain_relus(model) == plain
    found = layers(model)
    assert list(found) == list(architecture.quantized)
    assert [layer for layer, (_, bits) in found.items() if bits == 4] == own
    assert {bits for bits, _ in found.values()} == {2}
    relus = [node.name for node in architecture.nodes if node.op == "relu"]
    assert list(quantizers(model)) == [relu for relu in relus if relu not in plain]
    assert set(quantizers(model).values()) == {4}


def test_a_residual_carries_the_quantized_value():
    model = wrpn.convert(wrpn.build("resnet-20"), 2, 2).eval()
    seen = {}
    model.get_submodule("relu").register_forward_hook(lambda module, inputs, output: seen.update(identity=output))
    model.get_submodule("layer1.0.relu2").register_forward_hook(lambda module, inputs, output: seen.update(summed=inputs[0]))
    model.get_submodule("layer1.0.bn2").register_forward_hook(lambda module, inputs, output: seen.update(branch=output))
    model(torch.rand(1, 3, 32, 32))
    assert set((3 * seen["identity"]).round().unique().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(wrpn.modules.quantize_activations(seen["identity"], 2), seen["identity"])
    assert torch.equal(seen["summed"], seen["branch"] + seen["identity"])


def test_a_preactivation_stream_stays_float():
    with torch.device("meta"):
        model = wrpn.convert(wrpn.build("resnet-34-preact"), 4, 4)
    steps = conversion.read_graph(model)
    kinds = {step.node: step.kind for step in steps}
    # What is added is what convolutions gave, the stream itself, or the first block's quantized input; never a code after that.
    sums = [[kinds[source] for source in step.inputs] for step in steps if step.kind == "add"]
    assert sums[0] == ["conv", "max_pool"]
    assert all(set(kind) <= {"conv", "add", "quantized_relu"} for kind in sums[1:])
    # Each convolution but the first reads a quantizer, or what max pooling left of one.
    sources = [kinds[step.inputs[0]] for step in steps if step.kind == "conv"]
    assert set(sources[1:]) == {"quantized_relu", "max_pool"}
    assert {input_bits for _, input_bits in layers(model).values()} == {32}


def test_a_concat_of_rounded_and_other_numbers_is_rounded_again():
    model = wrpn.convert(
        wrpn.build(
            small(
                "mixed", conv("first", "input"), Node("relu", "relu", "first"),
                Node("average", "average_pool", "relu", kernel=3, stride=1, padding=1),
                Node("both", "concat", ["relu", "average"]),
                conv("second", "both"), Node("relu2", "relu", "second"), Node("largest", "max_pool", "relu2", kernel=2),
                Node("flat", "flatten", "largest"), Node("drop", "dropout", "flat"), Node("inner", "linear", "drop", features=5),
                Node("relu3", "relu", "inner"), Node("last", "linear", "relu3", features=2),
            )
        ),
        4, 3,
    )  # fmt: skip
    assert quantizers(model) == {"relu": 3, "relu2": 3}
    assert layers(model) == {"second": (4, 3), "inner": (4, 32)}
    assert plain_relus(model) == ["relu3"]


def test_a_relu_that_is_only_averaged_stays_and_the_layer_rounds():
    model = wrpn.convert(
        wrpn.build(
            small(
                "averaged", conv("first", "input"), Node("relu", "relu", "first"),
                Node("average", "average_pool", "relu", kernel=2),
                conv("second", "average"), conv("third", "second"), Node("flat", "flatten", "third"),
                Node("last", "linear", "flat", features=2),
            )
        ),
        1, 1,
    )  # fmt: skip
    assert plain_relus(model) == ["relu"]
    assert layers(model) == {"second": (1, 1), "third": (1, 1)}


class Functional(nn.Module):
    """ReLUs as functions and a method, one module that is called twice, and a sum in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(k, 4, 3, padding=1) for k in (1, 4, 4, 4))
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.act(self.a(x))
        y = nn.functional.relu(self.b(x))
        y = torch.relu(self.norm(self.c(y)))
        y += x
        y = self.d(y.relu())
        return self.last(torch.flatten(self.pool(self.act(y)), 1))


def test_functions_methods_and_a_module_called_twice():
    model = wrpn.convert(Functional(), 2, 4)
    assert quantizers(model) == {"act_2": 4, "relu": 4, "relu_2": 4}
    assert plain_relus(model) == ["act"]  # its second call feeds only the last layer
    kinds = [step.kind for step in conversion.read_graph(model)]
    # torch.relu before the sum feeds no layer, and stays
    assert kinds == [
        "input", "conv", "quantized_relu", "conv", "quantized_relu", "conv", "batch_norm", "relu", "add", "quantized_relu",
        "conv", "relu", "global_average_pool", "flatten", "linear", "output",
    ]  # fmt: skip
    assert layers(model) == {"b": (2, 32), "c": (2, 32), "d": (2, 32)}
    assert model(torch.rand(2, 1, 6, 6)).shape == (2, 3)


def test_pooling_as_functions():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            f = nn.functional
            x = f.max_pool2d(f.relu(self.a(x)), 2, ceil_mode=True)  # its stride is its size
            x = f.avg_pool2d(f.relu(self.b(x)), 3, stride=1, padding=1, count_include_pad=False)
            return self.c(f.adaptive_avg_pool2d(x, 1).flatten(1))

    model = Pooled().eval()
    traced = conversion.trace(model)
    assert [step.kind for step in conversion.read_graph(traced)] == [
        "input", "conv", "relu", "max_pool", "conv", "relu", "average_pool", "global_average_pool", "flatten", "linear", "output",
    ]  # fmt: skip
    pools = [module for name, module in traced.named_modules() if "pool" in name]
    assert (pools[0].kernel_size, pools[0].stride, pools[0].ceil_mode) == (2, 2, True)
    assert (pools[1].kernel_size, pools[1].stride, pools[1].padding, pools[1].count_include_pad) == (3, 1, 1, False)
    x = torch.rand(2, 1, 9, 9)
    assert torch.equal(traced(x), model(x))
    assert [name for name, _ in model.named_children()] == ["a", "b", "c"]
    assert quantizers(wrpn.convert(model, 2, 3)) == {"relu": 3}


def test_keep():
    model = wrpn.convert(wrpn.build("convnet"), 2, 4, keep=["fc"])
    assert layers(model) == {"conv0": (2, 4), "conv1": (2, 32), "conv2": (2, 32), "conv3": (2, 32)}
    assert plain_relus(model) == ["relu3"]
    everything = wrpn.convert(wrpn.build("convnet"), 2, 4, keep=())
    assert layers(everything)["fc"] == (2, 32)
    assert plain_relus(everything) == []
    with pytest.raises(ValueError, match=r"^keep: choose one of \{conv0, conv1, conv2, conv3, fc\}; got 'conv9'$"):
        wrpn.convert(wrpn.build("convnet"), 2, 4, keep=["conv9"])
    with pytest.raises(TypeError, match=r"^keep: expected a collection of names"):
        wrpn.convert(wrpn.build("convnet"), 2, 4, keep="conv0")


# ---- bits ----------------------------------------------------------------------------------------------------------


def test_32_bits_leave_the_network_as_it_is():
    model = wrpn.build("convnet").eval()
    same = wrpn.convert(model, 32, 32)
    assert (layers(same), quantizers(same)) == ({}, {})
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(same(x), model(x))
    weights = wrpn.convert(model, 4, 32)
    assert (quantizers(weights), len(layers(weights))) == ({}, 3)
    activations = wrpn.convert(model, 32, 4)
    assert (len(quantizers(activations)), layers(activations)) == (3, {})


def test_the_network_computes_what_the_layers_say():
    model = wrpn.convert(wrpn.build("convnet"), 2, 3).eval()
    with torch.no_grad():
        for layer in ("conv1", "conv2", "conv3"):
            model.get_submodule(layer).weight.uniform_(-1, 1)
    x = torch.rand(2, 1, 28, 28)
    functional, quantize = nn.functional, wrpn.modules.quantize_activations
    y = x
    for i in range(4):
        layer = getattr(model, f"conv{i}")
        weight = layer.weight if i == 0 else torch.from_numpy(wrpn.quantize_weights(layer.weight.detach().numpy(), 2))
        y = getattr(model, f"bn{i}")(functional.conv2d(y, weight, None, 1, 1))
        y = quantize(y, 3) if i < 3 else functional.relu(y)
        y = functional.max_pool2d(y, 2) if i < 2 else y
    assert torch.equal(model(x), model.fc(y.flatten(1)))


def test_the_model_given_stays_and_its_weights_are_copied():
    model = wrpn.build("convnet").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = wrpn.convert(model, 2, 2)
    assert not made.training
    assert list(made.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    with torch.no_grad():
        made.conv1.weight.zero_()
    assert torch.equal(model.conv1.weight, before["conv1.weight"])
    assert quantizers(model) == {}


# ---- widths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convnet", "lenet", "resnet-20", "bn-inception", "resnet-34-preact"])
@pytest.mark.parametrize("factor", [2, 1.3, 0.5])
def test_widening_gives_the_shapes_of_the_wider_architecture(name, factor):
    architecture = wrpn.get_architecture(name)
    with torch.device("meta"):
        wide = wrpn.convert(wrpn.build(architecture), 4, 4, factor)
        expected = wrpn.build(architecture.widen(factor))
    assert {k: v.shape for k, v in wide.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}


def test_a_wider_network_runs_and_begins_anew():
    model = wrpn.build("convnet")
    made = []
    for bits in (2, 4):
        torch.manual_seed(3)
        made.append(wrpn.convert(model, bits, bits, 2))
    assert made[0](torch.rand(2, 1, 28, 28)).shape == (2, 10)
    # The bits draw nothing.
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))
    # Drawn as PyTorch draws them: uniform up to 1 / sqrt(inputs of a filter).
    bound = 1 / np.sqrt(32 * 9)
    largest = float(made[0].conv2.weight.detach().abs().max())
    assert 0.9 * bound < largest <= np.float32(bound)


def test_groups_strides_and_biases_are_kept():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2, stride=2, dilation=2), nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    wide = wrpn.convert(model, 4, 4, 2)
    first, inner, last = (wide.get_submodule(name) for name in "024")
    assert (first.weight.shape, first.bias) == ((16, 4, 3, 3), None)
    assert (inner.weight.shape, inner.groups, inner.stride, inner.dilation) == ((12, 8, 3, 3), 2, (2, 2), (2, 2))
    assert (inner.bias.shape, last.weight.shape) == ((12,), (2, 12, 1, 1))
    with pytest.raises(ValueError, match=r"^layer 2: with a width of 1.5 must have a multiple of its 2 groups .*; got 12 to 9$"):
        wrpn.convert(model, 4, 4, 1.5)


def test_a_linear_layer_behind_a_flattened_map_is_as_much_wider():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    wide = wrpn.convert(model, 4, 4, 2)
    assert wide.get_submodule("4").num_features == 96
    assert wide.get_submodule("5").weight.shape == (10, 96)
    assert wide(torch.rand(2, 1, 6, 6)).shape == (2, 2)


def test_the_options_of_a_normalization_are_kept():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, eps=0.25, momentum=0.5, affine=False), nn.Conv2d(3, 2, 1))
    norm = wrpn.convert(model, 4, 4, 2).get_submodule("1")
    assert (norm.num_features, norm.eps, norm.momentum, norm.affine) == (6, 0.25, 0.5, False)


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.GELU(), r"layer 1 \(GELU\): is not supported; networks are made of Conv2d, "),
        (nn.ReLU6(), r"layer 1 \(ReLU6\): is not supported"),
        (nn.LayerNorm(6), r"layer 1 \(LayerNorm\): is not supported"),
        (nn.AdaptiveAvgPool2d(2), r"layer 1 \(AdaptiveAvgPool2d\): is supported only to a single number a channel"),
        (nn.Flatten(2), r"layer 1 \(Flatten\): is supported only of all but the batch"),
        (weight_norm(nn.Conv2d(2, 2, 1)), r"layer 1 \(ParametrizedConv2d\): is supported only if its weight is a parameter"),
    ],
)
def test_an_unsupported_layer_is_named(layer, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        wrpn.convert(nn.Sequential(nn.Conv2d(1, 2, 3), layer, nn.Conv2d(2, 3, 3)), 4, 4)


class Forward(nn.Module):
    """Two layers, and a forward method to be tried."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.tried = forward

    def forward(self, x):
        return self.tried(self, x)


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (lambda m, x: m.b(torch.sigmoid(m.a(x))), r"layer sigmoid \(sigmoid\): is not supported"),
        (lambda m, x: m.b(m.a(x).tanh()), r"layer tanh \(tanh\): is not supported"),
        (lambda m, x: m.b(m.a(x) + 1), r"layer add \(add\): is supported only of two results of layers"),
        (lambda m, x: m.b(torch.add(m.a(x), x, alpha=2)), r"layer add \(add\): is supported only of two results"),
        (lambda m, x: m.b(torch.cat([m.a(x), x], 2)), r"layer cat \(cat\): is supported only along the channels"),
        (lambda m, x: m.b(torch.cat(tensors=[m.a(x), x], dim=2)), r"layer cat \(cat\): is supported only along the channels"),
        (lambda m, x: m.b(m.a(m.a(x))), r"layer a: has weights, so it must be called once"),
        (lambda m, x: (m.a(x), m.b(x)), r"model: must have one output; got 2"),
        (lambda m, x: m.b(x) if x.sum() > 0 else m.a(x), r"model: must be a graph that torch.fx can trace"),
    ],
)
def test_an_unsupported_step_is_named(forward, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        wrpn.convert(Forward(forward), 4, 4)


class ReadAgain(Forward):
    """What `tried` makes of a result is read, and then the result itself."""

    def forward(self, x):
        y = self.a(x)
        return self.b(self.tried(y)) + y


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (nn.ReLU(inplace=True), "tried"),
        (lambda y: nn.functional.relu(y, inplace=True), "relu"),
        (lambda y: nn.functional.relu(y, True), "relu"),
        (torch.relu_, "relu_"),
        (lambda y: y.relu_(), "relu_"),
        (lambda y: y.add_(y), "add_"),
    ],
)
def test_what_is_read_again_may_not_be_changed_in_place(change, name):
    with pytest.raises(ValueError, match=rf"^layer {name}: must not change in place what add\w* reads later; got a$"):
        wrpn.convert(ReadAgain(change), 4, 4)


def test_what_is_not_read_again_may_be_changed_in_place():
    wrpn.convert(ReadAgain(nn.functional.relu), 4, 4)
    wrpn.convert(Forward(lambda m, x: torch.relu_(m.b(m.a(x)) + x)), 4, 4)


def test_what_does_not_fit_when_widened():
    with pytest.raises(ValueError, match=r"^layer add: must not read the network's input in a network made wider"):
        wrpn.convert(Forward(lambda m, x: m.b(m.a(x) + x)), 4, 4, 2)
    with pytest.raises(ValueError, match=r"^layer add: must add results of as many channels; got 4 and 2"):
        wrpn.convert(Forward(lambda m, x: m.a(x) + m.b(x)), 4, 4, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight_bits": 0}, ValueError, r"^weight_bits: must lie in \[1, 8\], or be 32"),
        ({"activation_bits": 16}, ValueError, r"^activation_bits: must lie in \[1, 8\], or be 32"),
        ({"activation_bits": "4"}, TypeError, r"^activation_bits: expected an integer"),
        ({"widen": 0}, ValueError, r"^widen: must be finite and positive"),
        ({"widen": float("nan")}, ValueError, r"^widen: must be finite and positive"),
        ({"model": nn.Sequential(nn.ReLU()), "widen": 2}, ValueError, r"^model: must have a convolution or a linear layer; got"),
        ({"model": "convnet"}, TypeError, r"^model: expected a torch.nn.Module; got str 'convnet'$"),
    ],
)
def test_arguments_are_looked_at(change, error, message):
    given = {"model": nn.Sequential(nn.Linear(2, 2)), "weight_bits": 4, "activation_bits": 4} | change
    with pytest.raises(error, match=message):
        wrpn.convert(**given)


def test_a_network_is_quantized_once():
    with pytest.raises(ValueError, match=r"^model: must be a float network; got relu0, which is quantized already$"):
        wrpn.convert(wrpn.convert(wrpn.build("convnet"), 4, 4), 2, 2)


@pytest.mark.parametrize("module", [building, conversion])
def test_the_examples(module):
    found = doctest.testmod(module)
    assert found.attempted >= 2
    assert found.failed == 0
