"""Products of small integers: activation codes times packed weights, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _network, checks
from .runtime import effective_n_threads

__all__ = ["GEMM_BITS", "PackedWeights", "gemm", "pack_weights"]

#: Bits of activations and of weights: every pair has a kernel of its own.
GEMM_BITS = (1, 2, 4, 8)


class PackedWeights:
    """Weights of a matrix product, packed once. Made by `pack_weights`.

    Attributes
    ----------
    bits : int
        Of each weight.
    shape : tuple
        (N, K): outputs, and numbers of each.
    """

    def __init__(self, codes: np.ndarray, bits: int):
        self.bits = bits
        self.shape: tuple[int, int] = codes.shape
        self._codes = codes
        self._packed: dict[int, _network.Packed] = {}

    def __repr__(self) -> str:
        return f"PackedWeights(shape={self.shape}, bits={self.bits})"

    def packed_for(self, activation_bits: int) -> _network.Packed:
        """The weights as the kernel for activations of so many bits reads them; packed at the first call, and kept."""
        if activation_bits not in self._packed:
            self._packed[activation_bits] = _network.Packed(self._codes, activation_bits, self.bits)
        return self._packed[activation_bits]

    def nbytes(self, activation_bits: int) -> int:
        """Bytes of the packed weights: K and N rounded up to whole tiles, `bits` for each."""
        return self.packed_for(_check_bits("activation_bits", activation_bits)).nbytes


def _check_bits(name: str, bits: Any) -> int:
    value = checks.check_int(name, bits)
    if value not in GEMM_BITS:
        raise checks.wrong_value(name, f"must be one of {', '.join(map(str, GEMM_BITS))}", value)
    return value


def _depth(activation_bits: int, weight_bits: int) -> int:
    """Numbers of a row up to which no int32 sum can overflow."""
    return (2**31 - 1) // ((2**activation_bits - 1) * max(1, 2 ** (weight_bits - 1) - 1))


def _codes(name: str, value: Any, dtype: type, ndim: int = 2) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != dtype:
        raise checks.wrong_type(name, f"an array of {np.dtype(dtype).name}", value)
    if array.ndim != ndim:
        raise checks.wrong_value(name, "must be two-dimensional", f"shape {array.shape}")
    return array


def pack_weights(codes: Any, bits: int) -> PackedWeights:
    """Pack the weights of a matrix product.

    Parameters
    ----------
    codes : array of int8, shape (N, K)
        One row for each output. One bit: -1 or 1; more bits: within +-(2**(bits - 1) - 1). They are copied.
    bits : {1, 2, 4, 8}

    Returns
    -------
    PackedWeights
        For `gemm`, with activations of any bits. Each kernel has a layout of its own, which is made when it is first used.

    Raises
    ------
    TypeError, ValueError
        For other dtypes, shapes, codes or bits.

    Examples
    --------
    >>> import lowprec as lp, numpy as np
    >>> weights = lp.pack_weights(np.array([[1, -1, 0, 1], [-1, -1, 1, 0]], np.int8), bits=2)
    >>> lp.gemm(np.array([[3, 0, 2, 1]], np.uint8), weights, bits=2)
    array([[ 4, -1]], dtype=int32)
    """
    bits = _check_bits("bits", bits)
    array = np.array(_codes("codes", codes, np.int8), order="C")
    most = max(1, 2 ** (bits - 1) - 1)
    wrong = (array < -most) | (array > most) if bits > 1 else (array != 1) & (array != -1)
    if wrong.any():
        rule = f"of {bits} bits lie in [-{most}, {most}]" if bits > 1 else "of 1 bit are -1 or 1"
        raise checks.wrong_value("codes", rule, int(array[wrong][0]))
    return PackedWeights(array, bits)


def gemm(a: Any, weights: PackedWeights, bits: int, *, n_threads: int | None = 1) -> np.ndarray:
    """Multiply activation codes by packed weights: a @ codes.T, exactly.

    Parameters
    ----------
    a : array of uint8, shape (M, K)
        Activation codes, each in [0, 2**bits - 1]. Rows may be strided.
    weights : PackedWeights
        Of shape (N, K).
    bits : {1, 2, 4, 8}
        Of the activations.
    n_threads : int, optional
        None: as many as this process may use. The result does not depend on it.

    Returns
    -------
    ndarray of int32, shape (M, N)

    Raises
    ------
    TypeError, ValueError
        For other dtypes and shapes, a code beyond `bits`, and for a K so long that a sum could leave int32: that is above
        (2**31 - 1) / ((2**bits - 1) * (2**(weights.bits - 1) - 1)), which of 8 x 8 bits is 66,311.
    """
    bits = _check_bits("bits", bits)
    if not isinstance(weights, PackedWeights):
        raise checks.wrong_type("weights", "PackedWeights (made by lowprec.pack_weights)", weights)
    array = _codes("a", a, np.uint8)
    if array.shape[1] != weights.shape[1]:
        raise checks.wrong_value(
            "a", f"must have shape (M, {weights.shape[1]}), for weights of shape {weights.shape}", f"shape {array.shape}"
        )
    longest = _depth(bits, weights.bits)
    if array.shape[1] > longest:
        rule = f"may have {longest} columns at most ({bits} x {weights.bits} bits), or sums could leave int32"
        raise checks.wrong_value("a", rule, array.shape[1])
    if array.shape[1] > 1 and array.strides[1] != 1:
        array = np.ascontiguousarray(array)
    result = weights.packed_for(bits).multiply(array, effective_n_threads(n_threads))
    if result is None:
        raise checks.wrong_value("a", f"codes of {bits} bits lie in [0, {2**bits - 1}]", int(array.max()))
    return result
