"""Sparse data of the paper's generative model: every cell of the matrix holds a number with probability 3 %."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowprec.checks import need_extra
from lowprec.formats import FORMATS
from lowprec.report.timing import huge_buffer

__all__ = ["DENSITY", "SparseData"]

#: The paper's.
DENSITY = 0.03


class SparseData:
    """One sparse matrix in every format: uniform numbers on [-1, 1], labels drawn with probability 1 / (1 + exp(-x.w)).

    Parameters
    ----------
    n : int
        Columns.
    n_nonzeros : int
        About how many numbers.
    seed : int

    Attributes
    ----------
    csr : scipy.sparse.csr_array of float32, with int32 columns
    y : ndarray of float32, -1 or +1
    """

    def __init__(self, n: int, n_nonzeros: int, seed: int) -> None:
        csr_array = need_extra("scipy.sparse", "learn", "sparse data").csr_array
        m = max(round(n_nonzeros / (DENSITY * n)), 2)
        rng = np.random.default_rng([seed, n, 3])
        # The cells in one line: the gaps between those that are taken are geometric.
        count = round(m * n * DENSITY)
        at = np.cumsum(rng.geometric(DENSITY, count + 5 * round(count**0.5))) - 1
        at = at[: np.searchsorted(at, m * n)]
        indptr = np.searchsorted(at, np.arange(m + 1) * n)
        values = rng.random(len(at), dtype=np.float32)
        values *= 2
        values -= 1
        self.n = n
        self.csr = csr_array((values, (at % n).astype(np.int32), indptr.astype(np.int32)), shape=(m, n))
        true = rng.uniform(-1, 1, n).astype(np.float32)
        chance = 0.5 * (1 + np.tanh(0.5 * (self.csr @ true)))
        self.y = np.where(rng.random(m, dtype=np.float32) < chance, np.float32(1), np.float32(-1))
        self._arrays: dict[tuple[str, str], Any] = {}
        self._plain: dict[str, Any] = {}

    def array(self, D: str, index: str) -> Any:
        """The matrix as a `SparseArray`, its data in huge pages."""
        if (D, index) not in self._arrays:
            import lowprec as lp

            q = lp.quantize(self.csr, D, index=index, rounding="nearest")
            parts = (_in_huge_pages(q.codes), _in_huge_pages(q.index), q.indptr)
            self._arrays[D, index] = lp.SparseArray(*parts, D, q.scale, q.shape, differences=q.differences)
        return self._arrays[D, index]

    def plain(self, D: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], float]:
        """Codes, (indptr, columns) and scale for the compiler's loops: absolute columns, as narrow as they fit."""
        if D not in self._plain:
            dtype = np.uint16 if self.n <= 2**16 else np.uint32
            scale = 1.0
            codes = self.csr.data
            if not FORMATS[D].is_float:
                scale = float(np.abs(codes).max()) / FORMATS[D].max_code
                codes = np.rint(codes / np.float32(scale)).astype(FORMATS[D].dtype)
            layout = (self.csr.indptr.astype(np.int64), _in_huge_pages(self.csr.indices.astype(dtype)))
            self._plain[D] = (_in_huge_pages(codes), layout, scale)
        return self._plain[D]


def _in_huge_pages(a: np.ndarray) -> np.ndarray:
    copy = huge_buffer(a.nbytes).view(a.dtype)
    copy[:] = a
    return copy
