"""What the experiments share: where data are, how far a model is from the optimum, and what is said about our own choices."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.checks import wrong_value
from lowprec.report.files import header
from lowprec.report.tables import Table

__all__ = ["Distances", "Steps", "best_step", "choices", "data_file", "distances", "make_row", "model_scale", "results"]

#: Environment variable that names the folder of the data sets.
VARIABLE = "LOWPREC_DATA"

Progress = Callable[[str, str, float], None]


def data_file(*parts: str) -> Path:
    """A file of the folder that LOWPREC_DATA names."""
    inside = "/".join(parts)
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise wrong_value(VARIABLE, f"must name the folder of the data sets, one that has {inside}", "nothing")
    path = Path(folder, *parts)
    if not path.exists():
        raise wrong_value(VARIABLE, f"must name a folder that has {inside}", folder)
    return path


class Steps:
    """Tells a progress bar of work that is done one run after another.

    Parameters
    ----------
    progress : callable
        As of `lowprec.report.speedups.measure`.
    total : float
        The work of all runs, in any unit.
    """

    def __init__(self, progress: Progress, total: float) -> None:
        self.progress, self.total = progress, total
        self.done, self.work, self.told = 0.0, 0.0, ("", "")

    def __call__(self, stage: str, what: str, work: float = 1.0) -> None:
        """Say what begins now, and how much of the work it is; what was told before is done."""
        self.done += self.work
        self.work, self.told = work, (stage, what)
        self.within(0.0)

    def within(self, share: float) -> None:
        """Say how much of what began is done."""
        self.progress(*self.told, min((self.done + share * self.work) / self.total, 0.99))


def make_row(fields: Sequence[str], **given: Any) -> dict[str, Any]:
    """A row with all fields, those that are not given None."""
    unknown = set(given) - set(fields)
    if unknown:
        raise KeyError(f"not fields of the results: {sorted(unknown)}")
    return dict.fromkeys(fields) | given


def results(name: str, options: Any, begin: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What an experiment returns; `begin` is what `time.perf_counter` said when it began."""
    return header(f"experiment {name}", vars(options), time.perf_counter() - begin) | {"rows": rows}


def choices(pairs: Sequence[tuple[str, str]], title: str = "What the paper leaves open, and our choice") -> Table:
    """What was chosen here, and by no paper."""
    table = Table(title, ["<", "<"])
    for what, chosen in pairs:
        table.add(what, chosen)
    return table


# ---- the paper's generative problem ------------------------------------------------------------------------


class Distances:
    """How far a model is from the true one after each pass, the start included.

    Attributes
    ----------
    distance : list of float
        ||w - w*|| / (2 sqrt(n)): the root mean square, with w* taken to lie in [-1/2, 1/2]. Of w = 0 about 1/sqrt(12) = 0.2887,
        which is where the paper's curves begin; it does not say how its distance is defined.
    cosine : list of float
        Of the angle between w and w*, 0 of w = 0: what is left when the length of w does not count.
    widened : int
        How often the model's scale was doubled.
    """

    def __init__(self, w: np.ndarray) -> None:
        self.w, self.widened = w, 0
        self.distance: list[float] = []
        self.cosine: list[float] = []
        self.add(np.zeros(len(w)))

    def add(self, coef: np.ndarray) -> None:
        """Take down a model."""
        self.distance.append(float(np.linalg.norm(coef - self.w)) / (2.0 * math.sqrt(len(self.w))))
        lengths = float(np.linalg.norm(coef) * np.linalg.norm(self.w))
        self.cosine.append(float(coef @ self.w) / lengths if lengths else 0.0)


def model_scale(M: str, limit: float) -> float | None:
    """The scale with which a model of format `M` covers +-limit; None for a float one, which has no scale."""
    from lowprec.formats import FORMATS

    fmt = FORMATS[M]
    return None if fmt.is_float else limit / fmt.max_code


def distances(
    data: Any,
    signature: str,
    *,
    step_factor: float,
    limit: float,
    passes: int,
    tell: Callable[[float], None] = lambda share: None,
    **options: Any,
) -> Distances:
    """Train on one thread, and take down the model after each pass.

    Parameters
    ----------
    data : Generative
    signature : str
    step_factor : float
        The step size times n.
    limit : float
        What the codes of the model cover.
    passes : int
    tell : callable
        Told the share that is done.
    **options
        Of `lowprec.train`.
    """
    import lowprec as lp

    m, n = data.X.shape
    found = Distances(data.w)

    def after(info: Any) -> None:
        tell(info.examples / (m * passes))
        if info.position == m:
            found.add(info.coef())

    M = str(lp.Signature(signature).model)
    result = lp.train(
        data.X,
        data.y,
        signature=signature,
        step_size=step_factor / n,
        epochs=passes,
        n_threads=1,
        model_scale=model_scale(M, limit),
        callback=after,
        **options,
    )
    found.widened = result.widened
    return found


def best_step(tried: Mapping[float, Distances]) -> float:
    """The step whose run ended nearest to the true model."""
    return min(tried, key=lambda factor: tried[factor].distance[-1])
