"""How many instructions our kernels take, counted one by one: what computing costs in a simulated machine.

Each instruction of the compiled modules that a call executes is counted, as the processor executes it. What Python does between
is not, and what a call does once is the same whatever the number of examples, so it falls out of differences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lowprec.cachesim import Instructions

__all__ = ["SIGNATURES", "count", "counted"]

#: What is counted, and shipped in lowprec/cachesim/instructions.json.
SIGNATURES = ("D4M4", "D8M8", "D8M16", "D16M16", "D32fM32f", "D8i8M8", "D8i16M8", "D16i16M16", "D32fi32M32f")

#: Lengths of rows: multiples of what every loop is unrolled to. Of sparse data, so many entries, in rows with a gap of 32.
_SHORT, _LONG, _GAP = 1024, 2048, 8

#: Examples of the longer and of the shorter run.
_ROWS, _FEW = 8, 4


def _ranges() -> list[tuple[int, int]]:
    """Where the compiled kernels are in memory."""
    import lowprec._sgd
    import lowprec.kernels

    files = {str(Path(module.__file__).resolve()) for module in (lowprec._sgd, lowprec.kernels)}
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5] in files:
            first, last = fields[0].split("-")
            found.append((int(first, 16), int(last, 16)))
    return found


def count(call: Any) -> int | None:
    """Instructions of the compiled kernels that ``call()`` executes; None where they cannot be counted."""
    from lowprec.report import _instructions

    if not Path("/proc/self/maps").exists():
        return None
    call()  # what is done once only, is done now
    return _instructions.count(call, _ranges())


def _training(signature: str, n: int) -> Any:
    """The compiled training loop on rows of n numbers (sparse: n entries each)."""
    import lowprec as lp
    from lowprec._sgd import Sgd
    from lowprec.datasets import generative

    s = lp.Signature(signature)
    D, M = str(s.dataset), str(s.model)
    X, y, _ = generative(n, _ROWS, 0, fmt=D)
    more, width, stride, x = {}, n, X.row_stride, X.buffer
    if s.index is not None:
        sparse = _sparse_rows(X, str(s.index))
        more["sparse"] = sparse.indptr, sparse.index, sparse.differences
        width, stride, x = sparse.shape[1], 0, sparse.codes.view(np.uint8)
    w = lp.quantize(np.zeros(width, np.float32), M, scale=0.0 if M == "32f" else 0.01) if M != "32f" else None
    model = np.zeros(4 * width, np.uint8) if w is None else w.buffer
    return Sgd(
        x, stride, _ROWS, width, D, M, "shared", model, y.astype(np.float32), loss="logistic", step=0.5 / n,
        data_scale=X.scale, model_scale=1.0 if w is None else 0.01, seed=1, **more,
    )  # fmt: skip


def _sparse_rows(X: Any, index: str) -> Any:
    """Rows whose entries are a dense array's, `_GAP` columns apart."""
    import scipy.sparse

    import lowprec as lp

    m, n = X.shape
    codes = lp.dequantize(X)
    columns = np.tile(np.arange(n) * _GAP, m)
    csr = scipy.sparse.csr_matrix((codes.ravel() + 2.0, columns, np.arange(m + 1) * n), shape=(m, n * _GAP))
    return lp.quantize(csr, X.format, index=index)


def _slope(signature: str, call: Any, lengths: tuple[int, int]) -> float:
    """Instructions for a number: the difference of two lengths."""
    counts = [count(call(n)) for n in lengths]
    return (counts[1] - counts[0]) / (lengths[1] - lengths[0])


def counted(signature: str) -> Instructions | None:
    """Count a signature's instructions on this machine, with the kernels in use.

    Parameters
    ----------
    signature : str
        Dense, or sparse (with an index).

    Returns
    -------
    Instructions or None
        None where they cannot be counted: Linux on x86-64 can.
    """
    import lowprec as lp
    from lowprec import kernels

    s = lp.Signature(signature)
    D, M = str(s.dataset), str(s.model)

    per_example = []
    for n in (_SHORT, _LONG):
        sgd = _training(signature, n)
        few, many = (count(lambda k=k: sgd.run(0, k)) for k in (_FEW, _ROWS))  # noqa: B023 (called at once)
        if few is None or many is None:
            return None
        per_example.append((many - few) / (_ROWS - _FEW))
    fused = (per_example[1] - per_example[0]) / (_LONG - _SHORT)
    example = per_example[0] - fused * _SHORT

    rng = np.random.default_rng(0)

    def row(fmt: str, n: int) -> np.ndarray:
        return lp.quantize(rng.uniform(-1, 1, n).astype(np.float32), fmt).codes if fmt != "32f" else rng.random(n, np.float32)

    def product(n: int) -> Any:
        x, w = row(D, n), row(M, n * (_GAP if s.index is not None else 1))
        if s.index is None:
            dot = getattr(kernels, f"dot_{D}_{M}")
            return (lambda: dot(x, w, n)) if "4" in (D, M) else lambda: dot(x, w)
        index = np.full(n, _GAP, f"uint{s.index.bits}")
        index[0] = 1
        sdot = getattr(kernels, f"sdot_i{s.index.bits}_{D}_{M}")
        return lambda: sdot(x, index, w, differences=True)

    dot = _slope(signature, product, (_SHORT, _LONG))
    if s.index is not None:
        return Instructions(example, dot, fused - dot, fused)

    def update(n: int) -> Any:
        axpy = getattr(kernels, f"axpy_{D}_{M}" + ("" if M == "32f" else "_sr"))
        x, w = row(D, n), row(M, n).copy()
        return (lambda: axpy(0.01, x, w, n)) if "4" in (D, M) else lambda: axpy(0.01, x, w)

    return Instructions(example, dot, _slope(signature, update, (_SHORT, _LONG)), fused)
