"""Number formats and roundings: small frozen records that every other room speaks in.

A *format* says how one number is stored. Its token is how it is spelled everywhere: ``"8"`` is 8-bit fixed
point (an integer code times a scale), ``"32f"`` is 32-bit floating point. Any width can be written down,
because a signature may name any width; the four in `FORMATS` are those that the kernels store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["FORMATS", "RANDOM_SOURCES", "ROUNDINGS", "Format", "Rounding", "as_format"]

# ASCII digits only: int() would also take digits of other scripts, and str() would not give them back.
_TOKEN = re.compile(r"([1-9][0-9]{0,5})(f?)", re.ASCII)

_FLOAT_DTYPES = {16: np.float16, 32: np.float32, 64: np.float64}


@dataclass(frozen=True, order=True)
class Format:
    """How one number is stored.

    Parameters
    ----------
    bits : int
        Width in bits.
    is_float : bool
        Floating point if true, otherwise fixed point: an integer code times a scale.

    Examples
    --------
    >>> from lowprec.formats import FORMATS
    >>> FORMATS["4"].max_code, FORMATS["4"].row_bytes(5), str(FORMATS["32f"])
    (7, 3, '32f')
    """

    bits: int
    is_float: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise TypeError(f"Format: bits must be an int; got {type(self.bits).__name__}")
        if not 1 <= self.bits <= 999_999:
            raise ValueError(f"Format: bits must lie in 1..999999; got {self.bits}")
        if not isinstance(self.is_float, bool):
            raise TypeError(f"Format: is_float must be a bool; got {type(self.is_float).__name__}")

    @property
    def token(self) -> str:
        """The width, with ``f`` behind it for floating point: ``"8"``, ``"32f"``."""
        return f"{self.bits}f" if self.is_float else str(self.bits)

    def __str__(self) -> str:
        return self.token

    @property
    def max_code(self) -> int:
        """Largest code that is written: ``2**(bits - 1) - 1``, and 1 for 1-bit codes (-1, +1)."""
        if self.is_float:
            raise ValueError(f"Format: {self.token} is floating point, it has no codes")
        return max(2 ** (self.bits - 1) - 1, 1)

    @property
    def dtype(self) -> np.dtype:
        """NumPy type of the stored array; ``uint8`` where several codes share a byte (format 4)."""
        if self.is_float and self.bits in _FLOAT_DTYPES:
            return np.dtype(_FLOAT_DTYPES[self.bits])
        if not self.is_float and self.bits == 4:
            return np.dtype(np.uint8)
        if not self.is_float and self.bits in (8, 16, 32, 64):
            return np.dtype(f"int{self.bits}")
        raise ValueError(
            f"Format: {self.token} has no array type; formats with one include {', '.join(FORMATS)}"
        )

    @property
    def packed(self) -> bool:
        """Whether several codes share one byte."""
        return self.bits < 8

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of `n` numbers; a row starts on a byte, so the last byte may be partly unused."""
        return (n * self.bits + 7) // 8

    def describe(self) -> str:
        """The format in words: ``"8-bit fixed point"``."""
        return f"{self.bits}-bit {'floating' if self.is_float else 'fixed'} point"


#: The formats that arrays can have, by token.
FORMATS: dict[str, Format] = {f.token: f for f in (Format(4), Format(8), Format(16), Format(32, True))}


def as_format(value: Format | str | int, name: str = "format") -> Format:
    """The storable `Format` that `value` names.

    Parameters
    ----------
    value : Format, str or int
        A format, its token, or, for fixed point, its width as a number.
    name : str
        What the argument is called, for the error text.
    """
    options = ", ".join(FORMATS)
    if isinstance(value, Format):
        token = value.token
    elif isinstance(value, str):
        token = value
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        token = str(int(value))
    else:
        raise TypeError(
            f"{name}: expected a Format or one of the tokens {{{options}}}; got {type(value).__name__}"
        )
    if token not in FORMATS:
        raise ValueError(f"{name}: choose one of {{{options}}}; got {token!r}")
    return FORMATS[token]


def parse_token(token: str) -> Format:
    """The `Format` of any width that `token` spells, storable or not."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError(
            f"format: expected a width in bits, with 'f' behind it for floating point; got {token!r}"
        )
    return Format(int(match[1]), bool(match[2]))


#: What `rounding` may be.
ROUNDINGS = ("nearest", "stochastic")

#: Where the random words of a stochastic rounding come from, and the suffix of the kernel that takes them.
RANDOM_SOURCES = {"shared": "_sr", "xorshift": "_srx", "mt19937": "_srb"}


@dataclass(frozen=True)
class Rounding:
    """How a model number is rounded when it is written.

    Parameters
    ----------
    kind : {"nearest", "stochastic"}
        Biased (half up) or unbiased.
    random : {"shared", "xorshift", "mt19937"}
        Source of the random words; has no effect for ``"nearest"``.
    """

    kind: str = "stochastic"
    random: str = "shared"

    def __post_init__(self) -> None:
        if self.kind not in ROUNDINGS:
            raise ValueError(f"rounding: choose one of {{{', '.join(ROUNDINGS)}}}; got {self.kind!r}")
        if self.random not in RANDOM_SOURCES:
            raise ValueError(f"random: choose one of {{{', '.join(RANDOM_SOURCES)}}}; got {self.random!r}")

    @property
    def source(self) -> str:
        """One word for both: ``"nearest"``, or the random source."""
        return self.kind if self.kind == "nearest" else self.random

    @property
    def suffix(self) -> str:
        """Suffix of the kernel's name: ``""``, ``"_sr"``, ``"_srx"`` or ``"_srb"``."""
        return "" if self.kind == "nearest" else RANDOM_SOURCES[self.random]

    def suffix_for(self, model: Format) -> str:
        """The suffix where the model has format `model`: a floating-point model is not rounded to codes."""
        return "" if model.is_float else self.suffix
