"""What happens between the rounds of training: step sizes by a schedule, penalties, averaging. See docs/architecture.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["PENALTIES", "SCHEDULES", "Rounds"]

SCHEDULES = ("constant", "linear", "invscaling")
PENALTIES = ("l1", "l2", "elasticnet")

# A visit costs about as much as a few examples, of sparse data as many as have as many numbers as the model: once in so many
# it is a small part of the time. Workers that wait for each other should do so after so many numbers.
_EXAMPLES, _MODELS, _WORKERS_NUMBERS = 128, 8, 1 << 17
# By what part L2 may shrink a model at once: it stands for as many small factors, with gradients between them.
_MAX_DECAY = 0.05
# What the mean of a schedule is at least: a model's range is made for a run that is going somewhere.
_LEAST_STEP = 1e-30
# So many examples that it never happens; still a number of 64 bits.
NEVER = 1 << 62


@dataclass(frozen=True)
class Rounds:
    """What `train` was asked for beyond the plain loop.

    Attributes
    ----------
    schedule : {"constant", "linear", "invscaling"}
    power : float
        Of invscaling.
    before : int
        Examples before this run, for invscaling.
    l1, l2 : float
        The penalty is ``l1 * |w|_1 + l2 / 2 * |w|_2**2`` beside the mean loss.
    average_from : int or None
        Examples after which the models are averaged.
    """

    schedule: str = "constant"
    power: float = 0.5
    before: int = 0
    l1: float = 0.0
    l2: float = 0.0
    average_from: int | None = None

    @property
    def none(self) -> bool:
        """Whether the plain loop is all."""
        return self.schedule == "constant" and not (self.l1 or self.l2) and self.average_from is None

    def mean_step(self, rows: int, examples: int) -> float:
        """The mean of the schedule's factors over a run."""
        if self.schedule == "linear":
            return 0.5
        if self.schedule == "constant":
            return 1.0
        a, b = 1.0 + self.before / rows, 1.0 + (self.before + examples) / rows
        if b - a < 1e-6 * a:
            mean = a**-self.power
        elif self.power == 1.0:
            mean = math.log(b / a) / (b - a)
        else:
            mean = (b ** (1 - self.power) - a ** (1 - self.power)) / (1 - self.power) / (b - a)
        return max(mean, _LEAST_STEP)

    def every(self, numbers: float, n: int, step: float, *, unit: int, workers: int, at_most: int | None = None) -> int:
        """The length of a round, in examples of a worker.

        Parameters
        ----------
        numbers : float
            Of an example.
        n : int
            Weights.
        step : float
            The largest step size.
        unit : int
            What a round must be a multiple of.
        workers : int
        at_most : int, optional
            The length from which on a run would suffer (SVRG, whose visits are a part of the steps).
        """
        numbers = max(numbers, 1.0)
        length = max(_EXAMPLES, math.ceil(_MODELS * n / numbers))
        if workers > 1:
            length = max(length, math.ceil(_WORKERS_NUMBERS / numbers))
        if self.l2:
            length = min(length, max(1, int(_MAX_DECAY / (step * self.l2 * workers))))
        if at_most is not None:
            length = min(length, at_most)
        return min(-(-length // unit) * unit, NEVER // 2)  # the compiled loop takes NEVER for "no rounds"

    def apply(self, run: Any, every: int, *, rows: int, examples: int) -> None:
        """Tell a run of the compiled loop."""
        run.set_rounds(
            every, schedule=self.schedule, total=float(examples), before=float(self.before), power=self.power, rows=float(rows),
            alpha1=self.l1, alpha2=self.l2, average_from=self.average_from,
        )  # fmt: skip
