"""The paper's performance model: De Sa et al., ISCA 2017, Section 4, Eq. 2 and 3.

    T_t = T_1 / ((1 - p) + p / t)          Eq. 2: Amdahl's law over t threads
    p   = min(cap, slope * ln(n / 256))    Eq. 3, at least 0

T_1, the throughput of one thread, depends on the signature alone, p on the model size n alone. The paper prints cap = 0.98 and
slope = 0.15; the lines of its Fig 3 are drawn with cap = 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lowprec.checks import check_finite_scalar, check_int, wrong_value
from lowprec.perfmodel.points import Point, check_question
from lowprec.signature import Signature

__all__ = ["CAP", "PRINTED_CAP", "SLOPE", "PaperModel", "fit_paper", "parallel_fraction", "speedup"]

#: The cap that Fig 3 is drawn with, the one that Eq. 3 has in print, and the slope of both.
CAP, PRINTED_CAP, SLOPE = 0.95, 0.98, 0.15


def parallel_fraction(n: int, cap: float = CAP, slope: float = SLOPE) -> float:
    """Eq. 3: the share of the work that threads divide among themselves.

    Parameters
    ----------
    n : int
        Model size.
    cap, slope : float
        Constants of Eq. 3.

    Returns
    -------
    float
        0 for n <= 256, where the formula would be negative.
    """
    return max(0.0, min(cap, slope * math.log(check_int("n", n, minimum=1) / 256)))


def speedup(p: float, threads: int) -> float:
    """Eq. 2: T_t / T_1.

    Parameters
    ----------
    p : float
        The parallel share of the work, see `parallel_fraction`.
    threads : int

    Returns
    -------
    float
        From 1 to `threads`.
    """
    if not 0 <= check_finite_scalar("p", p) <= 1:
        raise wrong_value("p", "must lie in [0, 1]", p)
    return 1 / ((1 - p) + p / check_int("threads", threads, minimum=1))


@dataclass(frozen=True)
class PaperModel:
    """Eq. 2 and 3 with their constants.

    Parameters
    ----------
    base : mapping of str to float
        T_1 in GNPS, by signature.
    cap, slope : float
    """

    base: Mapping[str, float]
    cap: float = CAP
    slope: float = SLOPE

    def __post_init__(self) -> None:
        for signature, gnps in self.base.items():
            Signature(signature)
            check_finite_scalar(f"base: {signature}", gnps, positive=True)
        if not 0 <= check_finite_scalar("cap", self.cap) <= 1:
            raise wrong_value("cap", "must lie in [0, 1]", self.cap)
        check_finite_scalar("slope", self.slope, nonnegative=True)

    def predict(self, signature: str | Signature, n: int, threads: int = 1) -> float:
        """GNPS of all threads.

        Parameters
        ----------
        signature : str or Signature
        n : int
            Model size.
        threads : int

        Returns
        -------
        float

        Raises
        ------
        ValueError
            For a signature without T_1, n < 1 or threads < 1.
        """
        name, n, threads = check_question(signature, n, threads)
        if name not in self.base:
            raise wrong_value("signature", f"calibrated are {', '.join(self.base)}", name)
        return self.base[name] * speedup(parallel_fraction(n, self.cap, self.slope), threads)


def fit_paper(points: Sequence[Point]) -> PaperModel:
    """Fit Eq. 2 and 3 to measured points.

    T_1 of a signature is the geometric median of its points with one thread. cap and slope make the sum of
    abs(log(predicted / measured)) over the points with several threads least; where there are none they are the paper's.

    Parameters
    ----------
    points : sequence of Point
        Of every signature at least one with one thread.

    Returns
    -------
    PaperModel

    Raises
    ------
    ValueError
        If a signature has no point with one thread.
    """
    base = {}
    for name in dict.fromkeys(p.signature for p in points):
        alone = [p.gnps for p in points if p.signature == name and p.threads == 1]
        if not alone:
            raise ValueError(f"points: {name} has none with one thread, and so no T_1")
        base[name] = math.exp(float(np.median(np.log(alone))))
    many = [p for p in points if p.threads > 1]
    if not many:
        return PaperModel(base)
    logs = np.log([p.n / 256 for p in many])
    threads = np.array([p.threads for p in many], dtype=float)
    target = np.log([p.gnps / base[p.signature] for p in many])

    def loss(cap: np.ndarray, slope: np.ndarray) -> np.ndarray:
        share = np.clip(slope[:, None, None] * logs, 0.0, cap[None, :, None])
        return np.abs(-np.log(1 - share + share / threads) - target).sum(axis=2)

    # The least over a grid, then over finer ones about it: the sum has kinks that a descent would be caught in.
    cap, slope, width = 0.5, 0.5, 0.5
    for _ in range(12):
        caps = np.unique(np.clip(np.linspace(cap - width, cap + width, 41), 0, 1))
        slopes = np.unique(np.clip(np.linspace(slope - width, slope + width, 41), 0, 1))
        found = loss(caps, slopes)
        at = np.unravel_index(np.argmin(found), found.shape)
        slope, cap, width = float(slopes[at[0]]), float(caps[at[1]]), width / 3
    return PaperModel(base, cap, slope)
