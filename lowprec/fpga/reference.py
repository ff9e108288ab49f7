"""What a circuit computes, in Python integers: for every width, and slow. `lowprec.train_integer` is fast: 4, 8 and 16 bits."""

from __future__ import annotations

import numpy as np

from .design import Design
from .random_words import Words

__all__ = ["train_codes"]


def train_codes(
    design: Design, x: np.ndarray, labels: np.ndarray, model: np.ndarray | None = None, passes: int = 1
) -> np.ndarray:
    """The model after `passes` passes over the rows, and the pending update made.

    Parameters
    ----------
    design : Design
    x : ndarray of int, shape (m, n)
        Codes of the data.
    labels : ndarray of int, shape (m,)
        Codes of the labels, 0 or 1 with the logistic loss.
    model : ndarray of int, shape (n,), optional
        Codes to start from. None: zeros.
    passes : int

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    d, step = design, design.step
    # 32-bit numbers have products beyond 64 bits.
    kind = object if d.G == 32 else np.int64
    w = np.zeros(d.n, kind)
    if model is not None:
        w[:] = np.asarray(model, np.int64)
    rows, targets = np.asarray(x).astype(kind), np.asarray(labels, np.int64)
    words, limit = Words(d.source, d.G, d.seed), (1 << d.M - 1) - 1
    pending = None

    def write(batch: np.ndarray, mu: np.ndarray) -> None:
        if np.any(mu != 0):
            change = ((mu @ batch << step.exponent) + words.of(d.n).astype(kind)) >> d.G
            w[:] = np.clip(w + change, -limit, limit)

    for _ in range(passes):
        for k in range(0, len(rows), d.batch_size):
            batch = rows[k : k + d.batch_size]
            # One example at a time: labels with a large shift are beyond 64 bits, with every G.
            products, codes = (batch @ w).tolist(), targets[k : k + d.batch_size].tolist()
            mu = np.array([step.mu(step.error(z, label)) for z, label in zip(products, codes, strict=True)], kind)
            if d.stages == 2:
                write(batch, mu)
            else:
                if pending is not None:
                    write(*pending)
                pending = batch, mu
    if pending is not None:
        write(*pending)
    return w.astype(np.int64)
