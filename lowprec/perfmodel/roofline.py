"""A model from bytes moved and measured roofs, with a few constants of each signature.

The time of one example on one of t workers, in nanoseconds, with N numbers (the model size n, or a sparse example's nonzeros), X
bytes of data, a model of W bytes and L of its cache lines touched:

    time   = example + (arithmetic^4 + traffic^4)^(1/4) + (t - 1) * (turn + contact * contended * L * near(W))
    arithmetic = number * N
    traffic = X/64 * stream(t) + (X/64 + 2 L) * beyond_first(2 X + W)
    near(W) = 1 / (1 + (W / reach)^2)

GNPS = t * N / time. ``stream``, ``beyond_first`` and ``contended`` are roofs of the machine (`Roofs`); ``number``, ``example``,
``turn``, ``contact`` and ``reach`` are fitted (`Costs`). docs/performance-model.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lowprec.checks import check_finite_scalar, wrong_value
from lowprec.perfmodel.points import Point, check_density, check_question
from lowprec.perfmodel.roofs import LINE, Roofs
from lowprec.signature import Signature

__all__ = ["Costs", "RooflineModel", "Shape", "Terms", "fit_roofline"]

#: Arithmetic and traffic overlap: the sum of so high powers is a maximum with a rounded corner.
_OVERLAP = 4


@dataclass(frozen=True)
class Shape:
    """How much one example is.

    Attributes
    ----------
    numbers : float
        Dataset numbers; of sparse data, nonzeros.
    data_bytes : float
        Bytes of the example, those of the index included.
    model_bytes : float
        Bytes of the model.
    model_lines : float
        Cache lines of the model that the example touches.
    """

    numbers: float
    data_bytes: float
    model_bytes: float
    model_lines: float

    @classmethod
    def of(cls, signature: str | Signature, n: int, density: float = 1.0) -> Shape:
        """The shape of an example.

        Parameters
        ----------
        signature : str or Signature
            An index term in brackets is dropped. D or M that are absent are 32-bit floats.
        n : int
            Model size.
        density : float
            Share of the numbers that a sparse example stores, evenly spread, in (0, 1]; a dense example stores all.
        """
        density = check_density(density)
        s = Signature(signature)
        D, M = (term.bits if term else 32 for term in (s.dataset, s.model))
        model_bytes = n * M / 8
        lines = max(model_bytes / LINE, 1.0)
        if s.index is None or s.index.possibly:
            return cls(n, n * D / 8, model_bytes, lines)
        numbers = n * density
        # A line stays untouched with probability (1 - density)^(numbers in a line).
        touched = lines * (1 - (1 - density) ** (n / lines))
        return cls(numbers, numbers * (D + s.index.bits) / 8, model_bytes, touched)


@dataclass(frozen=True)
class Costs:
    """The constants of one signature.

    Parameters
    ----------
    number_ns : float
        Arithmetic for one dataset number, data and model in the first-level cache.
    example_ns : float
        What every example costs besides: the chain from the product to the next update, and the loop.
    turn_ns : float
        What every example costs more for each other worker.
    contact : float
        How much of the time for handing over a contended cache line is not hidden.
    reach_bytes : float
        Models much larger than this keep workers out of each other's way.
    """

    number_ns: float
    example_ns: float
    turn_ns: float = 0.0
    contact: float = 0.0
    reach_bytes: float = 65536.0

    def __post_init__(self) -> None:
        for f in fields(self):
            check_finite_scalar(f.name, getattr(self, f.name), nonnegative=True)
        check_finite_scalar("reach_bytes", self.reach_bytes, positive=True)


@dataclass(frozen=True)
class Terms:
    """Where the time of one example goes, in nanoseconds; the whole is less, for arithmetic and traffic overlap."""

    example: float
    arithmetic: float
    memory: float
    caches: float
    sharing: float

    @property
    def total(self) -> float:
        """Nanoseconds of one example on one worker."""
        return self.example + _overlapped(self.arithmetic, self.memory + self.caches) + self.sharing

    @property
    def bound(self) -> str:
        """The largest term."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return max(named, key=lambda name: named[name])


