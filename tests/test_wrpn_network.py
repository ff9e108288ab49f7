"""Integer networks: every layer gives the bits of the oracle, a file gives back the network, and what is wrong is named."""

from __future__ import annotations

import hashlib
import json
import pickle

import network_reference as reference
import numpy as np
import pytest

from lowprec._network import Program
from lowprec.wrpn.integer import IntegerNetwork
from lowprec.wrpn.layers import Layer, infer
from lowprec.wrpn.network_file import pack_rows, unpack_rows
from lowprec.wrpn.quantizers import largest_activation, largest_weight

f32 = np.float32


def weights(rng, shape, bits):
    """Random weight codes of so many bits; float32 for None."""
    if bits is None:
        return rng.normal(size=shape).astype(f32)
    if bits == 1:
        return rng.choice(np.int8([-1, 1]), shape)
    return rng.integers(-largest_weight(bits), largest_weight(bits), shape, np.int8, endpoint=True)


def conv(rng, name, inputs, shape, weight_bits, bits=None, *, spread=1.0, **how):
    """A convolution with random weights, whose results spread over the codes."""
    if len(inputs) == 2:
        how.setdefault("residual_scale", 0.75)
    scale, shift = rng.uniform(0.5, 2, shape[0]) * spread, rng.normal(size=shape[0])
    w = weights(rng, shape, weight_bits)
    return Layer(name=name, op="conv", inputs=inputs, bits=bits, weights=w, weight_bits=weight_bits, scale=scale.astype(f32),
                 shift=shift.astype(f32), **how)  # fmt: skip


def everything(rng, weight_bits=4, bits=4, codes=5):
    """A network with each kind of layer, of codes and of float32, and every way to end one. Images are (3, 12, 11)."""
    spread = largest_activation(bits) / (largest_weight(weight_bits) * largest_activation(bits) * 6)
    few = {"spread": spread * largest_activation(bits)}
    last = {"spread": spread}
    ceil = {"ceil_mode": True}
    one = np.ones
    return [
        conv(rng, "first", ("input",), (6, 3, 3, 3), None, bits, padding=(1, 1)),
        Layer(name="half", op="max_pool", inputs=("first",), bits=bits, kernel=(3, 2), stride=(2, 2), padding=(1, 0), **ceil),
        conv(rng, "groups", ("half",), (8, 3, 3, 3), weight_bits, bits, groups=2, padding=(1, 1), **few),
        conv(rng, "wide", ("half",), (8, 1, 1, 6), weight_bits, None, **last),
        conv(rng, "residual", ("groups", "wide"), (8, 3, 1, 8), weight_bits, bits, padding=(1, 0), **few),
        conv(rng, "both", ("residual", "groups"), (8, 1, 1, 8), weight_bits, None, relu=True, **last),
        Layer(name="sum", op="add", inputs=("both", "wide"), bits=codes, scale=f32([3, -2])),
        Layer(name="mean", op="average_pool", inputs=("residual",), bits=bits, kernel=(3, 3), padding=(1, 1), scale=f32([1 / 9])),
        Layer(name="rounded", op="affine", inputs=("both",), bits=bits, scale=f32(one(8)), shift=f32(one(8)) / 3),
        Layer(name="cat", op="concat", inputs=("mean", "rounded", "residual"), bits=bits),
        conv(rng, "down", ("cat",), (5, 2, 3, 24), weight_bits, None, stride=(2, 1), relu=True, **last),
        Layer(name="pool", op="max_pool", inputs=("down",), kernel=(2, 2), padding=(1, 1), stride=(1, 2)),
        Layer(name="five", op="average_pool", inputs=("sum",), kernel=(2, 2), stride=(2, 1), scale=f32([0.25]), relu=True),
        Layer(name="more", op="affine", inputs=("five",), scale=f32(-one(8)), shift=f32(one(8)), relu=True),
        Layer(name="means", op="average_pool", inputs=("more",), kernel=(3, 5), scale=f32([1 / 15])),
        Layer(name="pooled", op="average_pool", inputs=("pool",), kernel=(4, 3), scale=f32([1 / 12])),
        Layer(name="joined", op="concat", inputs=("means", "pooled")),
        conv(rng, "out", ("joined",), (4, 1, 1, 13), None),
    ]


SHAPE = (3, 12, 11)


@pytest.fixture
def network(rng):
    return IntegerNetwork(everything(rng), SHAPE)


