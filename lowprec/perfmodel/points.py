"""Measured points, how they are split into halves, and how a model is scored on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowprec.checks import check_finite_scalar, check_int, wrong_value
from lowprec.signature import Signature

__all__ = ["Point", "Score", "alternate", "check_density", "check_question", "score"]


def check_question(signature: str | Signature, n: int, threads: int) -> tuple[str, int, int]:
    """What a model is asked: the signature as it is written, a model size and a number of threads, both at least 1."""
    return str(Signature(signature)), check_int("n", n, minimum=1), check_int("threads", threads, minimum=1)


def check_density(density: float) -> float:
    """The share of the dataset numbers that are stored: above 0, at most 1."""
    if not 0 < check_finite_scalar("density", density) <= 1:
        raise wrong_value("density", "must lie in (0, 1]", density)
    return float(density)


@dataclass(frozen=True)
class Point:
    """A throughput that was measured.

    Parameters
    ----------
    signature : str
        For example ``"D8M16"``, ``"D8i8M8"``.
    n : int
        Model size.
    threads : int
    gnps : float
        10^9 dataset numbers a second, of all threads together; of sparse data, nonzeros.
    density : float
        Share of the dataset numbers that are stored: 1 for dense data.
    """

    signature: str
    n: int
    threads: int
    gnps: float
    density: float = 1.0

    def __post_init__(self) -> None:
        check_question(self.signature, self.n, self.threads)
        check_finite_scalar("gnps", self.gnps, positive=True)
        check_density(self.density)


def alternate(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Two halves of the points by model size: of each signature every other n, the smallest one first, and the rest.

    Signatures may have been measured at different sizes, in pieces: counted for each by itself, none is without a fitted point.

    Parameters
    ----------
    points : sequence of Point

    Returns
    -------
    tuple of list of Point
        The half to fit on, and the half to score on. Of a signature with one n alone nothing is in the second.
    """
    sizes: dict[str, set[int]] = {}
    for p in points:
        sizes.setdefault(p.signature, set()).add(p.n)
    fitted = {name: set(sorted(found)[::2]) for name, found in sizes.items()}
    return [p for p in points if p.n in fitted[p.signature]], [p for p in points if p.n not in fitted[p.signature]]


@dataclass(frozen=True)
class Score:
    """How well predictions met measurements.

    Attributes
    ----------
    points : int
    within_25, within_50 : float
        Share of the points for which abs(predicted - measured) is at most 25 or 50 % of measured.
    mean_error : float
        Mean of abs(predicted - measured) / measured.
    typical_ratio : float
        exp of the mean of abs(log(predicted / measured)): 1.2 is a factor of 1.2 either way.
    """

    points: int
    within_25: float
    within_50: float
    mean_error: float
    typical_ratio: float


def score(points: Sequence[Point], predict: Callable[[Point], float]) -> Score:
    """Score a model on measured points.

    Parameters
    ----------
    points : sequence of Point
        At least one.
    predict : callable
        The GNPS that the model has for a point.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        If there are no points.
    """
    if not points:
        raise ValueError("points: must not be empty")
    pairs = [(predict(p), p.gnps) for p in points]
    errors = [abs(guess - gnps) / gnps for guess, gnps in pairs]
    logs = [abs(math.log(guess / gnps)) for guess, gnps in pairs]
    count = len(errors)
    return Score(
        count,
        sum(e <= 0.25 for e in errors) / count,
        sum(e <= 0.5 for e in errors) / count,
        math.fsum(errors) / count,
        math.exp(math.fsum(logs) / count),
    )