def _overlapped(arithmetic: Any, traffic: Any) -> Any:
    """The longer of two that run at once, with a rounded corner; numbers or arrays."""
    return (arithmetic**_OVERLAP + traffic**_OVERLAP) ** (1 / _OVERLAP)


def _sharing(others: Any, lines_ns: Any, model_bytes: Any, turn_ns: float, contact: float, reach_bytes: float) -> Any:
    """What the other workers cost, if handing over all lines takes `lines_ns`; numbers or arrays."""
    return others * (turn_ns + contact * lines_ns / (1 + (model_bytes / reach_bytes) ** 2))


def _terms(costs: Costs, roofs: Roofs, shape: Shape, threads: int) -> Terms:
    data_lines = shape.data_bytes / LINE
    beyond = roofs.beyond_first_ns(2 * shape.data_bytes + shape.model_bytes)
    lines_ns = shape.model_lines * (roofs.contended_ns or 0.0)
    return Terms(
        example=costs.example_ns,
        arithmetic=costs.number_ns * shape.numbers,
        memory=data_lines * roofs.stream_ns(threads),
        caches=(data_lines + 2 * shape.model_lines) * beyond,
        sharing=_sharing(threads - 1, lines_ns, shape.model_bytes, costs.turn_ns, costs.contact, costs.reach_bytes),
    )


@dataclass(frozen=True)
class RooflineModel:
    """The model with a machine's roofs and the constants of signatures.

    Parameters
    ----------
    roofs : Roofs
    costs : mapping of str to Costs
        By signature.
    """

    roofs: Roofs
    costs: Mapping[str, Costs]

    def terms(self, signature: str | Signature, n: int, threads: int = 1, density: float = 1.0) -> Terms:
        """Where the time of an example goes; parameters are those of `predict`."""
        name, n, threads = check_question(signature, n, threads)
        if name not in self.costs:
            raise wrong_value("signature", f"calibrated are {', '.join(self.costs)}", name)
        return _terms(self.costs[name], self.roofs, Shape.of(name, n, density), threads)

    def predict(self, signature: str | Signature, n: int, threads: int = 1, density: float = 1.0) -> float:
        """GNPS of all threads.

        Parameters
        ----------
        signature : str or Signature
        n : int
            Model size.
        threads : int
        density : float
            Of sparse data: the share of the numbers that are stored, in (0, 1].

        Returns
        -------
        float

        Raises
        ------
        ValueError
            For a signature without constants, n < 1, threads < 1, or a density out of its range.
        """
        terms = self.terms(signature, n, threads, density)
        return threads * Shape.of(signature, n, density).numbers / terms.total


# ---- fitting -----------------------------------------------------------------------------------------------


#: Within these a constant is looked for; one that ends at the lower end is 0.
_BOUNDS = {
    "number_ns": (1e-4, 1e3),
    "example_ns": (1e-2, 1e6),
    "turn_ns": (1e-2, 1e5),
    "contact": (1e-3, 30.0),
    "reach_bytes": (256.0, 2.0**26),
}


def _least_squares(
    residuals: Callable[[np.ndarray], np.ndarray], start: Sequence[float], bounds: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, float]:
    """Levenberg and Marquardt's method on Huber's loss, squares up to 0.1 and linear beyond, over logarithms of what is wanted.

    Returns the place and the loss.
    """
    knee = 0.1
    low, high = np.log(bounds).T

    def loss(r: np.ndarray) -> float:
        a = np.abs(r)
        return float(np.where(a <= knee, a * a / 2, knee * (a - knee / 2)).sum())

    x, damping = np.clip(np.log(start), low, high), 1e-2
    r = residuals(np.exp(x))
    best = loss(r)
    for _ in range(100):
        step = 1e-5 * np.eye(len(x))
        jacobian = np.stack([(residuals(np.exp(x + h)) - residuals(np.exp(x - h))) / 2e-5 for h in step], axis=1)
        weight = 1 / np.maximum(np.abs(r) / knee, 1.0)
        gradient = jacobian.T @ (weight * r)
        curvature = jacobian.T @ (weight[:, None] * jacobian)
        free = ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))  # what a bound holds stays
        curvature = curvature[np.ix_(free, free)]
        scale = np.diag(np.diag(curvature) + 1e-9)
        gained = 0.0
        for _ in range(12 if free.any() else 0):
            trial = x.copy()
            trial[free] += np.clip(np.linalg.solve(curvature + damping * scale, -gradient[free]), -2, 2)
            trial = np.clip(trial, low, high)
            tried = residuals(np.exp(trial))
            gained = best - loss(tried)
            if gained > 0:
                x, r, best, damping = trial, tried, loss(tried), damping / 8
                break
            damping *= 6
        if gained <= 1e-9 * best:
            break
    return np.exp(x), best


