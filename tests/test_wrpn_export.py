"""Export: torch's quantized layers and ours give the same integers, and whole networks differ at rounding ties alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import network_reference as reference
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from lowprec.wrpn.agreement import compare
from lowprec.wrpn.architectures import get_architecture
from lowprec.wrpn.building import build
from lowprec.wrpn.conversion import convert
from lowprec.wrpn.exporting import export
from lowprec.wrpn.integer import IntegerNetwork
from lowprec.wrpn.layers import moved
from lowprec.wrpn.modules import quantize_weights
from lowprec.wrpn.quantizers import largest_activation, largest_weight, weight_scale

PAIRS = [(w, a) for w in (1, 2, 4, 8) for a in (1, 2, 4, 8)] + [(3, 5), (5, 3)]
SOME = [(1, 1), (2, 4), (4, 4), (8, 8), (3, 5), (5, 3)]


@pytest.fixture(autouse=True)
def one_thread(rng):
    torch.manual_seed(int(rng.integers(2**32)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lively(model):
    """Numbers as after training: weights that use all levels, and batch normalizations that do something."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias, 0.5, 0.5)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.uniform_(module.weight, -1, 1)
            module.weight.data *= (module.weight[0].numel() / 8) ** -0.5 if module.bias is not None else 1
    return model.eval()


