"""WRPN's quantizers: their level sets, ties, errors; and NumPy against PyTorch, forwards to the bit, and backwards."""

from __future__ import annotations

import doctest
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from lowprec import wrpn
from lowprec.wrpn import quantizers

BITS = range(1, 9)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="needs PyTorch: pip install 'lowprec[wrpn]'")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


def many(rng, *shape):
    """Numbers in and around the range, the ends and the middles between levels among them."""
    a = rng.uniform(-1.5, 1.5, shape).astype(np.float32)
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, np.nextafter(np.float32(1), np.float32(2)), np.inf, -np.inf, 1e-30, 3e38]
    for bits in BITS:
        special += [(2 * k + 1) / (2 * (2**bits - 1)) for k in range(0, 2**bits - 1, max(1, 2 ** (bits - 3)))]
    flat = a.reshape(-1)
    flat[: len(special)] = special
    return a


def half_even(value: Fraction) -> int:
    return round(value)


# ---- levels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_weights_use_all_of_their_levels_and_no_other(rng, bits):
    w = rng.uniform(-1.2, 1.2, (4, 5000)).astype(np.float32)
    found = wrpn.quantize_weights(w, bits)
    codes, scale = wrpn.weight_codes(w, bits)
    assert found.dtype == np.float32
    assert codes.dtype == np.int8
    largest = 2 ** (bits - 1) - 1
    if bits == 1:
        assert set(codes.ravel().tolist()) == {-1, 1}
        for channel, mean in enumerate(scale):
            assert set(found[channel].tolist()) == {float(mean), -float(mean)}
    else:
        assert set(codes.ravel().tolist()) == set(range(-largest, largest + 1))
        assert len(np.unique(found)) == 2**bits - 1
        assert set(found.ravel().tolist()) == {float(np.float32(k) / np.float32(largest)) for k in range(-largest, largest + 1)}
        assert scale.shape == ()


@pytest.mark.parametrize("bits", BITS)
def test_activations_use_all_of_their_levels_and_no_other(rng, bits):
    a = rng.uniform(-0.5, 1.5, 20_000).astype(np.float32)
    found, codes, top = wrpn.quantize_activations(a, bits), wrpn.activation_codes(a, bits), 2**bits - 1
    assert codes.dtype == np.uint8
    assert set(codes.tolist()) == set(range(top + 1))
    assert set(found.tolist()) == {float(np.float32(k) / np.float32(top)) for k in range(top + 1)}


def test_the_papers_examples():
    # 2 bits are ternary; 4 bits are multiples of 1/7.
    assert np.unique(wrpn.quantize_weights(np.linspace(-2, 2, 99)[None], 2)).tolist() == [-1, 0, 1]
    assert np.array_equal(wrpn.weight_codes(np.arange(-7, 8)[None] / 7, 4)[0], np.arange(-7, 8)[None])


@pytest.mark.parametrize("bits", BITS)
def test_what_is_on_the_grid_stays(rng, bits):
    w, a = many(rng, 3, 400), many(rng, 1200)
    w = np.clip(w, -1, 1)
    once, rounded = wrpn.quantize_weights(w, bits), wrpn.quantize_activations(a, bits)
    assert np.array_equal(wrpn.quantize_activations(rounded, bits), rounded)
    if bits > 1:
        assert np.array_equal(wrpn.quantize_weights(once, bits), once)
    else:  # a mean of equal numbers is summed in float64, exactly for a power of two of them
        once = wrpn.quantize_weights(w[:, :256], 1)
        assert np.array_equal(wrpn.quantize_weights(once, 1), once)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_the_exact_ones_rounded(rng, bits):
    # L * w is rounded to float32 before it is rounded to an integer; that is the contract.
    w = many(rng, 1, 600)
    w = w[np.isfinite(w)][None]
    largest = 2 ** (bits - 1) - 1
    products = (np.clip(w, -1, 1) * np.float32(largest)).ravel()
    expected = [half_even(Fraction(float(p))) for p in products]
    assert wrpn.weight_codes(w, bits)[0].ravel().tolist() == expected


