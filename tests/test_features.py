"""Random Fourier features: the kernel they stand for, and that codes are those of the float features."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lowprec as lp
from lowprec.features import _BLOCK, random_fourier_features


def test_products_stand_for_the_kernel(rng):
    """Hoeffding: the mean of N products in [-2, 2] is farther than t from its expectation with probability 2 exp(-N t^2 / 8)."""
    n_features, gamma = 20_000, 0.3
    X = rng.normal(size=(12, 5))
    z = random_fourier_features(X, n_features, gamma=gamma, seed=3).astype(np.float64)
    kernel = np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(axis=2))
    bound = math.sqrt(8 / n_features * math.log(2 * kernel.size / 1e-9))
    assert np.abs(2 * z @ z.T / n_features - kernel).max() < bound
    assert kernel.min() < 0.2 < bound + 0.2 < kernel.max()


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_codes_are_those_of_the_float_features(rng, fmt):
    X = rng.integers(0, 256, (70, 9)).astype(np.uint8)
    n_features = _BLOCK // 32  # three blocks
    plain = random_fourier_features(X, n_features, gamma=1e-5, seed=1)
    made = random_fourier_features(X, n_features, gamma=1e-5, seed=1, fmt=fmt)
    expected = lp.quantize(plain, fmt, scale=made.scale, rounding="nearest")
    assert made.format == expected.format
    assert np.array_equal(made.codes, expected.codes)
    if fmt != "32f":
        assert made.scale == 1.0 / {"4": 7, "8": 127, "16": 32767}[fmt]
    assert np.abs(plain).max() <= 1.0


def test_a_seed_is_a_map():
    """Rows of the identity have exact products, whatever the blocks are."""
    eye = np.eye(40)
    z = random_fourier_features(eye, 30, gamma=0.5, seed=7)
    assert np.array_equal(random_fourier_features(eye[::-3], 30, gamma=0.5, seed=7), z[::-3])
    assert not np.array_equal(random_fourier_features(eye, 30, gamma=0.5, seed=8), z)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"n_features": 0}, ValueError, "n_features: must be at least 1; got 0"),
        ({"n_features": 2.0}, TypeError, "n_features: expected an integer"),
        ({"gamma": 0}, ValueError, "gamma: must be finite and positive; got 0"),
        ({"seed": -1}, ValueError, "seed: must be an integer in"),
        ({"X": np.zeros(3)}, ValueError, "X: "),
        ({"fmt": "7"}, ValueError, "fmt: "),
    ],
)
def test_errors(change, error, text):
    given = {"X": np.zeros((2, 3)), "n_features": 4, "gamma": 1.0} | change
    with pytest.raises(error, match=f"^{text}"):
        random_fourier_features(given.pop("X"), given.pop("n_features"), **given)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_found_in_any_block(value):
    X = np.zeros((50, 2))
    X[47, 1] = value
    text = r"^X: every value must be finite in float32; got NaN or inf in row 47$"
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=text):
        random_fourier_features(X, _BLOCK // 8, gamma=1.0, fmt="8")


def test_written_where_they_shall_be(tmp_path, rng):
    X = rng.standard_normal((3000, 4))
    out = np.lib.format.open_memmap(tmp_path / "z.npy", "w+", np.float32, (3000, 64))
    assert random_fourier_features(X, 64, gamma=0.5, seed=2, out=out) is out
    assert np.array_equal(out, random_fourier_features(X, 64, gamma=0.5, seed=2))
    with pytest.raises(ValueError, match=r"out: must be float32 of shape \(3000, 64\)"):
        random_fourier_features(X, 64, gamma=0.5, out=np.empty((1, 1), np.float32))
    with pytest.raises(ValueError, match="out: is for float32 features"):
        random_fourier_features(X, 64, gamma=0.5, out=out, fmt="8")