class Mixed(nn.Module):
    """What the known networks have: branches, concat, both poolings, groups, an add before and after ReLU, a linear on a map."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 10, 3, padding=1, groups=2), nn.BatchNorm2d(10), nn.ReLU())
        self.c = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 4, (1, 3), padding=(0, 1)), nn.ReLU())
        self.d = nn.MaxPool2d(3, 1, 1)
        self.join, self.norm0 = nn.Conv2d(28, 28, 1), nn.BatchNorm2d(28)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1, self.conv1 = nn.BatchNorm2d(28), nn.Conv2d(28, 28, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(28), nn.Conv2d(28, 28, 3, padding="same", bias=False)
        self.down, self.main = nn.Conv2d(28, 12, 1, 2), nn.Conv2d(28, 12, 3, 2, padding=1)
        self.last_norm = nn.BatchNorm2d(12)
        self.fc1, self.norm3, self.drop = nn.Linear(12 * 9, 20), nn.BatchNorm1d(20), nn.Dropout()
        self.fc2, self.fc3 = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)
        x = self.pool(self.norm0(self.join(x)))
        y = self.conv1(torch.relu(self.norm1(x)))
        x = x + self.conv2(torch.relu(self.norm2(y)))
        x = torch.relu(self.last_norm(self.main(x) + self.down(x)))
        x = torch.flatten(x, 1)
        x = self.drop(torch.relu(self.norm3(self.fc1(x))))
        return self.fc3(torch.relu(self.fc2(x)))


def make(name, weight_bits, activation_bits, **how):
    if name == "mixed":
        model, shape = Mixed(), (3, 11, 10)
    else:
        architecture = get_architecture(name)
        model, shape = build(architecture), architecture.input_shape
    return lively(convert(lively(model), weight_bits, activation_bits, **how)), shape


def images(rng, n, shape):
    return rng.random((n, *shape), np.float32)


def check_layers(model, network, x):
    """The promise: fed the integer network's own codes, torch's layer gives exactly its sums. In float32 where a bound says that
    its roundings stay below half a code, and in float64 anyway."""
    tensors = network.tensors(x)
    count = 0
    for layer in network.layers:
        if layer.op != "conv" or layer.weight_bits is None:
            continue
        module = model.get_submodule(layer.name)
        codes = tensors[layer.inputs[0]]
        sums = network.pre_activations(layer.name, codes)
        a, w = largest_activation(network.shapes[layer.inputs[0]].bits), largest_weight(layer.weight_bits)
        one = weight_scale(module.weight.detach().numpy()).astype(np.float64) if layer.weight_bits == 1 else 1.0 / w
        for dtype, unit in ((torch.float32, 2.0**-24), (torch.float64, 2.0**-53)):
            # Two quotients, n products, and their sum in any order.
            n = layer.depth + 3
            if n * unit / (1 - n * unit) * magnitudes(layer, codes).max() >= 0.5:
                assert dtype == torch.float32, "float64 must decide"
                continue
            with torch.no_grad():
                values = torch.from_numpy(codes.transpose(0, 3, 1, 2).copy()).to(dtype) / a
                # Quantizing twice changes no code; it gives the quotients in float64.
                weight = module.quantized_weight().to(dtype)
                weight = weight if layer.weight_bits == 1 else quantize_weights(weight, layer.weight_bits)
                if isinstance(module, nn.Linear):
                    z = nn.functional.linear(values.flatten(1), weight)[:, None, None]
                else:
                    z = module._conv_forward(values, weight, None).permute(0, 2, 3, 1)
            found = np.rint(z.numpy().astype(np.float64) * a / one)
            np.testing.assert_array_equal(found, sums, f"{layer.name}, {dtype}")
            count += dtype == torch.float32
    return count


def magnitudes(layer, codes):
    """Sums of magnitudes: those of the layer with weights that have no sign."""
    return reference.sums(replace(layer, weights=np.abs(layer.weights)), codes)


@pytest.mark.parametrize(("name", "bits"), [("mixed", p) for p in PAIRS] + [(n, p) for n in ("convnet", "lenet") for p in SOME])
def test_torchs_layers_give_the_same_integers(name, bits, rng):
    model, shape = make(name, *bits)
    network = export(model, shape)
    quantized = {"mixed": 10, "convnet": 3, "lenet": 2}[name]
    assert sum(layer.weight_bits is not None for layer in network.layers) == quantized
    in_float32 = check_layers(model, network, images(rng, 2, shape))
    assert in_float32 == quantized or max(bits) > 4


@pytest.mark.parametrize("bits", [(1, 1), (4, 4), (3, 5), (8, 8)])
def test_a_residual_network_gives_the_same_integers(bits, rng):
    model, shape = make("resnet-20", *bits)
    in_float32 = check_layers(model, export(model, shape), images(rng, 1, shape))
    assert in_float32 >= 6 or max(bits) > 4  # at least the first six, whose sums are of 144 products


# ---- whole networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("mixed", pair) for pair in SOME] + [("convnet", (4, 4)), ("lenet", (2, 4))])
def test_whole_networks_differ_at_ties_alone(name, bits, rng):
    """Every image any of whose codes differs: the first layer where one does was fed the same codes, and rounds at a tie."""
    model, shape = make(name, *bits)
    network = export(model, shape)
    x = images(rng, 300, shape)
    found = compare(model, network, x, every_code=True)
    assert found.images == 300
    assert found.same_codes >= 150  # else the bound would be of no use
    assert [d for d in found.differences if not d.at_tie] == []
    assert len(found.differences) >= 300 - found.same_codes
    if max(bits) <= 4:
        assert all(d.bound < 0.25 for d in found.differences)
    with torch.no_grad():
        theirs = model(torch.from_numpy(x)).numpy()
    assert np.mean(theirs.argmax(axis=1) == network.predict(x)) * 300 == found.same_classes


def test_a_wrong_network_shows(rng):
    """The comparison is no formality: one weight that is off by one is found, in its layer, far from a tie."""
    model, shape = make("mixed", 4, 4)
    x = images(rng, 50, shape)
    network = export(model, shape)
    layers = list(network.layers)
    k = next(i for i, layer in enumerate(layers) if layer.name == "conv1")
    w = layers[k].weights.copy()
    w[:, 1, 1] = np.where(w[:, 1, 1] < 7, w[:, 1, 1] + 1, w[:, 1, 1] - 1)
    layers[k] = replace(layers[k], weights=w)
    with pytest.raises(ValueError, match="network: must be what export makes of model, to the bit; got IntegerNetwork"):
        compare(model, IntegerNetwork(layers, shape), x)
    # As if export had made it.
    from lowprec.wrpn import agreement

    real = agreement.export_steps
    wrong = IntegerNetwork(layers, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "export_steps", lambda steps, given: (wrong, real(steps, given)[1]))
        found = compare(model, wrong, x, every_code=True)
    assert found.same_codes == 0
    assert {d.layer for d in found.differences} == {"conv1"}
    assert not any(d.at_tie for d in found.differences)


def test_float_networks_are_exported_too(rng):
    """32 bits, all or half of it; and nothing kept."""
    for bits in ((32, 32), (4, 32), (32, 4)):
        model, shape = make("mixed", *bits)
        network = export(model, shape)
        assert all(layer.weight_bits is None for layer in network.layers)
        found = compare(model, network, images(rng, 20, shape), every_code=True)
        assert found.same_classes == 20
    model, shape = make("mixed", 4, 3, keep=[])
    network = export(model, shape)
    assert sum(layer.weight_bits is not None for layer in network.layers) == 12
    assert (network.layers[0].name, network.layers[0].bits) == ("first.input", 3)
    assert check_layers(model, network, images(rng, 2, shape)) == 12


class Functional(nn.Module):
    """Pools that are functions, and a convolution whose residual is what it reads."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 4, 3)

    def forward(self, x):
        f = nn.functional
        y = f.max_pool2d(f.relu(self.first(x)), 2)
        return self.last(f.avg_pool2d(f.relu(self.inner(y) + y), 2).flatten(1))


