from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP_ROWS: int
PAST_CACHE_BYTES: int

def _isas() -> tuple[str, ...]: ...
def _active_isa() -> str: ...

class Quantizer:
    """Quantizes the rows of one array, in as many calls as it pleases the caller."""

    clipped: int
    def __init__(
        self,
        bits: int,
        stochastic: bool,
        seed: int = 0,
        stream0: int = 0,
        isa: str | None = None,
        past_cache: bool = False,
    ) -> None: ...
    def rows(
        self,
        a: NDArray[np.float32] | NDArray[np.float64],
        codes: NDArray[np.uint8],
        row_stride: int,
        inv_scale: float | NDArray[Any],
        continues: bool = False,
    ) -> int: ...

def quantize_rows(
    a: NDArray[np.float32] | NDArray[np.float64],
    codes: NDArray[np.uint8],
    row_stride: int,
    bits: int,
    inv_scale: float | NDArray[Any],
    stochastic: bool,
    seed: int = 0,
    stream0: int = 0,
    isa: str | None = None,
) -> tuple[int, int]: ...
def dequantize_rows(
    codes: NDArray[np.uint8],
    row_stride: int,
    n_rows: int,
    n: int,
    bits: int,
    scale: float | NDArray[np.float64],
    out: NDArray[np.float32] | NDArray[np.float64],
    isa: str | None = None,
) -> None: ...
def pack4_rows(codes: NDArray[np.int8], packed: NDArray[np.uint8], row_stride: int) -> int: ...
def unpack4_rows(packed: NDArray[np.uint8], row_stride: int, codes: NDArray[np.int8]) -> None: ...
