from typing import Any

import numpy as np
from numpy.typing import NDArray

RISING: int
UNSORTED: int
OUTSIDE: int

def scan(indptr: NDArray[np.int64], columns: NDArray[Any], n: int) -> tuple[int, int, tuple[int, int, int]]: ...
def encode(
    indptr: NDArray[np.int64],
    columns: NDArray[Any],
    codes: NDArray[Any],
    differences: bool,
    stored: NDArray[np.int64],
    index: NDArray[Any],
    out: NDArray[Any],
) -> None: ...
def decode(indptr: NDArray[np.int64], index: NDArray[Any], differences: bool, columns: NDArray[Any]) -> None: ...
def pack4(indptr: NDArray[np.int64], codes: NDArray[np.uint8], packed: NDArray[np.uint8]) -> None: ...
def unpack4(indptr: NDArray[np.int64], packed: NDArray[np.uint8], codes: NDArray[np.int8]) -> None: ...