def test_pools_as_functions_and_a_residual_that_is_the_input(rng):
    model, shape = convert(Functional(), 4, 4).eval(), (1, 10, 10)
    network = export(model, shape)
    assert [layer.kernel for layer in network.layers if "pool" in layer.op] == [(2, 2), (2, 2)]
    (inner,) = (layer for layer in network.layers if layer.name == "inner")
    assert inner.inputs[0] == inner.inputs[1]
    assert compare(model, network, images(rng, 20, shape), every_code=True).same_classes == 20
    assert check_layers(model, network, images(rng, 2, shape)) == 1


def test_what_is_folded(rng):
    """Nothing is left of batch normalization, ReLU, rounding and sums behind a convolution that one layer alone reads."""
    model, shape = make("resnet-20", 4, 4)
    ops = [layer.op for layer in export(model, shape).layers]
    assert (ops.count("conv"), ops.count("average_pool"), len(ops)) == (22, 1, 23)
    model, shape = make("mixed", 4, 4)
    network = export(model, shape)
    found = {layer.name: (layer.op, layer.inputs, layer.bits) for layer in network.layers}
    assert found["cat"] == ("concat", ("a.0", "b.0", "c.1", "d"), 4)
    assert found["c.0"] == ("average_pool", ("first",), 4)
    assert found["pool"] == ("max_pool", ("join",), None)
    assert found["norm1"] == ("affine", ("pool",), 4)
    assert found["conv2"] == ("conv", ("conv1", "pool"), 4)  # the sum, rounded once for both that read it
    assert found["down"] == ("conv", ("conv2", "main"), None)
    # LeNet rounds before it pools: the same codes, of which a byte is read.
    model, shape = make("lenet", 4, 4)
    assert [(layer.op, layer.bits) for layer in export(model, shape).layers][:2] == [("conv", 4), ("max_pool", 4)]


