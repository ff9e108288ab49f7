"""Features made of others: random Fourier features."""

from __future__ import annotations

import math

import numpy as np

from lowprec.checks import as_2d_data, check_finite_scalar, check_int, check_seed, wrong_value

__all__ = ["random_fourier_features"]

#: Numbers of the result that are computed at once: a few MiB.
_BLOCK = 1 << 22


def random_fourier_features(
    X: np.ndarray, n_features: int, *, gamma: float, seed: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Features whose inner products approximate the kernel exp(-gamma ||x - y||^2) (Rahimi and Recht, NIPS 2007).

    z_j(x) = sqrt(2 / n_features) cos(w_j . x + b_j), with w_j normal of variance 2 gamma in each coordinate and b_j uniform in
    [0, 2 pi).

    Parameters
    ----------
    X : array_like of shape (m, d)
        Real numbers.
    n_features : int
    gamma : float
    seed : int
        Of w and b, in [0, 2**64): the same seed gives training and test rows the same features.
    out : ndarray of float32, shape (m, n_features), optional
        Where to write, a memory-mapped file too.

    Returns
    -------
    ndarray of float32, shape (m, n_features)
        `out`, if it was given. Values lie in [-1, 1] times sqrt(2 / n_features).

    Examples
    --------
    >>> import numpy as np
    >>> from lowprec.report.features import random_fourier_features
    >>> Z = random_fourier_features(np.zeros((2, 3)), 4096, gamma=1.0, seed=0)
    >>> Z.shape, bool(abs(Z[0] @ Z[1] - 1) < 0.1)
    ((2, 4096), True)
    """
    X = as_2d_data(X)
    n = check_int("n_features", n_features, minimum=1)
    gamma = check_finite_scalar("gamma", gamma, positive=True)
    rng = np.random.default_rng(check_seed(seed))
    m, d = X.shape
    W = rng.standard_normal((d, n), np.float32) * np.float32(math.sqrt(2 * gamma))
    b = (rng.random(n, np.float32) * np.float32(2 * math.pi)).astype(np.float32)
    if out is None:
        out = np.empty((m, n), np.float32)
    elif out.shape != (m, n) or out.dtype != np.float32:
        raise wrong_value("out", f"must be float32 of shape {(m, n)}", f"{out.dtype} of shape {out.shape}")
    rows = max(1, _BLOCK // n)
    for i in range(0, m, rows):
        block = X[i : i + rows].astype(np.float32) @ W
        block += b
        np.cos(block, out=block)
        block *= np.float32(math.sqrt(2 / n))
        out[i : i + rows] = block
    return out
