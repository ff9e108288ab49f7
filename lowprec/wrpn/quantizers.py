"""The quantizers of WRPN, in NumPy: weights and activations on fixed grids of few levels.

A. Mishra, E. Nurvitadhi, J. J. Cook, D. Marr, "WRPN: Wide Reduced-Precision Networks", ICLR 2018, Section 5 and Eq. 2. The ranges are
fixed, [-1, 1] for weights and [0, 1] for activations: nothing is learned and nothing depends on the data. `lowprec.wrpn.modules` has
the same functions with gradients, in PyTorch; both give the same float32 numbers to the bit.

What the paper leaves open, and the choice here:

- **Ties** go to the even code, as TensorFlow rounds.
- **One-bit weights** are ``sign(w) * mean(|w|)``, the sign of zero being +1 and the mean that of an output channel, as in binary
  weight networks. The mean is summed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from .architecture import FLOAT, check_bits

__all__ = [
    "activation_codes",
    "largest_activation",
    "largest_weight",
    "quantize_activations",
    "quantize_weights",
    "weight_codes",
    "weight_scale",
    "zero_fraction",
]

def _few_bits(bits: Any) -> int:
    return checks.check_int("bits", bits, minimum=1, maximum=8)


def largest_weight(bits: int) -> int:
    """The largest code of a weight of so many bits: 2^(bits - 1) - 1, and 1 for one bit, where codes are -1 and +1."""
    return max(2 ** (bits - 1) - 1, 1)


def largest_activation(bits: int) -> int:
    """The largest code of an activation of so many bits: 2^bits - 1."""
    return 2**bits - 1


def _numbers(name: str, value: Any) -> np.ndarray:
    """Real numbers of any shape, as float32, none of them NaN."""
    a = checks.as_array(value, name)
    checks.check_native_real(a, name)
    with np.errstate(over="ignore"):
        a = a.astype(np.float32, copy=False)
    bad = np.argwhere(np.isnan(a))
    if len(bad):
        raise checks.wrong_value(name, "must not hold NaN", f"NaN at index {tuple(int(k) for k in bad[0])}")
    return a


def weight_scale(w: Any) -> np.ndarray:
    """The mean of \\|w\\| over each output channel: what one-bit weights are multiplied with.

    Parameters
    ----------
    w : array_like of shape (channels, ...)

    Returns
    -------
    ndarray of float32, shape (channels,)
        Summed in float64, and then rounded.
    """
    w = _numbers("w", w)
    if w.ndim == 0 or w.size == 0:
        raise checks.wrong_value("w", "must have at least one output channel and one weight", f"shape {w.shape}")
    return np.abs(w.reshape(len(w), -1)).mean(axis=1, dtype=np.float64).astype(np.float32)


def weight_codes(w: Any, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights as small integers, and what one of them is worth.

    Parameters
    ----------
    w : array_like of shape (channels, ...)
        Float weights, the output channels first.
    bits : int
        In [1, 8].

    Returns
    -------
    codes : ndarray of int8, the shape of `w`
        In +-(2^(bits - 1) - 1); for one bit -1 and +1.
    scale : ndarray of float32
        For one bit of shape (channels,), the mean of \\|w\\| of each; otherwise of shape (), 1 / (2^(bits - 1) - 1) rounded. A
        quantized weight is the code *divided* by the integer 2^(bits - 1) - 1, which may differ from ``code * scale`` in the last
        bit.

    Raises
    ------
    ValueError
        If `bits` is out of range, or a weight is NaN.

    Examples
    --------
    >>> from lowprec.wrpn import weight_codes
    >>> weight_codes([[0.4, -0.1, 2.0]], 4)[0].tolist()
    [[3, -1, 7]]
    """
    bits = _few_bits(bits)
    w = _numbers("w", w)
    if bits == 1:
        return np.where(w >= 0, np.int8(1), np.int8(-1)), weight_scale(w)
    largest = np.float32(largest_weight(bits))
    codes = np.rint(np.clip(w, np.float32(-1), np.float32(1)) * largest).astype(np.int8)
    return codes, np.asarray(np.float32(1) / largest)


def quantize_weights(w: Any, bits: int) -> np.ndarray:
    """Weights on their grid of few levels.

    Parameters
    ----------
    w : array_like of shape (channels, ...)
        Float weights, the output channels first.
    bits : int
        In [1, 8]. More than one: round(L clip(w, -1, 1)) / L with L = 2^(bits - 1) - 1, so 2^bits - 1 levels (2 bits: -1, 0, 1).
        One: sign(w) times the mean of \\|w\\| of the output channel.

    Returns
    -------
    ndarray of float32, the shape of `w`

    Raises
    ------
    ValueError
        If `bits` is out of range, or a weight is NaN.

    Examples
    --------
    >>> from lowprec.wrpn import quantize_weights
    >>> quantize_weights([[0.4, -0.1, 2.0]], 2).tolist()
    [[0.0, 0.0, 1.0]]
    """
    codes, scale = weight_codes(w, bits)
    values = codes.astype(np.float32)
    if bits == 1:
        return values * scale.reshape(-1, *[1] * (values.ndim - 1))
    return values / np.float32(largest_weight(bits))


def activation_codes(a: Any, bits: int) -> np.ndarray:
    """Activations as small integers: round((2^bits - 1) clip(a, 0, 1)).

    Parameters
    ----------
    a : array_like
        Of any shape.
    bits : int
        In [1, 8].

    Returns
    -------
    ndarray of uint8, the shape of `a`
        In [0, 2^bits - 1].

    Raises
    ------
    ValueError
        If `bits` is out of range, or an activation is NaN.
    """
    bits = _few_bits(bits)
    a = _numbers("a", a)
    return np.rint(np.clip(a, np.float32(0), np.float32(1)) * np.float32(largest_activation(bits))).astype(np.uint8)


def quantize_activations(a: Any, bits: int) -> np.ndarray:
    """Activations on their grid of 2^bits levels in [0, 1]: their codes divided by 2^bits - 1.

    Parameters
    ----------
    a : array_like
        Of any shape.
    bits : int
        In [1, 8].

    Returns
    -------
    ndarray of float32, the shape of `a`

    Raises
    ------
    ValueError
        If `bits` is out of range, or an activation is NaN.

    Examples
    --------
    >>> from lowprec.wrpn import quantize_activations
    >>> quantize_activations([-1.0, 0.4, 0.9], 1).tolist()
    [0.0, 0.0, 1.0]
    """
    return activation_codes(a, bits).astype(np.float32) / np.float32(largest_activation(bits))


def zero_fraction(w: Any, bits: int) -> float:
    """The share of weights that round to zero: of small weights nearly all, since the range is fixed; none with one bit.

    Parameters
    ----------
    w : array_like of shape (channels, ...)
    bits : int
        In [1, 8], or 32: the share that is zero already.

    Returns
    -------
    float
        In [0, 1].
    """
    bits = check_bits("bits", bits)
    w = _numbers("w", w)
    if w.size == 0:
        raise checks.wrong_value("w", "must have at least one weight", f"shape {w.shape}")
    return float(np.mean((w if bits == FLOAT else weight_codes(w, bits)[0]) == 0))