def _fit_one(points: Sequence[Point], roofs: Roofs) -> Costs:
    """The constants of one signature; the points with one thread decide the first two, those with several the others."""
    shapes = {p: Shape.of(p.signature, p.n, p.density) for p in points}
    alone = [p for p in points if p.threads == 1]
    many = [p for p in points if p.threads > 1]
    if not alone:
        raise ValueError(f"points: {points[0].signature} has none with one thread")

    def best(of: Sequence[Point], time_ns: Any, starts: Sequence[tuple[float, ...]], names: Sequence[str]) -> list[float]:
        """The constants of those names for which `time_ns`, an array over the points, comes closest to what was measured."""
        measured = np.log([p.threads * shapes[p].numbers / p.gnps for p in of])
        bounds = [_BOUNDS[name] for name in names]
        found = [_least_squares(lambda x: measured - np.log(time_ns(*x)), start, bounds) for start in starts]
        values = min(found, key=lambda pair: pair[1])[0].tolist()
        return [0.0 if v < 1.01 * b[0] and n != "reach_bytes" else v for v, b, n in zip(values, bounds, names, strict=True)]

    def fixed(of: Sequence[Point]) -> tuple[np.ndarray, ...]:
        """What does not depend on the constants: numbers, traffic, contended lines, bytes of the model, other workers."""
        terms = [_terms(Costs(0.0, 0.0), roofs, shapes[p], p.threads) for p in of]
        lines = [shapes[p].model_lines * (roofs.contended_ns or 0.0) for p in of]
        columns = ([shapes[p].numbers for p in of], [t.memory + t.caches for t in terms], lines)
        return *map(np.array, columns), np.array([shapes[p].model_bytes for p in of]), np.array([p.threads - 1 for p in of])

    # Several starts each: where traffic hides arithmetic, or every model is small, the loss is flat.
    numbers, traffic, *_ = fixed(alone)
    per_example = [shapes[p].numbers / p.gnps for p in alone]
    slowest = max(per_example) / numbers.max()
    starts = [(slowest * a, min(per_example) * b) for a in (0.1, 0.5, 1.0) for b in (0.1, 0.5)]
    number, example = best(alone, lambda c, o: o + _overlapped(c * numbers, traffic), starts, ("number_ns", "example_ns"))
    if not many or roofs.contended_ns is None:
        return Costs(number, example)

    numbers, traffic, lines, model_bytes, others = fixed(many)
    own = example + _overlapped(number * numbers, traffic)
    starts = [(t, c, b) for t in (1.0, 30.0) for c in (0.1, 1.0) for b in (2.0**13, 2.0**15, 2.0**18)]
    shared = ("turn_ns", "contact", "reach_bytes")
    return Costs(number, example, *best(many, lambda *x: own + _sharing(others, lines, model_bytes, *x), starts, shared))


def fit_roofline(points: Sequence[Point], roofs: Roofs) -> RooflineModel:
    """Fit the constants of every signature among the points.

    The loss is Huber's on log(predicted / measured). The first two constants of a signature come from its points with one thread,
    the others from those with several.

    Parameters
    ----------
    points : sequence of Point
        Of every signature at least one with one thread.
    roofs : Roofs

    Returns
    -------
    RooflineModel

    Raises
    ------
    ValueError
        If a signature has no point with one thread.
    """
    names = dict.fromkeys(p.signature for p in points)
    costs = {name: _fit_one([p for p in points if p.signature == name], roofs) for name in names}
    return RooflineModel(roofs, costs)
