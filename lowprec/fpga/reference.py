"""What a circuit computes, in Python integers: for every width, and slow. `lowprec.train_integer` is fast: 4, 8 and 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from .design import Design, as_design
from .random_words import Words
from .verilator import code_array

__all__ = ["train_codes"]


def check_codes(d: Design, x: Any, labels: Any, model: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of data, labels and start model (None: zeros), if they are such as a circuit takes."""
    x = code_array("x", x, 2, -(1 << d.D - 1), (1 << d.D - 1) - 1)
    if x.shape[1] != d.n:
        raise checks.wrong_value("x", f"must have {d.n} columns, as the circuit", x.shape[1])
    bounds = (0, 1) if d.loss == "logistic" else (-(1 << d.G - 1), (1 << d.G - 1) - 1)
    labels = code_array("labels", labels, 1, *bounds)
    checks.check_same_length("labels", labels.size, "x", len(x))
    start = code_array("model", [0] * d.n if model is None else model, 1, 1 - (1 << d.M - 1), (1 << d.M - 1) - 1)
    if start.size != d.n:
        raise checks.wrong_value("model", f"must have {d.n} codes, as the circuit has columns", start.size)
    return x, labels, start


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
    d = as_design(design)
    x, labels, start = check_codes(d, x, labels, model)
    step, passes = d.step, checks.check_int("passes", passes, minimum=1)
    # 32-bit numbers have products beyond 64 bits.
    kind = object if d.G == 32 else np.int64
    w = start.astype(np.int64).astype(kind)
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
