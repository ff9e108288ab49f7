from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARENA_BYTES: int
MOST_IMAGES: int

def kernels(isa: str | None = None) -> list[tuple[int, int, int, int]]: ...

class Packed:
    """Weights, packed for one kernel."""

    outputs: int
    numbers: int
    def __init__(
        self, weights: NDArray[np.int8] | NDArray[np.float32], activation_bits: int, weight_bits: int, isa: str | None = None
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def multiply(self, a: NDArray[np.uint8] | NDArray[np.float32], n_threads: int = 1) -> NDArray[Any] | None: ...

class Program:
    """A network, planned and packed."""

    def __init__(
        self, layers: Iterable[Any], shapes: Mapping[str, tuple[int, int, int, int | None]], isa: str | None = None
    ) -> None: ...
    @property
    def chunk(self) -> int: ...
    @property
    def arena_nbytes(self) -> int: ...
    def run(self, x: NDArray[np.float32], n_threads: int = 1) -> NDArray[np.float32]: ...
    def run_all(self, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]: ...
    def run_layer(self, name: str, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any] | None, NDArray[Any]]: ...