def test_the_examples():
    found = doctest.testmod(quantizers)
    assert found.attempted == 6
    assert found.failed == 0


def test_ties_go_to_the_even_code():
    # 0.5 of 1 is in the middle of 0 and 1; 2 bits of an activation have their middles at odd sixths.
    assert wrpn.weight_codes([[0.5, -0.5, 0.5000001]], 2)[0].tolist() == [[0, 0, 1]]
    assert wrpn.activation_codes([0.5, 0.50000006], 1).tolist() == [0, 1]
    assert wrpn.activation_codes([0.5], 2).tolist() == [2]  # 1.5
    assert wrpn.activation_codes([0.5], 3).tolist() == [4]  # 3.5
    assert wrpn.weight_codes([[0.5]], 3)[0].tolist() == [[2]]  # 1.5
    assert wrpn.weight_codes([[0.5]], 4)[0].tolist() == [[4]]  # 3.5


def test_the_scale_of_one_bit_is_the_mean_of_a_channel():
    codes, scale = wrpn.weight_codes([[[1.0, -3.0]], [[0.0, -0.0]], [[-0.5, 0.25]]], 1)
    assert codes.tolist() == [[[1, -1]], [[1, 1]], [[-1, 1]]]
    assert scale.tolist() == [2.0, 0.0, 0.375]
    assert scale.dtype == np.float32


def test_zero_fraction():
    w = [[0.4, 0.6, -0.07, 0.0]]
    assert wrpn.zero_fraction(w, 2) == 0.75
    assert wrpn.zero_fraction(w, 4) == 0.5
    assert wrpn.zero_fraction(w, 1) == 0.0
    assert wrpn.zero_fraction(w, 32) == 0.25
    # The known trap: weights of a usual scale on a fixed range.
    small = np.random.default_rng(1).normal(0, 0.04, (64, 576))
    assert wrpn.zero_fraction(small, 2) == 1.0


# ---- errors --------------------------------------------------------------------------------------------------------

FUNCTIONS = [
    wrpn.quantize_weights, wrpn.weight_codes, wrpn.quantize_activations, wrpn.activation_codes, wrpn.zero_fraction,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bits", [0, 9, -1, 16, 33])
def test_bits_out_of_range(function, bits):
    with pytest.raises(ValueError, match=rf"^bits: must lie in \[1, 8\].*got {bits}$"):
        function([[0.5]], bits)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bits", [2.0, "4", None, True])
def test_bits_are_integers(function, bits):
    with pytest.raises(TypeError, match=r"^bits: expected an integer; got"):
        function([[0.5]], bits)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_is_named_with_its_place(function):
    with pytest.raises(ValueError, match=r"^[aw]: must not hold NaN; got NaN at index \(1, 0\)$"):
        function([[0.5, 0.5], [np.nan, np.nan]], 2)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [np.array([["x"]]), np.array([[1j]])])
def test_only_real_numbers(function, value):
    with pytest.raises(TypeError, match=r"^[aw]: expected "):
        function(value, 2)


def test_one_bit_needs_weights():
    for shape in ((0,), (3, 0), ()):
        with pytest.raises(ValueError, match=r"^w: must have at least one output channel and one weight"):
            quantizers.weight_scale(np.zeros(shape, np.float32))


# ---- NumPy and PyTorch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_torch_gives_the_same_numbers(rng, torch, bits):
    from lowprec.wrpn import modules

    w, a = many(rng, 8, 3, 5, 5), many(rng, 4, 100)
    if bits == 1:
        w = np.clip(w, -2, 2)  # the mean of infinite weights is no number
    assert np.array_equal(modules.quantize_weights(torch.from_numpy(w), bits).numpy(), wrpn.quantize_weights(w, bits))
    assert np.array_equal(modules.quantize_activations(torch.from_numpy(a), bits).numpy(), wrpn.quantize_activations(a, bits))


