"""Vectors of float32 numbers as messages of few bits, with what a message left out kept for the next one."""

from __future__ import annotations

import numpy as np

from .. import checks
from .. import kernels as _core
from ..formats import ROUNDINGS, Format

__all__ = ["CODECS", "Codec"]

#: What can be sent: fixed point in 1 to 16 bits, and floating point in 16 and 32.
CODECS = tuple(dict.fromkeys(row.C for row in _core._codecs()))


class Codec:
    """Codes float32 vectors for sending, in blocks of 2,048 numbers with a scale of their own.

    2 to 16 bits: whole multiples of a level that follows from the block's largest magnitude, rounded at random (QSGD, [2]_) or to
    nearest. 1 bit: the sign, for which the mean of the block's numbers of this sign is decoded ([1]_). "16f": IEEE half
    precision, times a power of two for each block; "32f": the numbers themselves. Nothing in "1", "16f" and "32f" is random.

    Parameters
    ----------
    C : {"1", "2", "4", "8", "16", "16f", "32f"}
        What is sent for each number.
    error_feedback : bool
        Keep what a message left out, and add it to the next vector ([1]_). Levels of 2 and 4 bits are then those that leave
        least.
    rounding : {"stochastic", "nearest"}
        Of 2 to 16 bits. Without feedback only stochastic rounding is right in the mean.
    seed : int
        Of the random rounding, in [0, 2**64). Message k of two codecs with the same seed is rounded by the same numbers.

    References
    ----------
    .. [1] Seide, Fu, Droppo, Li, Yu: 1-bit stochastic gradient descent and its application to data-parallel distributed training
       of speech DNNs. Interspeech 2014.
    .. [2] Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD: communication-efficient SGD via gradient quantization and encoding.
       NIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from lowprec.communication import Codec
    >>> codec = Codec("1")
    >>> coded = codec.encode(np.array([1, 3, -4], np.float32))
    >>> codec.decode(coded, 3), codec.residual
    (array([ 2.,  2., -4.], dtype=float32), array([-1.,  1.,  0.], dtype=float32))
    >>> codec.decode(codec.encode(np.zeros(3, np.float32)), 3)
    array([-1. ,  0.5,  0.5], dtype=float32)
    """

    def __init__(
        self, C: Format | str | int, *, error_feedback: bool = True, rounding: str = "stochastic", seed: int = 0
    ) -> None:
        token = str(C) if isinstance(C, Format | int) and not isinstance(C, bool) else C
        self.C = checks.check_choice("C", token, CODECS)
        self.error_feedback = checks.check_bool("error_feedback", error_feedback)
        self.rounding = checks.check_choice("rounding", rounding, ROUNDINGS)
        self.seed = checks.check_seed(seed)
        self._messages = 0
        self._residual: np.ndarray | None = None
        op = "encode_feedback" if self.error_feedback else "encode"
        name = f"{op}_{self.C}_sr"
        self._random = rounding == "stochastic" and name in _core.__all__
        self._encode = getattr(_core, name if self._random else f"{op}_{self.C}")
        self._decode = getattr(_core, f"decode_{self.C}")
        self._decode_add = getattr(_core, f"decode_add_{self.C}")

    def __repr__(self) -> str:
        return f"Codec({self.C!r}, error_feedback={self.error_feedback}, rounding={self.rounding!r}, seed={self.seed})"

    @property
    def residual(self) -> np.ndarray | None:
        """What all messages together have left out, float32; None before the first one, and without feedback."""
        return self._residual

    def nbytes(self, n: int) -> int:
        """Bytes of a message of n numbers: ceil(n b / 8), and 4 for each level of each block."""
        return int(_core.coded_bytes(self.C, checks.check_int("n", n, minimum=0)))

    def ratio(self, n: int) -> float:
        """How many times as long n numbers are in float32 as they are coded."""
        return 4 * checks.check_int("n", n, minimum=1) / self.nbytes(n)

    def encode(self, v: np.ndarray) -> np.ndarray:
        """The message that says v, or with feedback v and what messages have left out so far.

        Parameters
        ----------
        v : ndarray of float32, shape (n,)
            With feedback n must be that of the first message. It is not changed.

        Returns
        -------
        ndarray of uint8, shape (nbytes(n),)

        Raises
        ------
        TypeError
            If v is no array of float32.
        ValueError
            If v has another shape, or a number (with what was left out) that is not finite or beyond 2**100. The codec is as
            it was before.
        """
        v = _vector(v, "v")
        if self.error_feedback:
            if self._residual is not None:
                checks.check_same_length("v", len(v), "the first vector", len(self._residual))
            v = v + self._residual if self._residual is not None else v.copy()
        coded = np.empty(self.nbytes(len(v)), np.uint8)
        draws = {"seed": self.seed, "stream": self._messages} if self._random else {}
        if not self._encode(v, coded, **draws):
            raise ValueError("v: every number must be finite and at most 2**100 in size; got one that is not")
        self._messages += 1
        if self.error_feedback:
            self._residual = v
        return coded

    def decode(self, coded: np.ndarray, n: int) -> np.ndarray:
        """The n numbers of a message, float32."""
        out = np.empty(checks.check_int("n", n, minimum=0), np.float32)
        self._decode(coded, out)
        return out

    def decode_add(self, coded: np.ndarray, out: np.ndarray) -> None:
        """Add the numbers of a message to a float32 array in place."""
        self._decode_add(coded, out)


def _vector(v: np.ndarray, name: str) -> np.ndarray:
    """A one-dimensional contiguous array of float32."""
    if not isinstance(v, np.ndarray) or v.dtype != np.float32:
        raise checks.wrong_type(name, "an array of float32", v)
    if v.ndim != 1:
        raise checks.wrong_value(name, "must be one-dimensional", f"shape {v.shape}")
    return np.ascontiguousarray(v)
