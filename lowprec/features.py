"""Features that make a linear model a kernel machine: random Fourier features, straight into codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import checks
from .formats import Format, as_format
from .quantized import QuantizedArray, _empty, quantize

__all__ = ["random_fourier_features"]

# Features to a block: its float32 numbers take 2 MiB, and a matrix product of that size is an efficient one.
_BLOCK = 1 << 19


def random_fourier_features(
    X: Any, n_features: int, *, gamma: float, seed: int = 0, fmt: Format | str | int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray | QuantizedArray:  # fmt: skip
    """Random Fourier features of the Gaussian kernel (Rahimi and Recht, NIPS 2007, Algorithm 1).

    z_k(x) = cos(x . u_k + b_k), with u_k normal of variance 2 gamma and b_k uniform in [0, 2 pi). The mean of 2 z_k(x) z_k(x')
    over the draws is exp(-gamma ||x - x'||^2), so a linear model on z stands for a machine with that kernel on x.
    The factor sqrt(2 / n_features) of the source is left out: features lie in [-1, 1] whatever their number is.

    Parameters
    ----------
    X : array_like of shape (m, n)
        float16, float32, float64, bool or integers. Converted a block at a time.
    n_features : int
    gamma : float
        Of the kernel, positive; in the units of X: of pixels 0..255 it is 1/255**2 of that for pixels 0..1.
    seed : int
        Of u and b, in [0, 2**64). The same seed gives the same features of other rows with as many columns.
    fmt : {"4", "8", "16", "32f"} or Format, optional
        Give a QuantizedArray of this format, rounded to nearest, with the largest code for 1. It is made in blocks: beside
        the codes only some MiB are needed. None: a float32 array.
    out : ndarray of float32, shape (m, n_features), optional
        Where to write float32 features, a memory-mapped file for one.

    Returns
    -------
    ndarray of float32 or QuantizedArray, shape (m, n_features)
        Computed in float32; the products are the BLAS's, so that their last bits are its own.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If X holds NaN or infinity, or an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from lowprec.features import random_fourier_features
    >>> random_fourier_features(np.eye(3), 1000, gamma=0.1, seed=1, fmt="8")
    QuantizedArray(shape=(3, 1000), format='8', scale=0.007874015748031496)
    """
    a = checks.as_2d_data(X, "X")
    n_features = checks.check_int("n_features", n_features, minimum=1)
    gamma = checks.check_finite_scalar("gamma", gamma, positive=True)
    rng = np.random.default_rng(checks.check_seed(seed))
    m, n = a.shape
    u = rng.standard_normal((n, n_features), np.float32)
    u *= np.float32(math.sqrt(2.0 * gamma))
    b = (2.0 * np.pi * rng.random(n_features)).astype(np.float32)
    if out is not None and fmt is not None:
        raise ValueError("out: is for float32 features; leave it out, or fmt")
    if out is not None and (out.shape != (m, n_features) or out.dtype != np.float32):
        raise checks.wrong_value("out", f"must be float32 of shape {(m, n_features)}", f"{out.dtype} of shape {out.shape}")
    if fmt is None:
        result: np.ndarray | QuantizedArray = np.empty((m, n_features), np.float32) if out is None else out
    else:
        fmt = as_format(fmt, "fmt")
        result = _empty(fmt, 1.0 if fmt.is_float else 1.0 / fmt.max_code, (m, n_features))
    rows = max(1, _BLOCK // n_features)
    for i in range(0, m, rows):
        part = slice(i, min(i + rows, m))
        block = a[part].astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise checks.wrong_value("X", "every value must be finite in float32", f"NaN or inf in row {i + int(bad[0])}")
        z = block @ u
        z += b
        np.cos(z, out=z)
        if isinstance(result, QuantizedArray):
            quantize(z, result.format, scale=result.scale, rounding="nearest", out=result[part])
        else:
            result[part] = z
    return result