class Orders(nn.Module):
    """Normalizations where they cannot be folded as usual: behind a pool, and of what others read too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.pool, self.norm = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.BatchNorm2d(6)
        self.relu, self.conv, self.other = nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.again, self.last = nn.ReLU(), nn.Linear(6 * 6 * 6, 4)

    def forward(self, x):
        x = self.conv(self.relu(self.norm(self.pool(self.first(x)))))
        return self.last(self.again(self.other(x) + x).flatten(1))


def test_what_cannot_be_folded_as_usual(rng):
    model = lively(convert(Orders(), 4, 4))
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([-1.5, 1.0, -0.5, 0.7, -1.0, 1.2]))  # the largest of a window becomes the smallest
    x = images(rng, 12, (1, 11, 11))
    network = export(model, (1, 11, 11))
    found = compare(model, network, x, every_code=True)
    assert found.same_codes >= 10  # the others differ at ties
    assert found.same_classes == 12


def test_pools_have_torchs_shapes():
    for kernel, stride, padding, ceil_mode in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (False, True)):
        if 2 * padding > kernel:
            continue
        for size in range(max(1, kernel - 2 * padding), 12):
            theirs = nn.functional.max_pool2d(torch.zeros(1, 1, size, size), kernel, stride, padding, ceil_mode=ceil_mode)
            ours = moved((size, size), (kernel, kernel), (stride, stride), (padding, padding), ceil_mode)
            assert tuple(ours) == theirs.shape[2:], (kernel, stride, padding, ceil_mode, size)


def test_it_runs_without_torch(rng, tmp_path):
    """In a process that cannot import it."""
    pytest.importorskip("safetensors")
    model, shape = make("mixed", 4, 4)
    network = export(model, shape, {"classes": list("abcde")})
    x = images(rng, 3, shape)
    network.save(tmp_path / "network")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
sys.modules["torch"] = None
import numpy as np
from lowprec.wrpn import IntegerNetwork
network = IntegerNetwork.load(sys.argv[1] + "/network")
np.save(sys.argv[1] + "/y.npy", network(np.load(sys.argv[1] + "/x.npy")))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), network(x))
    assert IntegerNetwork.load(tmp_path / "network").about == {"classes": list("abcde")}


# ---- what is wrong -----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two layers around what is to be refused."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle = nn.Conv2d(1, 4, 3), middle
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.flatten(self.middle(self.first(x)), 1))


def test_what_cannot_be_exported(rng):
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    plain = "layer 'middle': is supported without dilation, and with a padding of zeros; got Conv2d("
    average = "layer 'middle': is supported without ceil_mode and divisor_override, and with count_include_pad; got AvgPool2d("
    channels = "layer 'middle': weights: must be for 1 groups of 3 input channels; got 4 channels of 3 x 3 float32"
    cases = [
        (nn.GELU(), "layer middle (GELU): is not supported; networks are made of Conv2d, Linear"),
        (nn.Conv2d(4, 4, 3, dilation=2), plain),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), plain),
        (nn.Conv2d(4, 4, 2, padding="same"), "layer 'middle': is supported with the same padding on both sides; got Conv2d("),
        (nn.MaxPool2d(2, dilation=2), "layer 'middle': is supported without dilation; got 2"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), average),
        (nn.AvgPool2d(3, ceil_mode=True), average),
        (nn.AvgPool2d(3, divisor_override=2), average),
        (norm, "layer 'middle': must have running statistics to be exported; got none"),
        (nn.BatchNorm2d(5), "layer 'middle': must normalize the 4 channels that it reads; got 5"),
        (nn.Identity(), "layer 'last': must read 4 numbers, as it has weights for; got 4 channels of 3 x 3"),
        (nn.Conv2d(3, 4, 3), channels),
    ]
    for middle, sentence in cases:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
            export(Small(middle), (1, 5, 5))
        assert str(caught.value).startswith(sentence)
    good = Small(nn.Conv2d(4, 4, 3))
    export(good, (1, 5, 5))
    with pytest.raises(ValueError, match=r"layer 'last': must read 4 numbers, as it has weights for; got 4 channels of 2 x 1"):
        export(good, (1, 6, 5))
    with pytest.raises(ValueError, match=r"layer 'first': weights: must be for 1 groups of 1 input channels; got 2 channels"):
        export(good, (2, 5, 5))
    with pytest.raises(TypeError, match="input_shape: expected three integers"):
        export(good, 5)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module; got int 3"):
        export(3, (1, 5, 5))
    for name in ("weight", "bias"):
        broken = convert(good, 4, 4)
        with torch.no_grad():
            getattr(broken.middle, name).view(-1)[1] = torch.nan
        with pytest.raises(ValueError, match=f"layer 'middle': {name}: every value must be finite; got nan at index"):
            export(broken, (1, 5, 5))