@pytest.mark.parametrize("bits", BITS)
def test_gradients_go_straight_through_inside_the_range(rng, torch, bits):
    from lowprec.wrpn import modules

    w, a = np.clip(many(rng, 2, 200), -2, 2), many(rng, 300)
    for function, x, low in ((modules.quantize_weights, w, -1.0), (modules.quantize_activations, a, 0.0)):
        t = torch.from_numpy(x.copy()).requires_grad_()
        upstream = rng.uniform(-1, 1, x.shape).astype(np.float32)
        function(t, bits).backward(torch.from_numpy(upstream))
        expected = np.where((x >= low) & (x <= 1.0), upstream, np.float32(0))
        if bits == 1 and function is modules.quantize_weights:
            # sign(w) * mean, with the mean a constant
            expected = np.where(np.abs(x) <= 1, upstream * quantizers.weight_scale(x)[:, None], np.float32(0))
        assert np.array_equal(t.grad.numpy(), expected)


@pytest.mark.parametrize("bits", [1, 4])
def test_float64_stays_float64(torch, bits):
    from lowprec.wrpn import modules

    w = torch.tensor([[0.25, -0.75]], dtype=torch.float64)
    assert modules.quantize_weights(w, bits).dtype == torch.float64


def test_32_bits_change_nothing(torch):
    from lowprec.wrpn import modules

    w = torch.randn(3, 4)
    assert modules.quantize_weights(w, 32) is w


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_layers_compute_with_quantized_weights_and_inputs(rng, torch, bits):
    from lowprec.wrpn import QuantizedConv2d, QuantizedLinear, modules

    functional = torch.nn.functional
    x = torch.from_numpy(rng.uniform(-0.5, 1.5, (2, 3, 6, 6)).astype(np.float32))
    conv = QuantizedConv2d(3, 4, 3, stride=2, padding=1, weight_bits=bits, input_bits=2)
    expected = functional.conv2d(
        modules.quantize_activations(x, 2), torch.from_numpy(wrpn.quantize_weights(conv.weight.detach().numpy(), bits)),
        conv.bias, 2, 1,
    )  # fmt: skip
    assert torch.equal(conv(x), expected)
    linear = QuantizedLinear(6, 5, weight_bits=bits)
    assert torch.equal(linear(x), functional.linear(x, linear.quantized_weight(), linear.bias))
    assert f"weight_bits={bits}, input_bits=2" in repr(conv)
    assert "input_bits" not in repr(linear)


@pytest.mark.parametrize("bits", [0, 9, 31])
def test_layers_look_at_their_bits(torch, bits):
    for make, name in (
        (lambda: wrpn.QuantizedReLU(bits), "bits"),
        (lambda: wrpn.QuantizedLinear(2, 2, weight_bits=bits), "weight_bits"),
        (lambda: wrpn.QuantizedConv2d(2, 2, 1, weight_bits=2, input_bits=bits), "input_bits"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: must lie in \[1, 8\]"):
            make()


def test_zero_fractions_of_a_network(torch):
    network = torch.nn.Sequential(wrpn.QuantizedLinear(2, 1, weight_bits=2), wrpn.QuantizedLinear(1, 2, weight_bits=1))
    with torch.no_grad():
        network[0].weight[:] = torch.tensor([[0.4, 0.6]])
    assert wrpn.zero_fractions(network) == {"0": 0.5, "1": 0.0}


# ---- without PyTorch -----------------------------------------------------------------------------------------------


def test_nothing_imports_torch_before_it_is_asked_for():
    code = "import sys, lowprec.wrpn as w; w.quantize_weights([[0.5]], 2); print('torch' in sys.modules, 'convert' in dir(w))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "True"]


@pytest.mark.parametrize("name", ["convert", "build", "train_network", "QuantizedReLU"])
def test_without_torch_there_is_a_sentence(name):
    code = f"import sys; sys.modules['torch'] = None\nimport lowprec.wrpn as w\ntry: w.{name}\nexcept ImportError as e: print(e)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == f"lowprec.wrpn.{name} needs torch, which is not installed: pip install 'lowprec[wrpn]'"


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = wrpn.nonsense
