"""SVRG with bit centering: low-precision inner loops that converge to the accuracy of float64.

After HALP (De Sa, Leszczynski, Zhang, Marzoev, Aberger, Olukotun, Re: "High-accuracy low-precision training",
arXiv 1803.03383, Algorithm 3). The weights are w~ + z: an anchor w~ in float64 and a correction z in the model's few
bits. In each epoch

1. the derivatives s_i at p_i = x_i . w~ and the gradient g~ = mean(s_i x_i) are computed in float64, from the data as they
   were given, not from their codes;
2. z starts at zero, and for each example z <- z - step ((dloss(p_i + x_i . z) - s_i) x_i + g~), the part of g~ between rounds;
3. w~ <- w~ + z, and z's quantum is chosen anew.

As z gets shorter so does its quantum, and the rounding noise with it; and since what an example adds vanishes with z, the
noise of the sampling vanishes too. What the codes of the data lose does not matter either: where g~ is zero nothing moves,
and g~ is exact.

The examples of a round pull z back to zero, the gradient pushes it on; both at once lead to where they balance, the optimum. In
turn they lead past it: for a direction of curvature h and x = (step times examples of a round) h, by the factor (x/2) coth(x/2)
if half of the push comes before the round and half after it (splitting after Strang, SIAM J. Numer. Anal. 1968), by
x / (1 - exp(-x)) if all of it comes after. Beyond twice as far epochs diverge: x = 3.8, or 1.6. So rounds are short where the
data are steep.

The paper takes the norm of g~ over the strong convexity for z's range; the latter is not known here. z's range in the next
epoch is twice the longest way that a weight went in this one, between 1/16 of the range now and twice that; where weights
were at the limit it doubles. An epoch that makes the loss clearly worse is undone, and the step halved. Both rules are
ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks
from .loop import Model, parts, products
from .model_range import Problem, _rows, _spread, check_row
from .quantized import QuantizedArray, dequantize
from .sparse import SparseArray

__all__ = ["Svrg", "round_length"]

# An epoch after which the loss is larger than before by more than this part is undone.
_WORSE = 1e-4
# What z may want more room than it needed in the last epoch, and by how much its range may change.
_HEADROOM, _MIN_RANGE, _MAX_RANGE = 2.0, 1.0 / 16.0, 2.0
# z's least quantum, times the first one: where nothing moves any more it must not become zero.
_LEAST_QUANTUM = 2.0**-200
# What all workers' steps of a round come to for the largest curvature, at most: past the optimum by 1.3 for one worker, and by
# less for several, who share it. And the least length of a round.
_ROUND_REACH, _ROUND_EXAMPLES = 2.0, 8
# Rows and numbers of the sample that the curvature is estimated from, and steps of the power iteration.
_SAMPLE_ROWS, _SAMPLE_NUMBERS, _POWER_STEPS = 1024, 1 << 20, 12


def round_length(problem: Problem, n_workers: int) -> int:
    """How many examples of a worker a round may have, from the largest curvature of a sample of the data."""
    m, n = problem.x.shape
    every, count = _spread(m, min(m, _SAMPLE_ROWS, max(1, int(_SAMPLE_NUMBERS / max(problem.numbers, 1.0)))))
    weight = np.ones(count) if problem.weight is None else problem.weight[: every * count : every].astype(np.float64)
    if isinstance(problem.x, SparseArray):
        sample = problem.x.take(np.arange(count) * every)
        values, columns = sample.unpacked() * sample.scale, sample.columns()
        rows = np.repeat(np.arange(count), np.diff(sample.indptr))

        def bend(v: np.ndarray) -> np.ndarray:
            p = weight * np.bincount(rows, weights=values * v[columns], minlength=count)
            return np.bincount(columns, weights=values * p[rows], minlength=n) / count
    else:
        x = dequantize(_rows(problem.x, every, count, problem.scale), np.float64)

        def bend(v: np.ndarray) -> np.ndarray:
            return (weight * (x @ v)) @ x / count

    v, largest = np.random.default_rng(0).standard_normal(n), 0.0
    for _ in range(_POWER_STEPS):
        v /= float(np.linalg.norm(v)) or 1.0
        v = bend(v)
        largest = float(np.linalg.norm(v))
        if not np.isfinite(largest):
            return _ROUND_EXAMPLES  # training will find the row, and name it
    if problem.intercept is not None:  # a column of ones adds no more than its own square
        largest += float(weight.mean())
    reach = problem.step * n_workers * (problem.loss.max_curvature * largest + problem.l2)
    return max(_ROUND_EXAMPLES, int(min(_ROUND_REACH / max(reach, 1e-300), 1e18)))


class Svrg:
    """The outer loop for some models on the same data.

    Parameters
    ----------
    source : array, sparse array, QuantizedArray or SparseArray
        The data as they were given.
    models : list of Model
        Their corrections.
    coefs : list of ndarray of float64, or None
        Where the anchors start, in the data's coordinates; None: zeros.
    intercepts : list of float
    l2 : float
    """

    def __init__(
        self, source: Any, models: list[Model], coefs: list[np.ndarray] | None, intercepts: list[float], l2: float
    ) -> None:
        n = source.shape[1]
        self.source, self.models, self.l2 = source, models, l2
        self.coefs = [np.zeros(n) if coefs is None else coefs[k].copy() for k in range(len(models))]
        self.intercepts = list(intercepts)
        self.steps = [model.problem.step for model in models]
        self.scales = [model.run.model_scale for model in models]
        self.least = [scale * _LEAST_QUANTUM for scale in self.scales]
        # The best anchors so far: coef, intercept, loss.
        self.best = [(c, b, np.inf) for c, b in zip(self.coefs, self.intercepts, strict=True)]

    def begin(self, worse: float = _WORSE) -> list[float]:
        """Center every model: anchor and gradient there, z = 0. The mean losses at the anchors, without a penalty.

        An anchor that is worse than the best one by more than the part `worse` is given up for that.
        """
        return [self._center(k, worse) for k in range(len(self.models))]

    def end(self) -> None:
        """Add every correction to its anchor, and choose its next quantum."""
        for k, model in enumerate(self.models):
            z, intercept = model.state()
            if not (np.isfinite(z).all() and np.isfinite(intercept)):
                z, intercept = np.full_like(z, np.nan), 0.0  # `begin` finds that it is no better
            self.coefs[k] = self.coefs[k] + z
            self.intercepts[k] += intercept
            if model.model.format.is_float:
                continue
            model.saturated = model.run.at_limit()
            limit = model.model.format.max_code
            way = float(np.abs(model.view.unpacked().astype(np.int32)).max(initial=0)) / limit
            factor = _MAX_RANGE if model.saturated else min(max(_HEADROOM * way, _MIN_RANGE), _MAX_RANGE)
            self.scales[k] = max(model.run.model_scale * factor, self.least[k])

    def _center(self, k: int, worse: float) -> float:
        """One model's anchor; back to the best one where this one is worse."""
        objective, loss, slopes, anchor = self._at_anchor(k)
        coef, intercept, best = self.best[k]
        if not objective <= best + worse * abs(best):
            self.coefs[k], self.intercepts[k] = coef.copy(), intercept
            self.steps[k] *= 0.5
            objective, loss, slopes, anchor = self._at_anchor(k)
        elif objective < best:
            self.best[k] = self.coefs[k].copy(), self.intercepts[k], objective
        self._restart(k, slopes, anchor)
        self.models[k].anchor = self.coefs[k]
        return loss

    def _at_anchor(self, k: int) -> tuple[float, float, np.ndarray, np.ndarray]:
        """What is minimized, the mean loss, weighted derivatives, and what the driver wants of every row."""
        model = self.models[k]
        problem = model.problem
        m = problem.x.shape[0]
        with np.errstate(over="ignore", invalid="ignore"):  # `_restart` says what is wrong with the data
            p = self._products(self.coefs[k]) + self.intercepts[k]
            derivative = problem.loss.derivatives(p, problem.y)
            values = problem.loss.values(p, problem.y)
        slopes = derivative
        mass = float(m)
        if problem.weight is not None:
            weight = problem.weight.astype(np.float64)
            values, slopes, mass = values * weight, derivative * weight, float(weight.sum())
        total = float(values.sum())
        objective = total / m
        if self.l2:
            scaled = self.coefs[k] if model.stretch is None else self.coefs[k] * model.stretch
            objective += 0.5 * self.l2 * float(scaled @ scaled)
        return objective, total / mass, slopes, np.stack([p, -derivative], axis=1)

    def _restart(self, k: int, slopes: np.ndarray, anchor: np.ndarray) -> None:
        model = self.models[k]
        m, n = model.problem.x.shape
        gradient = self._gradient(slopes) / m
        coef = self.coefs[k]
        if model.stretch is not None:
            gradient, coef = gradient / model.stretch, coef * model.stretch
        gradient = gradient + self.l2 * coef
        drift = np.zeros(max(n, model.problem.width), np.float32)
        with np.errstate(over="ignore"):
            drift[:n] = gradient
        if not np.isfinite(drift).all():
            for row in np.flatnonzero(~np.isfinite(anchor[:, 0])):
                check_row(model.problem.x, int(row))
            raise checks.rows_too_large("X", float(np.abs(gradient).max()))
        model.run.restart(self.scales[k], self.steps[k])
        free = model.problem.intercept is not None
        model.run.set_anchor(anchor, drift, float(slopes.sum()) / m if free else 0.0)

    # ---- products with the data as they were given ----

    def _pieces(self) -> Any:
        x = self.source
        if isinstance(x, (QuantizedArray, SparseArray)):
            return parts(x)
        m, n = x.shape
        if checks.is_sparse(x):
            return [slice(0, m)]
        rows = max(1, (1 << 18) // n)
        return [slice(i, min(i + rows, m)) for i in range(0, m, rows)]

    def _products(self, coef: np.ndarray) -> np.ndarray:
        x = self.source
        out = np.empty(x.shape[0])
        for part in self._pieces():
            if isinstance(x, (QuantizedArray, SparseArray)):
                out[part] = products(x, coef, part)
            elif checks.is_sparse(x):
                out[part] = x @ coef
            else:
                out[part] = x[part].astype(np.float64, copy=False) @ coef
        return out

    def _gradient(self, slopes: np.ndarray) -> np.ndarray:
        """The sum of the rows times these factors."""
        x = self.source
        out = np.zeros(x.shape[1])
        for part in self._pieces():
            if isinstance(x, SparseArray):
                piece = x[part]
                rows = np.repeat(np.arange(len(piece)), np.diff(piece.indptr))
                terms = piece.unpacked() * (piece.scale * slopes[part][rows])
                out += np.bincount(piece.columns(), weights=terms, minlength=len(out))
            elif isinstance(x, QuantizedArray):
                out += slopes[part] @ dequantize(x[part], np.float64)
            elif checks.is_sparse(x):
                out += x.T @ slopes
            else:
                out += slopes[part] @ x[part].astype(np.float64, copy=False)
        return out

    # ---- checkpoints ----

    def state(self) -> dict[str, np.ndarray]:
        """What the next epoch goes on from."""
        return {
            "coefs": np.stack(self.coefs), "intercepts": np.array(self.intercepts), "steps": np.array(self.steps),
            "scales": np.array(self.scales), "best_coefs": np.stack([b[0] for b in self.best]),
            "best": np.array([b[1:] for b in self.best]),
        }  # fmt: skip

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what :meth:`state` gave."""
        self.coefs, self.intercepts = list(state["coefs"]), state["intercepts"].tolist()
        self.steps, self.scales = state["steps"].tolist(), state["scales"].tolist()
        self.best = [(c, b, loss) for c, (b, loss) in zip(state["best_coefs"], state["best"].tolist(), strict=True)]

