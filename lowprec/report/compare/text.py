"""The training rows as Vowpal Wabbit's text, fast: numbers of one width, looked up and not printed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.checks import wrong_value

__all__ = ["write_text"]

#: Significant digits of the largest number.
_DIGITS = 5

#: Bytes that are put together at once.
_BLOCK = 1 << 26


def write_text(path: Path, X: Any, y: np.ndarray) -> None:
    """Write examples as ``LABEL | COLUMN:VALUE ...``.

    Values are rounded to the fifth digit of the largest one, far finer than 8 bits. Zeros of sparse rows are left out.

    Parameters
    ----------
    path : Path
    X : ndarray of shape (m, n) or csr_matrix
    y : array of shape (m,)
        Labels.
    """
    sparse = hasattr(X, "tocsr")
    numbers = X.data if sparse else X
    largest = max((float(np.abs(part).max()) for part in _pieces(numbers)), default=0.0) or 1.0
    if not math.isfinite(largest):
        raise wrong_value("X", "every value must be finite", largest)
    decimals = max(0, _DIGITS - 1 - math.floor(math.log10(largest)))
    top = round(largest * 10**decimals) + 1
    values = _table([f"{k / 10**decimals:.{decimals}f}" for k in range(-top, top + 1)])
    columns = _table([f"{j:0{len(str(X.shape[1] - 1))}d}" for j in range(X.shape[1])])
    item = 2 + columns.shape[1] + values.shape[1]  # space, column, colon, value
    rows = max(1, _BLOCK // (item * X.shape[1]))
    with open(path, "wb") as file:
        for i in range(0, X.shape[0], rows):
            part = X[i : i + rows]
            which = part.indices if sparse else np.tile(np.arange(X.shape[1]), part.shape[0])
            codes = np.rint((part.data if sparse else part.reshape(-1)) * 10**decimals).astype(np.int64) + top
            text = np.empty((len(codes), item), np.uint8)
            text[:, 0] = ord(" ")
            text[:, 1 : 1 + columns.shape[1]] = columns[which]
            text[:, 1 + columns.shape[1]] = ord(":")
            text[:, 2 + columns.shape[1] :] = values[codes]
            ends = part.indptr if sparse else np.arange(part.shape[0] + 1) * X.shape[1]
            for k in range(part.shape[0]):
                file.write(f"{y[i + k]:g} |".encode())
                file.write(text[ends[k] : ends[k + 1]].data)
                file.write(b"\n")


def _pieces(a: np.ndarray) -> Any:
    flat = a.reshape(-1)
    return (flat[i : i + (1 << 22)] for i in range(0, len(flat), 1 << 22))


def _table(words: list[str]) -> np.ndarray:
    """Words as rows of bytes of one width, blanks behind: they are separators anyway."""
    width = max(map(len, words))
    return np.frombuffer("".join(word.ljust(width) for word in words).encode(), np.uint8).reshape(len(words), width)
