from typing import Any

import numpy as np
from numpy.typing import NDArray

def openmp_enabled() -> bool: ...
def max_threads() -> int: ...

class Sgd:
    """One training run over borrowed buffers; driven in blocks by ``lowprec.sgd``."""

    def __init__(
        self,
        x: NDArray[np.uint8],
        row_stride: int,
        n_rows: int,
        n_features: int,
        D: str,
        M: str,
        random: str,
        model: NDArray[np.uint8],
        y: NDArray[np.float32],
        *,
        loss: str,
        step: float,
        data_scale: float,
        model_scale: float,
        seed: int = 0,
        refresh: int = 1,
        n_threads: int = 1,
        order: NDArray[np.int64] | None = None,
        weight: NDArray[np.float32] | None = None,
        intercept: float | None = None,
        intercept_step: float = 0.0,
        isa: str | None = None,
        sparse: tuple[NDArray[np.int64], NDArray[Any], bool] | None = None,
    ) -> None: ...
    def run(self, first: int, last: int) -> int: ...
    def flush(self) -> None: ...
    def at_limit(self) -> int: ...
    def widen(self) -> None: ...
    def set_order(self, order: NDArray[np.int64] | None) -> None: ...
    @property
    def model_scale(self) -> float: ...
    @property
    def intercept(self) -> float: ...
    @property
    def n_threads(self) -> int: ...