@pytest.fixture
def images(rng):
    return rng.normal(size=(3, *SHAPE)).astype(f32)


# ---- the arithmetic ----------------------------------------------------------------------------------------------------


def test_the_oracle_is_what_it_says(rng):
    """A convolution, number by number."""
    layer = conv(rng, "c", ("x",), (4, 2, 3, 2), 3, groups=2, stride=(2, 1), padding=(1, 2))
    x = rng.integers(0, 15, (1, 4, 3, 4), np.uint8)
    found = reference.sums(layer, x)
    for y, column, o in np.ndindex(found.shape[1:]):
        total = 0
        for i, j, c in np.ndindex(2, 3, 2):
            row, col, channel = y * 2 + i - 1, column + j - 2, (o // 2) * 2 + c
            if 0 <= row < 4 and 0 <= col < 3:
                total += int(layer.weights[o, i, j, c]) * int(x[0, row, col, channel])
        assert found[0, y, column, o] == total


PAIRS = [(w, a) for w in (1, 2, 4, 8) for a in (1, 2, 4, 8)] + [(3, 5), (5, 3), (6, 7), (7, 6)]


@pytest.mark.parametrize(("weight_bits", "bits"), PAIRS)
def test_every_layer_gives_the_bits_of_the_oracle(weight_bits, bits, rng, images):
    """Each layer fed with what the network itself gives: sums of codes and results are equal, float32 sums within a bound."""
    layers = everything(rng, weight_bits, bits)
    network = IntegerNetwork(layers, SHAPE)
    found = network.tensors(images)
    for layer in layers:
        inputs = [found[name] for name in layer.inputs]
        total, result = reference.run_layer(layer, *inputs)
        floats = inputs[0].dtype == f32
        if layer.op == "conv":
            sums = network.pre_activations(layer.name, inputs[0])
            assert sums.dtype == (f32 if floats else np.int32)
            if floats:
                assert (np.abs(sums.astype(np.float64) - total) <= 2 * reference.float_bound(layer, inputs[0])).all(), layer.name
                # What follows the sums is exact again.
                y = sums * layer.scale + layer.shift
                result = reference.finish(layer, y)
            else:
                np.testing.assert_array_equal(sums, total, layer.name)
        if layer.op == "average_pool" and floats:
            bound = 2 * reference.float_bound(layer, inputs[0]) * layer.scale[0] + 2 * reference.U * np.abs(result)
            assert (np.abs(found[layer.name].astype(np.float64) - result) <= bound).all(), layer.name
        else:
            np.testing.assert_array_equal(found[layer.name], result, layer.name)
        assert found[layer.name].shape[1:] == network.shapes[layer.name][:3]
        if layer.bits is not None and layer.name != "sum":
            assert len(np.unique(found[layer.name])) > 1, layer.name  # no test of zeros alone
    np.testing.assert_array_equal(network(images, 1), found["out"].reshape(3, -1))


@pytest.mark.parametrize(("weight_bits", "bits"), [(1, 1), (1, 8), (2, 2), (4, 4), (8, 1), (8, 8), (None, None)])
def test_kernels_that_do_not_fit_a_cache(weight_bits, bits, rng):
    """Weights are used in pieces: of whole rows of the kernel, of which the last has fewer, or of parts of a row."""
    for channels in (48, 80, 160, 320, 640, 1280):
        one = np.ones(channels, f32)
        first = Layer(name="first", op="affine", inputs=("input",), bits=bits, scale=one, shift=0 * one)
        layer = conv(rng, "deep", ("first",), (9, 5, 3, channels), weight_bits, padding=(2, 1))
        last = Layer(name="last", op="average_pool", inputs=("deep",), kernel=(2, 3), scale=f32([1]))
        network = IntegerNetwork([first, layer, last], (channels, 2, 3))
        shape = (2, 2, 3, channels)
        x = rng.normal(size=shape).astype(f32) if bits is None else rng.integers(0, 2**bits, shape, np.uint8)
        found, expected = network.pre_activations("deep", x), reference.sums(layer, x)
        bound = 2 * reference.float_bound(layer, x) if bits is None else 0
        assert (np.abs(found.astype(np.float64) - expected) <= bound).all(), channels


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(("groups", "outputs"), [(1, 3), (1, 64), (1, 65), (2, 4), (3, 7), (2, 64), (3, 17), (8, 1)])
def test_groups_residuals_and_ties(groups, outputs, bits, rng):
    """Groups that run as such, residuals of codes and of float32, numbers in the middle of two codes, pools that overlap."""
    o, c, largest = groups * outputs, 4 * groups, largest_activation(bits)
    halves = rng.choice(f32([0.5, 1, 1.5, -0.5]), o)
    first = Layer(name="first", op="affine", inputs=("input",), bits=bits, scale=np.ones(c, f32), shift=np.zeros(c, f32))
    how = {"shift": (rng.integers(-2, 3, o) / 2 + largest // 2).astype(f32), "scale": halves, "groups": groups, "weight_bits": 2}
    w = [weights(rng, (o, 1, 1, 4), 2) for _ in range(4)]
    one = Layer(name="one", op="conv", inputs=("first",), bits=bits, weights=w[0], **how)
    two = Layer(name="two", op="conv", inputs=("first",), weights=w[1], **how)
    of_codes = Layer(name="of_codes", op="conv", inputs=("first", "one"), bits=bits, residual_scale=0.5, weights=w[2], **how)
    of_floats = Layer(name="of_floats", op="conv", inputs=("first", "two"), bits=bits, residual_scale=0.5, weights=w[3], **how)
    pool = Layer(name="pool", op="max_pool", inputs=("of_codes",), bits=bits, kernel=(3, 3), padding=(1, 1))
    both = Layer(name="both", op="add", inputs=("pool", "of_floats"), scale=f32([1, 1]))
    last = Layer(name="last", op="average_pool", inputs=("both",), kernel=(5, 7), scale=f32([1]))
    network = IntegerNetwork([first, one, two, of_codes, of_floats, pool, both, last], (c, 5, 7))
    x = rng.integers(0, largest, (2, c, 5, 7), endpoint=True).astype(f32)
    found, base = network.tensors(x), Program(network.layers, network.shapes, "base").run_all(x)
    for name, expected in reference.tensors(network.layers, x).items():
        np.testing.assert_array_equal(found[name], expected, name)
        np.testing.assert_array_equal(base.get(name, expected), expected, name)


def test_batches_and_threads_change_no_bit(network, rng):
    x = rng.normal(size=(21, *SHAPE)).astype(f32)
    expected = network(x, 1)
    assert expected.shape == (21, 4)
    assert expected.dtype == f32
    for n_threads in (None, 2, 3):
        np.testing.assert_array_equal(network(x, n_threads), expected)
    np.testing.assert_array_equal(np.concatenate([network(x[i : i + 1], 2) for i in range(21)]), expected)
    np.testing.assert_array_equal(network(x.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)), expected)  # not contiguous
    np.testing.assert_array_equal(network.predict(x), expected.argmax(axis=1))


def test_images_may_lie_anyhow(network, images):
    expected = network(images)
    odd = np.frombuffer(b"!" + images.tobytes(), np.uint8)[1:].view(f32).reshape(images.shape)
    assert not odd.flags.aligned
    for x in (odd, np.asfortranarray(images), np.repeat(images, 2, axis=0)[::2], images[::-1].copy()[::-1]):
        np.testing.assert_array_equal(network(x), expected)


def test_looking_inside(network, images):
    assert list(network.tensors(images)) == list(network.shapes)
    np.testing.assert_array_equal(network.tensors(images)["input"], images.transpose(0, 2, 3, 1))
    text = network.summary().splitlines()
    assert len(text) == len(network.layers) + 2
    assert " ".join(text[3].split()) == "groups conv half 8 x 7 x 6 4 8 x 3 x 3 x 3 4 176"
    assert text[-1].split() == ["sum", str(sum(network.nbytes.values()))]
    assert repr(network) == f"IntegerNetwork(18 layers, input_shape=(3, 12, 11), {sum(network.nbytes.values())} bytes)"
    assert pickle.loads(pickle.dumps(network)) == network
    other = conv(np.random.default_rng(1), "out", ("joined",), (4, 1, 1, 13), None)
    assert network != IntegerNetwork([*network.layers[:-1], other], SHAPE)


# ---- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


def small(rng):
    """Three bits, so that rows end within a byte."""
    layers = [
        Layer(name="codes", op="affine", inputs=("input",), bits=2, scale=f32([3]), shift=f32([0])),
        conv(rng, "conv", ("codes",), (2, 1, 3, 1), 3, 4, padding=(0, 1)),
        conv(rng, "out", ("conv",), (2, 2, 2, 2), 1),
    ]
    return IntegerNetwork(layers, (1, 2, 2), {"a": [1]})


@pytest.mark.parametrize("weight_bits", range(1, 9))
def test_a_file_gives_back_the_network(weight_bits, rng, path, images):
    pytest.importorskip("safetensors")
    network = IntegerNetwork(everything(rng, weight_bits, 3), SHAPE, {"classes": ["a", "b"], "note": 1.5})
    network.save(path)
    found = IntegerNetwork.load(path)
    assert found == network
    assert found.about == network.about
    np.testing.assert_array_equal(found(images), network(images))
    again = path.with_name("again")
    found.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_codes_are_packed_in_their_bits(rng):
    """Code k of a row is in bits k * b and up, lowest first: the same bytes on every machine."""
    assert pack_rows(np.int8([[1, -1, 3]]), 3).tolist() == [[0b11_111_001, 0b0]]
    assert pack_rows(np.int8([[1, -1, -1, 1]]), 1).tolist() == [[0b1001]]
    for bits in range(1, 9):
        for n in (1, 7, 8, 19):
            codes = weights(rng, (3, n), bits)
            packed = pack_rows(codes, bits)
            assert packed.shape == (3, -(-n * bits // 8))
            np.testing.assert_array_equal(unpack_rows(packed, bits, n), codes)
            whole = sum((c if bits > 1 else int(c > 0)) % 2**bits << (k * bits) for k, c in enumerate(codes[1].tolist()))
            assert packed[1].tobytes() == whole.to_bytes(packed.shape[1], "little")


def test_four_bits_take_a_seventh(rng, path):
    """Scales and shifts counted, and the header: a layer of 288 numbers an output, and whole networks of such."""
    safetensors = pytest.importorskip("safetensors")
    layers = [Layer(name="codes", op="affine", inputs=("input",), bits=4, scale=f32([15] * 32), shift=f32([0] * 32))]
    for k in range(4):
        layers.append(conv(rng, f"conv{k}", (layers[-1].name,), (32, 3, 3, 32), 4, 4 if k < 3 else None, padding=(1, 1)))
    layers.append(Layer(name="mean", op="average_pool", inputs=("conv3",), kernel=(8, 8), scale=f32([1 / 64])))
    network = IntegerNetwork(layers, (32, 8, 8))
    network.save(path)
    floats = sum(4 * layer.weights.size for layer in layers[1:5])
    with safetensors.safe_open(path, framework="numpy") as f:
        stored = {key: f.get_tensor(key).nbytes for key in f.keys()}  # noqa: SIM118 - it is no mapping
    for layer in layers[1:5]:
        assert sum(stored[f"{layer.name}.{name}"] for name in ("weights", "scale", "shift")) == layer.nbytes
        assert 7 * layer.nbytes <= 4 * layer.weights.size
    assert 7 * sum(network.nbytes.values()) <= floats
    assert path.stat().st_size <= floats / 7 + 4096


def test_any_cut_is_one_sentence(rng, path):
    pytest.importorskip("safetensors")
    small(rng).save(path)
    content = path.read_bytes()
    for size in [*range(0, len(content), 7), *range(len(content) - 9, len(content))]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
            IntegerNetwork.load(path)
        assert str(caught.value).startswith(f"{path}: is cut short, or no network")
        assert "\n" not in str(caught.value)


def test_any_changed_byte_is_found_or_harmless(rng, path):
    """Every byte, with one bit of it turned over."""
    pytest.importorskip("safetensors")
    network = small(rng)
    network.save(path)
    content = path.read_bytes()
    refused = 0
    for k in range(len(content)):
        path.write_bytes(content[:k] + bytes([content[k] ^ 1 << (k % 8)]) + content[k + 1 :])
        try:
            found = IntegerNetwork.load(path)
        except ValueError as error:
            refused += str(error).startswith(f"{path}: ")
        else:
            refused += found == network and found.about == network.about and content[k : k + 1] == b" "
    assert refused == len(content)  # but for blanks between the parts of the header


def parts(path):
    """Tensors and header of a file, the header without its checksum."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as f:
        header = json.loads(f.metadata()["lowprec.network"])["network"]
    return numpy_files.load_file(path), header


def write(path, tensors, header, key="lowprec.network", checksums=True):
    """A file with any content, whose checksums are right."""
    import safetensors.numpy

    for entry in header["layers"] if checksums else ():
        names = [f"{entry['name']}.{field}" for field in ("weights", "scale", "shift") if field in entry]
        if names and all(name in tensors for name in names):
            entry["sha256"] = hashlib.sha256(b"".join(tensors[name].tobytes() for name in names)).hexdigest()
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    safetensors.numpy.save_file(tensors, path, {key: json.dumps({"sha256": digest, "network": header})})


def forge(change, path, rng):
    small(rng).save(path)
    tensors, header = parts(path)
    how = change(tensors, header) or {}
    write(path, tensors, header, **how)


FORGED = {
    "another version": (lambda t, h: h.update(version=2), "is a network of version 2; expected version 1; update lowprec"),
    "no network": (lambda t, h: {"key": "other"}, "is safetensors, but holds no network of lowprec"),
    "numbers changed": (
        lambda t, h: t.update({"conv.shift": t["conv.shift"] + 1}) or {"checksums": False},
        "its parts do not fit each other .layer 'conv': its numbers were changed: the checksum is another.",
    ),
    "a tensor missing": (lambda t, h: t.pop("out.scale") is None, "layer 'out': scale must be float32 of shape .2,.; got none"),
    "a tensor too many": (lambda t, h: t.update({"more": f32([1])}), "'more' belongs to no layer"),
    "another shape": (lambda t, h: h["layers"][1].update(weights=[2, 1, 6, 1]), "'conv': weights must be uint8 of shape .2, 3."),
    "another dtype": (lambda t, h: t.update({"conv.scale": t["conv.scale"].astype(np.float64)}), "scale must be float32"),
    "a layer missing": (lambda t, h: h["layers"].pop(0) and None, "'codes.scale' belongs to no layer"),
    "bits out of range": (lambda t, h: h["layers"][1].update(bits=9), "layer 'conv': bits: must lie in .1, 8.; got 9"),
    "weight bits out of range": (lambda t, h: h["layers"][2].update(weight_bits=0), "layer 'out'"),
    "a code out of range": (
        lambda t, h: t.update({"conv.weights": np.uint8([[0b100, 0], [0, 0]])}),
        "layer 'conv': weights: must lie in .-3, 3., of 3 bits; got -4",
    ),
    "bits behind a row": (lambda t, h: t.update({"conv.weights": np.uint8([[0, 2], [0, 0]])}), "the bits behind a row of weig"),
    "not finite": (lambda t, h: t.update({"conv.shift": f32([0, np.inf])}), "layer 'conv': shift: every value must be finite"),
    "an unknown layer": (lambda t, h: h["layers"][0].update(op="gelu"), "layer 'codes': op: choose one of {conv, max_pool"),
    "an unknown field": (lambda t, h: h["layers"][0].update(color=3), "color"),
    "no name": (lambda t, h: h["layers"][0].pop("name") and {"checksums": False}, "its parts do not fit each other"),
    "an input from nowhere": (lambda t, h: h["layers"][1].update(inputs=["x"]), "layer 'conv': inputs: must be earlier layers"),
    "a shape that does not fit": (lambda t, h: h.update(input_shape=[1, 2, 3]), "its layers do not fit each other"),
    "no shape": (lambda t, h: h.update(input_shape=7), "its parts do not fit each other"),
    "no layers": (lambda t, h: h.update(layers={}), "belongs to no layer"),
    "layers that are none": (lambda t, h: h.update(layers=[3]) or {"checksums": False}, "its parts do not fit each other"),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_is_forged_is_refused(what, rng, path):
    """Where somebody has made the checksums fit."""
    pytest.importorskip("safetensors")
    change, sentence = FORGED[what]
    forge(change, path, rng)
    with pytest.raises(ValueError, match=sentence) as caught:
        IntegerNetwork.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_file_of_ours_is_refused(path, rng):
    numpy_files = pytest.importorskip("safetensors.numpy")
    with pytest.raises(FileNotFoundError, match=r"no such file; expected one that IntegerNetwork\.save wrote"):
        IntegerNetwork.load(path)
    for content in (rng.bytes(1000), b"{}", b"PK\x03\x04" * 9, b"\x80\x04\x95"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is cut short, or no network"):
            IntegerNetwork.load(path)
    for text in ("", "{", "[]", "7", '{"network": {}, "sha256": 1}', "[" * 100_000):
        numpy_files.save_file({"a": np.zeros(3)}, path, {"lowprec.network": text})
        with pytest.raises(ValueError, match="its header is no network's"):
            IntegerNetwork.load(path)


def test_a_file_without_safetensors(rng, path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    network = small(rng)
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    for call in (network.save, IntegerNetwork.load):
        with pytest.raises(ImportError, match=r"needs safetensors, which is not installed: pip install 'lowprec\[models\]'"):
            call(path)


# ---- what is wrong -------------------------------------------------------------------------------------------------------


GOOD = {
    "name": "c", "op": "conv", "inputs": ("input",), "bits": 4, "weights": np.ones((2, 3, 3, 1), f32), "scale": f32([1, 1]),
    "shift": f32([0, 0]), "padding": (1, 1),
}  # fmt: skip
CODES = {"weights": np.ones((2, 3, 3, 1), np.int8), "weight_bits": 3}
POOL = {"name": "p", "op": "max_pool", "inputs": ("input",), "kernel": (3, 3)}

WRONG = [
    (GOOD, {"name": 3}, TypeError, "layer: name: expected a string; got int 3"),
    (GOOD, {"name": ""}, ValueError, "layer: name: must be neither empty nor 'input'; got ''"),
    (GOOD, {"name": "input"}, ValueError, "layer: name: must be neither empty nor 'input'"),
    (GOOD, {"op": "gelu"}, ValueError, "layer 'c': op: choose one of {conv, max_pool, average_pool, affine, add, conc"),
    (GOOD, {"inputs": "input"}, TypeError, "layer 'c': inputs: expected names in a tuple; got str 'input'"),
    (GOOD, {"inputs": ()}, ValueError, "layer 'c': inputs: must be 1 or 2 of conv; got 0"),
    (GOOD, {"inputs": ("a", "b", "c")}, ValueError, "layer 'c': inputs: must be 1 or 2 of conv; got 3"),
    (GOOD, {"bits": 9}, ValueError, "layer 'c': bits: must lie in [1, 8]; got 9"),
    (GOOD, {"bits": 0}, ValueError, "layer 'c': bits: must lie in [1, 8]; got 0"),
    (GOOD, {"bits": True}, TypeError, "layer 'c': bits: expected an integer; got bool True"),
    (GOOD, {"weight_bits": 33}, ValueError, "layer 'c': weight_bits: must lie in [1, 8]; got 33"),
    (GOOD, {"weight_bits": 3}, TypeError, "layer 'c': weights: expected an array of int8, since weight_bits are given; got an"),
    (GOOD, {"weights": CODES["weights"]}, TypeError, "layer 'c': weights: expected an array of float32, where weight_bits i"),
    (GOOD, {"weights": None}, TypeError, "layer 'c': weights: expected an array of float32, where weight_bits is None; got None"),
    (GOOD, {"weights": np.ones((2, 3), f32)}, ValueError, "layer 'c': weights: must have shape (O, kh, kw, I / groups), none of"),
    (GOOD, {"weights": np.full((2, 3, 3, 1), np.nan, f32)}, ValueError,
     "layer 'c': weights: every value must be finite; got nan at index (0, 0, 0, 0)"),
    (GOOD | CODES, {"weights": np.full((2, 3, 3, 1), -4, np.int8)}, ValueError,
     "layer 'c': weights: must lie in [-3, 3], of 3 bits; got -4"),
    (GOOD | CODES, {"weights": np.zeros((2, 3, 3, 1), np.int8), "weight_bits": 1}, ValueError,
     "layer 'c': weights: must be -1 or 1, of 1 bits; got 0"),
    (GOOD, {"scale": None}, TypeError, "layer 'c': scale: expected an array of float32; got None"),
    (GOOD, {"scale": np.ones(2)}, TypeError, "layer 'c': scale: expected an array of float32; got an array of float64, shap"),
    (GOOD, {"shift": f32([1])}, ValueError, "layer 'c': shift: must have shape (2,); got shape (1,)"),
    (GOOD, {"shift": f32([1, np.inf])}, ValueError, "layer 'c': shift: every value must be finite; got inf at index (1,)"),
    (GOOD, {"groups": 3}, ValueError, "layer 'c': groups: must lie in [1, 2]; got 3"),
    (GOOD | {"weights": np.ones((3, 1, 1, 1), f32)}, {"groups": 2}, ValueError,
     "layer 'c': groups: must divide the 3 channels that it gives; got 2"),
    (GOOD, {"stride": (0, 1)}, ValueError, "layer 'c': stride: must lie in [1, 65536]; got 0"),
    (GOOD, {"stride": 2}, TypeError, "layer 'c': stride: expected a pair of integers, (vertical, horizontal); got int 2"),
    (GOOD, {"padding": (-1, 1)}, ValueError, "layer 'c': padding: must lie in [0, 65536]; got -1"),
    (GOOD, {"kernel": (3, 3)}, ValueError, "layer 'c': kernel: is no part of conv; leave it out; got (3, 3)"),
    (GOOD, {"relu": True}, ValueError, "layer 'c': relu: is for layers that give float32; codes are never negative; got True"),
    (GOOD, {"relu": 1, "bits": None}, TypeError, "layer 'c': relu: expected True or False; got int 1"),
    (GOOD, {"residual_scale": 1.0}, ValueError, "layer 'c': residual_scale: must be given with a second input, and only"),
    (GOOD, {"inputs": ("a", "b")}, ValueError, "layer 'c': residual_scale: must be given with a second input, and only"),
    (GOOD, {"inputs": ("a", "b"), "residual_scale": 0.1}, ValueError, "layer 'c': residual_scale: must be a float32 number; got"),
    (GOOD, {"inputs": ("a", "b"), "residual_scale": np.nan}, ValueError, "layer 'c': residual_scale: must be finite; got nan"),
    (POOL, {"kernel": None}, TypeError, "layer 'p': kernel: expected a pair of integers, (vertical, horizontal); got None"),
    (POOL, {"padding": (1, 2)}, ValueError, "layer 'p': padding: must be at most half of kernel (3, 3); got (1, 2)"),
    (POOL, {"scale": f32([1])}, ValueError, "layer 'p': scale: is no part of max_pool; leave it out; got array"),
    (POOL, {"ceil_mode": 1}, TypeError, "layer 'p': ceil_mode: expected True or False; got int 1"),
    (POOL, {"op": "average_pool", "scale": f32([1, 2])}, ValueError, "layer 'p': scale: must have shape (1,); got shape (2,)"),
    ({"name": "a", "op": "affine", "inputs": ("x",), "scale": f32([1, 2])}, {"shift": f32([1])}, ValueError,
     "layer 'a': shift: must have the shape of scale, (2,); got shape (1,)"),
    ({"name": "a", "op": "affine", "inputs": ("x",), "scale": f32([[1]])}, {"shift": f32([1])}, ValueError,
     "layer 'a': scale: must be one number for each channel; got shape (1, 1)"),
    ({"name": "a", "op": "add", "inputs": ("x",)}, {}, ValueError, "layer 'a': inputs: must be 2 of add; got 1"),
    ({"name": "a", "op": "concat", "inputs": ()}, {}, ValueError, "layer 'a': inputs: must be 1 or more of concat; got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "change", "error", "sentence"), WRONG, ids=lambda v: str(v)[:30] if isinstance(v, str) else "")
def test_a_layer_that_cannot_be(good, change, error, sentence):
    with pytest.raises(error) as caught:
        Layer(**(good | change))
    assert str(caught.value).startswith(sentence)


def chain(*changes):
    """A good network of two layers, with a change of one of them."""
    first = {**GOOD, "name": "first", "padding": (0, 0)}
    w = np.ones((2, 4, 4, 2), np.int8)
    last = first | {"name": "last", "inputs": ("first",), "bits": None, "weights": w, "weight_bits": 8}
    layers = [first, last]
    for which, change in changes:
        layers[which] = layers[which] | change
    return [Layer(**layer) for layer in layers]


DEEP = np.full((2, 4, 4, 5000), 127, np.int8)
BAD_NETWORKS = [
    ([], "layers: must not be empty; got no layer"),
    (chain((1, {"name": "first"})), "layers: every name must be there once; got 'first' twice"),
    (chain((1, {"inputs": ("second",)})), "layer 'last': inputs: must be earlier layers or 'input'; got 'second'"),
    (chain((1, {"inputs": ("input",), "weights": np.ones((2, 6, 6, 1), f32), "weight_bits": None})),
     "layer 'first': must be read by another, or be the last; got neither"),
    (chain((1, {"weights": np.ones((2, 4, 4, 3), np.int8)})),
     "layer 'last': weights: must be for 1 groups of 3 input channels; got 2 channels of 4 x 4 codes of 4 bits"),
    (chain((1, {"weights": np.ones((2, 5, 4, 2), np.int8)})),
     "layer 'last': its kernel, (5, 4), must fit into its padded input; got 2 channels of 4 x 4 codes of 4 bits"),
    (chain((1, {"weights": np.ones((2, 3, 3, 2), np.int8)})),
     "layer 'last': is the last, and must give one float32 number for each channel; got 2 channels of 2 x 2 float32"),
    (chain((1, {"bits": 2})), "layer 'last': is the last, and must give one float32 number for each channel; got 2 channels of"),
    (chain((0, {"bits": None})),
     "layer 'last': reads codes with weights that are codes, and float32 with float32 weights; got int8 weights on 2 channels"),
    (chain((1, {"inputs": ("first", "input"), "residual_scale": 1.0})),
     "layer 'last': inputs: its residual must have the shape of what it gives, 2 channels of 1 x 1 float32; got 1 channels of 6"),
    ([*chain()[:1], Layer(name="p", op="max_pool", inputs=("first",), kernel=(4, 4))],
     "layer 'p': bits: must be those of what it reads, 4; got None"),
    ([*chain()[:1], Layer(name="a", op="affine", inputs=("first",), scale=f32([1]), shift=f32([1]))],
     "layer 'a': scale: must have shape (2,); got shape (1,)"),
    ([*chain()[:1], Layer(name="a", op="add", inputs=("first", "input"), scale=f32([1, 2]))],
     "layer 'a': inputs: must have one shape; got 2 channels of 4 x 4 codes of 4 bits, and 1 channels of 6 x 6 float"),
    ([*chain()[:1], Layer(name="a", op="concat", inputs=("first", "input"), bits=4)],
     "layer 'a': inputs: must differ in their channels alone; got 2 channels of 4 x 4 codes of 4 bits, and 1 channels of 6"),
    (chain((0, {"weights": np.ones((5000, 3, 3, 1), f32), "scale": np.ones(5000, f32), "shift": np.ones(5000, f32), "bits": 8}),
           (1, {"weights": DEEP})),
     "layer 'last': its sums must stay within int32, +-2147483647; got up to 2590800000"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "sentence"), BAD_NETWORKS, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_layers_that_do_not_fit(layers, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        IntegerNetwork(layers, (1, 6, 6))
    assert str(caught.value).startswith(sentence)


def test_shapes_that_are_none():
    with pytest.raises(TypeError, match=r"input_shape: expected three integers, \(channels, height, width\); got int 3"):
        infer(chain(), 3)
    with pytest.raises(ValueError, match="input_shape: must lie in"):
        infer(chain(), (1, 0, 6))
    with pytest.raises(TypeError, match="layers: expected layers alone; got int 3"):
        infer([3], (1, 6, 6))


def test_images_and_codes_that_do_not_fit(network, images):
    with pytest.raises(TypeError, match="x: expected an array of float32 in this machine's byte order; got an array of float64"):
        network(images.astype(np.float64))
    with pytest.raises(TypeError, match="x: expected an array of float32"):
        network(images.astype(">f4"))
    for wrong in (images[0], images[:, :2], images[:0], images.transpose(0, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"x: must have shape \(N, 3, 12, 11\), N at least 1; got shape"):
            network(wrong)
    for bad in (np.nan, np.inf):
        images[1, 0, 3, 3] = bad
        for call in (network, network.predict, network.tensors):
            with pytest.raises(ValueError, match=f"x: every value must be finite; got {bad}"):
                call(images)
    with pytest.raises(ValueError, match="n_threads: must be at least 1; got 0"):
        network(images, 0)
    codes = np.zeros((2, 7, 6, 6), np.uint8)
    with pytest.raises(ValueError, match=r"name: choose one of \{first, groups, wide, residual, both, down, out\}; got 'sum'"):
        network.pre_activations("sum", codes)
    with pytest.raises(TypeError, match="codes: expected an array of uint8, which layer 'groups' reads; got an array of int64"):
        network.pre_activations("groups", codes.astype(np.int64))
    with pytest.raises(ValueError, match=r"codes: must have shape \(N, 7, 6, 6\), N at least 1; got shape \(2, 7, 6, 5\)"):
        network.pre_activations("groups", codes[..., :5])
    codes[1, 2, 3, 4] = 16
    with pytest.raises(ValueError, match=r"codes: must lie in \[0, 15\], of 4 bits; got 16"):
        network.pre_activations("groups", codes)


def test_nobody_can_change_a_layer(network):
    with pytest.raises(ValueError, match="read-only"):
        network.layers[0].weights[0] = 1
    with pytest.raises(AttributeError):
        network.layers[0].bits = 3
