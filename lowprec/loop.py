"""The training loop between Python and the compiled driver: calls, looks at the models' range, callbacks, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _sgd, checks
from .losses import Loss
from .model_range import Problem, Range, check_row
from .quantized import QuantizedArray, dequantize
from .sparse import SparseArray

__all__ = ["Loop", "Model", "TrainInfo", "diverged", "training_loss"]

# Numbers to a block: some milliseconds for the fast kernels, which hides Python, and the wait of several workers for each other.
_BLOCK = 1 << 26
# Seconds that a call of the compiled loop may take: half of what Ctrl-C is promised, since rates vary.
_CALL_SECONDS = 0.05
# Where the model's range is looked at first: after so many examples, then after twice as many, and so on.
_FIRST_LOOK = 16
# A range is halved only where the largest weight then fills no more than this part of it.
_FULL = 0.875


@dataclass(frozen=True)
class TrainInfo:
    """What a callback is told after a block of examples.

    Attributes
    ----------
    epoch : int
        From 0.
    position : int
        Examples of this epoch that are done.
    examples : int
        Examples of the whole run that are done.
    seconds : float
        Spent in the epoch loops so far.
    gnps : float
        10**9 dataset numbers per second, so far; a number counts once for each model.
    model_scale : float or tuple of float
        Value of one model code now; 1 for a 32f model. Of several models, that of each.
    widened : int or tuple of int
        How often the model's scale was doubled so far.
    intercept : callable
        ``info.intercept()`` is the intercept as it stands (of several models, an array); as for `coef`.
    coef : callable
        ``info.coef()`` is a copy of the model as it stands, float64 (of several, in rows). Later, and from other threads, it
        works only while the workers rest: in the callback, and when training is over.
    """

    epoch: int
    position: int
    examples: int
    seconds: float
    gnps: float
    model_scale: float | tuple[float, ...]
    widened: int | tuple[int, ...]
    coef: Callable[[], np.ndarray] = field(repr=False)
    intercept: Callable[[], Any] = field(repr=False)


class Model:
    """One model in training: its run of the compiled loop, and the care for its range.

    Parameters
    ----------
    run : Sgd
    problem : Problem
    model : QuantizedArray
    stretch : ndarray or None
        What its weights are times those of the data's coordinates.
    range_ : Range or None
        None: nobody looks at its range.
    replicas : bool
    total : int, optional
        Examples of the whole run, whose range may be narrowed from their middle on; None: never.
    """

    def __init__(
        self, run: Any, problem: Problem, model: QuantizedArray, stretch: np.ndarray | None, range_: Range | None, replicas: bool,
        total: int | None,
    ) -> None:  # fmt: skip
        self.run, self.problem, self.model, self.stretch, self.range = run, problem, model, stretch, range_
        # What is looked at while replicas go on from the shared model.
        self.view = QuantizedArray(model.buffer.copy(), model.format, model.scale, model.shape) if replicas else model
        self.total, self.saturated, self.widened, self.narrowed = total, 0, 0, 0
        self.agreed: Callable[[bool], bool] = bool  # on a decision, with the other ranks
        self.anchor: np.ndarray | None = None  # what the weights are a correction to (SVRG), in the data's coordinates
        # When the range is looked at: regularly, or again after it was widened; and late in the run.
        self.next_regular = self.regular_look = _FIRST_LOOK
        self.next_late = math.inf if total is None else total * 4 // 8

    @property
    def next_look(self) -> float:
        """Examples after which to look at the range again."""
        return min(self.next_regular, self.next_late)

    def state(self) -> tuple[np.ndarray, float]:
        """The weights as they stand, every update applied, in the coordinates of the data, and the intercept."""
        intercept = self.run.snapshot(self.view.buffer)
        scale = self.run.model_scale  # of a float model: the factor that L2 has left beside it
        self.view.scale = scale if self.stretch is None else scale / self.stretch
        return dequantize(self.view, np.float64), intercept

    def coef(self) -> np.ndarray:
        """The weights as their user knows them: with the anchor, if there is one."""
        weights = self.state()[0]
        return weights if self.anchor is None else self.anchor + weights

    def finish(self) -> None:
        """Leave the last model in `model`."""
        self.run.fold()
        self.model.scale = self.run.model_scale if self.stretch is None else self.run.model_scale / self.stretch
        self.look_at_limit()

    def mean(self) -> tuple[np.ndarray, float] | None:
        """The mean of the iterates and of the intercepts, if any were added up."""
        total, intercept, count = self.run.average()
        if total is None or count == 0:
            return None
        weights = total[: self.model.shape[0]] / count
        return (weights if self.stretch is None else weights / self.stretch), intercept / count

    def look_at_limit(self) -> None:
        if self.range is not None:
            self.saturated = max(self.saturated, self.run.at_limit())

    def look(self, examples: int) -> None:
        """Widen the model's range if that pays; late in the run, narrow it if no weight would be clipped."""
        regular, late = examples >= self.next_regular, examples >= self.next_late
        while self.regular_look <= examples:
            self.regular_look *= 2
        if regular:
            self.next_regular = self.regular_look
        # From the middle of the run on, in eighths of it.
        eighths = [] if self.total is None else [self.total * k // 8 for k in range(4, 8)]
        self.next_late = next((look for look in eighths if look > examples), math.inf)
        self.look_at_limit()
        if not (regular or self.narrowed):
            self._narrow()
            return
        intercept = self.run.intercept if self.view is self.model else self.run.snapshot(self.view.buffer)
        now = QuantizedArray(self.view.buffer, self.model.format, self.run.model_scale, self.model.shape)
        if self.agreed(self.range.pays(now, intercept, examples)):
            self.run.widen()
            self.widened += 1
            self.saturated = 0
            # Once may not be enough: see again how the weights stand when they have had time to move.
            self.next_regular = min(self.regular_look, examples + max(_FIRST_LOOK, examples // 8))
        elif late:
            self._narrow()

    def _narrow(self) -> None:
        # What the weights wanted on their way, with larger steps, they may not need where they have come to.
        self.narrowed += self.run.narrow(int(_FULL * self.model.format.max_code))


class Loop:
    """Drives the compiled loop in blocks, and looks after the models' range.

    Parameters
    ----------
    models : list of Model
        On the same data.
    n_workers, batch_size : int
    unit : int
        What calls are cut at multiples of: `batch_size`.
    one : bool
        Whether there is one model and it is spoken of in the singular.
    meet : int
        At multiples of it, and at the end of an epoch, replicas have just merged: only there is the model looked at or saved.
    group : Group, optional
        The other ranks: all do the same between two calls.

    Attributes
    ----------
    save, due : callable
        ``save(position)`` is called where the model may be saved and ``due()``.
    """

    def __init__(
        self, models: list[Model], n_workers: int, unit: int, *, one: bool, meet: int = 1, group: Any = None
    ) -> None:
        self.models, self.n_workers, self.unit, self.one, self.meet, self.group = models, n_workers, unit, one, meet, group
        self.save: Callable[[int], None] | None = None
        self.due: Callable[[], bool] = lambda: False
        if group is not None:
            for model in models:
                model.agreed = self.agreed
        self.runs = [model.run for model in models]
        self.x = models[0].problem.x
        self.numbers = models[0].problem.numbers * len(models)
        self.examples, self.seconds = 0, 0.0
        # Positions are examples of each worker's share; calls are cut between batches.
        self.block = self._whole(int(_BLOCK / max(self.numbers, 1.0)) // n_workers)
        # The first call finds out how fast this machine is. Calls may be cut between any two batches: the bits stay the same.
        self.at_most = min(self._whole(_FIRST_LOOK // n_workers), self.block)

    def _whole(self, position: int) -> int:
        """So many examples as whole units, one at least."""
        return max(self.unit, position // self.unit * self.unit)

    def agreed(self, value: Any) -> Any:
        """Rank 0's value, if there are several ranks."""
        if self.group is None:
            return value
        meanwhile = getattr(self.runs[0].link, "serve", None)  # asynchronous ranks may wait for this one's answers
        return self.group.share(value, "rank 0's decision", meanwhile)

    @property
    def gnps(self) -> float:
        return self.examples * self.numbers / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def _each(self, values: list[Any]) -> Any:
        return values[0] if self.one else tuple(values)

    def coef(self) -> np.ndarray:
        coefs = [model.coef() for model in self.models]
        return coefs[0] if self.one else np.stack(coefs)

    def intercept(self) -> Any:
        values = [float(model.state()[1]) for model in self.models]
        return values[0] if self.one else np.array(values)

    def epoch(
        self, epoch: int, step_size: float, callback: Callable[[TrainInfo], Any] | None, at: int = 0, before: int | None = None
    ) -> bool:
        """One pass over the data, from position `at`; True if the callback stopped it."""
        share = self.runs[0].share
        before = self.examples if before is None else before
        looked_at = [model for model in self.models if model.range is not None]
        while at < share:
            block_end = min(share, (at // self.block + 1) * self.block)
            # Of an epoch that other workers began, the first call ends at a whole unit.
            whole = at // self.unit * self.unit
            end = min(block_end, whole + self.at_most)
            if looked_at:
                look = -(-(min(model.next_look for model in looked_at) - before) // self.n_workers)
                end = min(end, max(whole + self.unit, -(-look // self.meet) * self.meet))
            begin = time.perf_counter()
            bad = _sgd.train_together(self.runs, at, end, before)
            took = time.perf_counter() - begin
            if bad >= 0:
                check_row(self.x, bad)
                raise diverged(step_size, bad)
            self.seconds += took
            self.examples = before + self.runs[0].examples(end)
            longest = min(int((end - at) * _CALL_SECONDS / max(took, 1e-9)), 4 * self.at_most)
            at = end
            merged = at % self.meet == 0 or at == share
            if merged and any(self.examples >= model.next_look for model in looked_at):
                for run in self.runs:
                    run.merge()
                for model in looked_at:
                    if self.examples >= model.next_look:
                        model.look(self.examples)
            stop: Any = False
            if callback is not None and (at == block_end or took > _CALL_SECONDS / 2):
                info = TrainInfo(
                    epoch,
                    self.runs[0].examples(at),
                    self.examples,
                    self.seconds,
                    self.gnps,
                    self._each([run.model_scale for run in self.runs]),
                    self._each([model.widened for model in self.models]),
                    self.coef,
                    self.intercept,
                )
                stop = callback(info)
                stop = isinstance(stop, (bool, np.bool_)) and bool(stop)  # a comparison of NumPy numbers too, but not any object
            # Ranks cut their calls alike, or they would not meet at the same points.
            longest, stop, due = self.agreed((longest, stop, self.due()))
            self.at_most = min(self._whole(longest), self.block)
            if due and merged and at < share and self.save is not None:
                self.save(at)
            if stop:
                return True
        return False


def diverged(step_size: float, row: int | None = None) -> ValueError:
    """The error of a run that left the finite numbers."""
    where = "" if row is None else f" at row {row}"
    return checks.wrong_value("step_size", f"must be so small that training stays finite; it diverged{where}", step_size)


def products(x: QuantizedArray | SparseArray, coef: np.ndarray, part: slice) -> np.ndarray:
    """Products of the rows of a slice with weights in the data's coordinates, float64."""
    if isinstance(x, SparseArray):
        piece = x[part]
        terms = piece.unpacked() * (piece.scale * coef[piece.columns()])
        rows_of_terms = np.repeat(np.arange(len(piece)), np.diff(piece.indptr))
        return np.bincount(rows_of_terms, weights=terms, minlength=len(piece))
    return dequantize(x[part], np.float64) @ coef


def parts(x: QuantizedArray | SparseArray) -> list[slice]:
    """The rows, some at a time."""
    m, n = x.shape
    rows = max(1, int((1 << 18) / max(x.stored / m, 1.0))) if isinstance(x, SparseArray) else max(1, (1 << 18) // n)
    return [slice(i, min(i + rows, m)) for i in range(0, m, rows)]


def training_loss(
    x: QuantizedArray | SparseArray, y: np.ndarray, weight: np.ndarray | None, loss: Loss, coef: np.ndarray, intercept: float,
    group: Any = None,
) -> float:  # fmt: skip
    """Mean loss over all rows, a block at a time; of several ranks each does some of the blocks."""
    total = mass = 0.0
    blocks = parts(x)
    for part in blocks if group is None else blocks[group.rank :: group.size]:
        values = loss.values(products(x, coef, part) + intercept, y[part])
        if weight is None:
            total += float(values.sum())
            mass += len(values)
        else:
            w = weight[part].astype(np.float64)
            total += float(values @ w)
            mass += float(w.sum())
    if group is not None:
        found = group.gather((total, mass), "the loss of every rank's rows")
        total, mass = group.share(None if found is None else tuple(map(sum, zip(*found, strict=True))), "the sum of the losses")
    return total / mass
