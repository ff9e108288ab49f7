# The names of the kernels themselves (dot_8_16, axpy_8_8_sr, ...) are made from the matrix when the module is
# built, so the stub says what kind of thing each is, not their list, which would be the matrix typed a second
# time.
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

class Kernel:
    """One row of the kernel matrix; call it with arrays of codes."""

    @property
    def name(self) -> str: ...
    @property
    def op(
        self,
    ) -> Literal["dot", "axpy", "axpy_dot", "sdot", "saxpy", "encode", "encode_feedback", "decode", "decode_add"]: ...
    @property
    def D(self) -> Literal["4", "8", "16", "32f"] | None: ...
    @property
    def M(self) -> Literal["4", "8", "16", "32f"] | None: ...
    @property
    def rounding(self) -> Literal["nearest", "sr", "srx", "srb"]: ...
    @property
    def index(self) -> Literal["8", "16", "32"] | None: ...
    @property
    def C(self) -> Literal["1", "2", "4", "8", "16", "16f", "32f"] | None: ...
    @property
    def isa(self) -> str: ...
    @property
    def runnable(self) -> bool: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

class DotKernel(Kernel):
    """``dot_D_M(x, w, n=None)``: an exact int, or a float for pairs with 32f."""

    def __call__(self, x: NDArray[Any], w: NDArray[Any], n: int | None = None) -> int | float: ...  # type: ignore[override]

class AxpyKernel(Kernel):
    """``axpy_D_M(m, x, w, n=None)``; ``_sr`` and ``_srx`` take ``seed, stream`` too, ``_srb`` ``words``."""

    def __call__(self, m: float, x: NDArray[Any], w: NDArray[Any], *args: Any, **kwargs: Any) -> None: ...  # type: ignore[override]

class AxpyDotKernel(Kernel):
    """``axpy_dot_D_M[...](m, x, w, x_next, ...)``: the axpy, then the dot of the new w with x_next."""

    def __call__(  # type: ignore[override]
        self, m: float, x: NDArray[Any], w: NDArray[Any], x_next: NDArray[Any], *args: Any, **kwargs: Any
    ) -> int | float: ...

class SdotKernel(Kernel):
    """``sdot_iI_D_M(x, index, w, differences=False)``: an exact int, or a float for pairs with 32f."""

    def __call__(  # type: ignore[override]
        self, x: NDArray[Any], index: NDArray[Any], w: NDArray[Any], differences: bool = False
    ) -> int | float: ...

class SaxpyKernel(Kernel):
    """``saxpy_iI_D_M[...](m, x, index, w, ...)``, ``...`` being ``words``, ``differences, seed, stream`` where they apply."""

    def __call__(  # type: ignore[override]
        self, m: float, x: NDArray[Any], index: NDArray[Any], w: NDArray[Any], *args: Any, **kwargs: Any
    ) -> None: ...

class CodecKernel(Kernel):
    """One function of a codec."""

class EncodeKernel(CodecKernel):
    """``encode_C[_sr](v, out, n=None, ...)`` and ``encode_feedback_C[_sr]``; ``_sr`` takes ``seed, stream`` too."""

    def __call__(  # type: ignore[override]
        self, v: NDArray[np.float32], out: NDArray[np.uint8], *args: Any, **kwargs: Any
    ) -> bool: ...

class DecodeKernel(CodecKernel):
    """``decode_C(coded, out)``, ``decode_add_C(coded, out)``."""

    def __call__(self, coded: NDArray[np.uint8], out: NDArray[np.float32]) -> None: ...  # type: ignore[override]

def coded_bytes(C: str, n: int) -> int: ...

__all__: list[str]

def __getattr__(name: str) -> Kernel: ...
def _table(isa: str | None = None) -> tuple[Kernel, ...]: ...
def _codecs(isa: str | None = None) -> tuple[CodecKernel, ...]: ...
def _isas() -> tuple[tuple[str, bool], ...]: ...
def _active_isa() -> str: ...
def _cpu_features() -> dict[str, bool]: ...
def _sparse_fault(indptr: NDArray[np.int64], index: NDArray[Any], differences: bool, n: int) -> tuple[int, int]: ...
def _rng_blocks(seed: int, stream: int, n: int) -> NDArray[np.uint64]: ...
def _rng_scalars(seed: int, stream: int, n: int) -> NDArray[np.uint64]: ...
def _mt_words(seed: int, stream: int, n: int) -> NDArray[np.uint32]: ...
def _make_step(m: float, D: str, M: str, stochastic: bool, word: int) -> tuple[int, int]: ...
def _loss_derivatives(derivative: Any, p: NDArray[np.float64], y: NDArray[np.float32]) -> NDArray[np.float64]: ...
