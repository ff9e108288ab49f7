"""Products of small integers: every pair of bits, on every ISA that runs here, against NumPy, to the last bit."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest

import lowprec as lp
from lowprec import _network, kernels
from lowprec.matmul import GEMM_BITS
from lowprec.wrpn.layers import Layer, infer

ISAS = [name for name, runnable in kernels._isas() if runnable]
PAIRS = [(a, w) for a in GEMM_BITS for w in GEMM_BITS]


def largest(weight_bits):
    return max(1, 2 ** (weight_bits - 1) - 1)


def random_codes(rng, shape, bits):
    return rng.integers(0, 2**bits, shape).astype(np.uint8)


def random_weights(rng, shape, bits):
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    return rng.integers(-largest(bits), largest(bits) + 1, shape).astype(np.int8)


def product(a, w):
    """Exact: all sums are below 2**53."""
    return (a.astype(np.float64) @ w.T.astype(np.float64)).astype(np.int64)


def kernels_for(bits, isa):
    found = [k for k, kernel in enumerate(_network.kernels(isa)) if kernel[:2] == bits]
    assert found
    return found


def check(a, w, bits, isa):
    """With every kernel for these bits."""
    expected = product(a, w)
    for kernel in kernels_for(bits, isa):
        found = _network.Packed(w, *bits, isa, kernel).multiply(a)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected, err_msg=f"{isa} {bits} kernel {kernel} {a.shape} {w.shape}")


def depth(bits):
    """Numbers of a row with which a sum can be as large as an int32."""
    return (2**31 - 1) // ((2 ** bits[0] - 1) * largest(bits[1]))


# Of narrower pairs such rows are too long for a test; test_extremes is deep enough for all that they sum in fewer bits.
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [bits for bits in PAIRS if depth(bits) <= 300_000])
def test_as_deep_as_an_int32_is(bits, isa):
    a = np.full((2, depth(bits)), 2 ** bits[0] - 1, np.uint8)
    w = np.full((2, depth(bits)), largest(bits[1]), np.int8)
    w[1] *= -1
    check(a, w, bits, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", PAIRS)
class TestEveryPair:
    def test_every_number_of_rows(self, bits, isa):
        rng = np.random.default_rng(1)
        w = random_weights(rng, (5, 28), bits[1])
        for rows in range(1, 18):
            check(random_codes(rng, (rows, 28), bits[0]), w, bits, isa)

    def test_every_number_of_outputs(self, bits, isa):
        rng = np.random.default_rng(2)
        a = random_codes(rng, (7, 12), bits[0])
        for outputs in range(1, 67):
            check(a, random_weights(rng, (outputs, 12), bits[1]), bits, isa)

    def test_every_remainder_of_numbers(self, bits, isa):
        rng = np.random.default_rng(3)
        for numbers in [*range(1, 20), 39, 40, 41, 123, 124, 125, 251, 253, 623, 624, 625, 1301]:
            check(random_codes(rng, (3, numbers), bits[0]), random_weights(rng, (18, numbers), bits[1]), bits, isa)

    def test_extremes(self, bits, isa):
        """All largest, and every mix of largest and least in neighbors, so deep that narrow sums are full again and again."""
        numbers = 33001  # the look-up's 16-bit sums hold 32,736 numbers of one bit
        rng = np.random.default_rng(4)
        a = np.zeros((9, numbers), np.uint8)
        a[0] = a[1, ::2] = a[2, 1::2] = a[3, ::4] = a[4, 3::4] = 2 ** bits[0] - 1
        a[5] = random_codes(rng, numbers, bits[0])
        early = np.arange(numbers) % 8 < 4  # half of what meets in a group of eight
        a[6, early] = a[7, ~early] = 2 ** bits[0] - 1
        w = np.full((8, numbers), largest(bits[1]), np.int8)
        w[1] = w[2, ::2] = w[3, 1::2] = -largest(bits[1])
        w[4] = random_weights(rng, numbers, bits[1])
        w[5, : numbers // 2] = -largest(bits[1])
        w[6, early] = w[7, ~early] = -largest(bits[1])
        check(a, w, bits, isa)

    def test_every_code_by_every_weight(self, bits, isa):
        a = np.arange(2 ** bits[0], dtype=np.uint8)[:, None]
        values = [-1, 1] if bits[1] == 1 else range(-largest(bits[1]), largest(bits[1]) + 1)
        w = np.array(values, np.int8)[:, None]
        for at in range(8):  # in each place of a group, the others being zero
            check(np.pad(a, ((0, 0), (at, 7 - at))), np.pad(w, ((0, 0), (at, 7 - at)), constant_values=1), bits, isa)

    def test_rows_apart(self, bits, isa):
        rng = np.random.default_rng(5)
        wide = random_codes(rng, (9, 77), bits[0])
        w = random_weights(rng, (21, 40), bits[1])
        check(wide[:, 3:43], w, bits, isa)
        check(wide[::2, 3:43], w, bits, isa)

    def test_threads(self, bits, isa):
        rng = np.random.default_rng(6)
        a, w = random_codes(rng, (37, 60), bits[0]), random_weights(rng, (130, 60), bits[1])
        for kernel in kernels_for(bits, isa):
            packed = _network.Packed(w, *bits, isa, kernel)
            for threads in (2, 3):
                np.testing.assert_array_equal(packed.multiply(a, threads), product(a, w))

    @pytest.mark.parametrize(("channels", "outputs"), [(12, 37), (12, 130), (104, 130), (152, 130)])
    def test_convolution(self, bits, isa, channels, outputs):
        """A row of runs: of a 3 x 3 kernel on a padded image, in whole groups of eight or not, panels in pieces or not."""
        rng = np.random.default_rng(7)
        image, w = random_codes(rng, (2, 9, 8, channels), bits[0]), random_weights(rng, (outputs, 3, 3, channels), bits[1])
        one = partial(np.ones, dtype=np.float32)
        layers = [
            Layer(name="codes", op="affine", inputs=("input",), bits=bits[0], scale=one(channels), shift=one(channels)),
            Layer(name="conv", op="conv", inputs=("codes",), weights=w, weight_bits=bits[1], stride=(2, 1), padding=(1, 1),
                  scale=one(outputs), shift=one(outputs)),
            Layer(name="mean", op="average_pool", inputs=("conv",), kernel=(5, 8), scale=one(1)),
        ]  # fmt: skip
        sums, _ = _network.Program(layers, infer(layers, (channels, 9, 8)), isa).run_layer("conv", [image])
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
        runs = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2].transpose(0, 1, 2, 4, 5, 3)
        expected = product(runs.reshape(2 * 5 * 8, -1), w.reshape(outputs, -1))
        np.testing.assert_array_equal(sums, expected.reshape(2, 5, 8, outputs))

    def test_weights_stay_packed(self, bits, isa):
        assert _network.Packed(np.ones((128, 64), np.int8), *bits, isa).nbytes == 128 * 64 * bits[1] // 8


def rounded(x):
    """A fraction to float32, ties to even, by way of float64 to odd."""
    near = float(x)
    if Fraction(near) != x and int(np.float64(near).view(np.int64)) % 2 == 0:
        near = np.nextafter(near, np.inf if x > Fraction(near) else -np.inf)
    return np.float32(near)


@pytest.mark.parametrize("isa", ISAS)
def test_float32_is_fused_and_in_order(isa):
    rng = np.random.default_rng(8)
    a, w = rng.standard_normal((9, 23), np.float32), rng.standard_normal((19, 23), np.float32)
    expected = np.zeros((9, 19), np.float32)
    for i, j in np.ndindex(expected.shape):
        for x, y in zip(a[i], w[j], strict=True):
            expected[i, j] = rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(expected[i, j])))
    np.testing.assert_array_equal(_network.Packed(w, 32, 32, isa).multiply(a), expected)


def test_float32_is_the_same_on_every_isa():
    rng = np.random.default_rng(9)
    a, w = rng.standard_normal((13, 3000), np.float32), rng.standard_normal((21, 3000), np.float32)
    first, *others = (_network.Packed(w, 32, 32, isa).multiply(a) for isa in ISAS)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_face():
    """`lowprec.gemm` is the table in use."""
    rng = np.random.default_rng(10)
    for bits in PAIRS:
        a, w = random_codes(rng, (5, 30), bits[0]), random_weights(rng, (70, 30), bits[1])
        np.testing.assert_array_equal(lp.gemm(a, lp.pack_weights(w, bits[1]), bits[0]), product(a, w))


def test_of_nothing():
    weights = lp.pack_weights(np.ones((3, 8), np.int8), bits=4)
    assert lp.gemm(np.zeros((0, 8), np.uint8), weights, bits=4).shape == (0, 3)
    none = lp.pack_weights(np.ones((3, 0), np.int8), bits=4)
    np.testing.assert_array_equal(lp.gemm(np.zeros((2, 0), np.uint8), none, bits=4), np.zeros((2, 3), np.int32))
