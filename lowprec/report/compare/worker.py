"""The process that one contender runs in: what it is to do comes on stdin, what happens goes out as lines of JSON.

A process each keeps memory apart, lets a time limit end what cannot be interrupted, and leaves no threads or heaps of one
library to another.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.report.compare.data import Data
from lowprec.report.compare.peers import Contender, Engine

__all__ = ["Memory", "main", "run"]


class Memory:
    """Peak memory beyond what the process has at a moment, as the Linux kernel counts it (VmHWM, VmRSS).

    The peak is reset at that moment, so earlier ones do not count; file pages that are resident by then do not either.
    """

    def __init__(self) -> None:
        # Where that is refused the peak so far stays: that of reading the data, hardly more than what there is now.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = self._read("VmRSS")

    @staticmethod
    def _read(key: str) -> int | None:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)

    def peak(self) -> int | None:
        """Bytes; None where the system does not say."""
        highest = self._read("VmHWM")
        return None if highest is None or self.before is None else max(highest - self.before, 0)


def run(spec: dict[str, Any], say: Any) -> None:
    """Do what a specification says.

    Parameters
    ----------
    spec : dict
        ``folder``: the data. ``contender``: the fields of a `Contender`. Then either ``setting`` and ``effort``, one fit; or
        ``target``, a search for the least effort that reaches it (null: what the standard effort reaches is the target), with
        ``seconds``, how long settings may be tried and how long, in all, efforts.
    say : callable
        Takes each event, a dict.
    """
    data = Data.open(spec["folder"])
    engine = Contender(**spec["contender"]).make()
    try:
        engine.load()
    except Exception as error:  # a library for another Python or NumPy fails in any way it likes
        say({"event": "absent", "text": " ".join(f"{type(error).__name__}: {error}".split())[:200]})
        return
    data.touch()
    say({"event": "loaded"})
    memory = Memory()
    begin = time.perf_counter()
    engine.prepare(data)
    prepared = time.perf_counter() - begin if engine.prepares else 0.0
    say({"event": "prepared", "seconds": prepared, "bytes_per_example": engine.bytes_per_example()})

    def fit(setting: Any, effort: float, columns: int) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            fitted = engine.fit(setting, effort, columns)
        except ValueError:  # how they say that a step was too large
            fitted = None
        seconds = time.perf_counter() - start
        found = {"event": "fit", "setting": setting, "effort": effort, "columns": columns, "seconds": seconds}
        found |= {"peak_bytes": memory.peak(), "loss": math.inf}
        if fitted is not None:
            coef, intercept = engine.weights(fitted)
            if np.isfinite(coef).all() and np.isfinite(intercept).all():
                found["loss"] = data.loss(coef, intercept, columns)
                found["score"] = data.score(coef, intercept) if columns == data.about.n_models else None
        say(found)
        return found

    if "effort" in spec:
        fit(spec["setting"], spec["effort"], data.about.n_models)
    else:
        _search(engine, data.about.n_models, fit, say, spec["target"], spec["seconds"])
    say({"event": "done"})


def _search(engine: Engine, models: int, fit: Any, say: Any, target: float | None, seconds: float) -> None:
    """Choose the setting by the loss at the standard effort, then go up in effort until the target is reached."""
    columns = engine.tuned_on(engine.data.about)
    if columns < models and fit(engine.first, engine.standard, columns)["seconds"] * models / columns <= seconds / 4:
        columns = models  # there is time to try settings on all
    best, tried = _tune(engine, lambda setting: fit(setting, engine.standard, columns), seconds)
    setting, known = best["setting"], {}
    say({"event": "chosen", "setting": setting, "tried": tried})
    if columns == models:
        known[engine.standard] = best
    if target is None:
        if engine.standard not in known:
            known[engine.standard] = fit(setting, engine.standard, models)
        target = known[engine.standard]["loss"]
    begin = time.perf_counter()
    for effort in engine.efforts:
        if effort not in known:
            known[effort] = fit(setting, effort, models)
        if known[effort]["loss"] <= target or time.perf_counter() - begin > seconds:
            break


def _tune(engine: Engine, fit: Any, seconds: float) -> tuple[dict[str, Any], int]:
    """The fit of the best setting, and how many were tried: up the ladder while the loss falls, else down, if there is time."""
    begin, ladder = time.perf_counter(), list(engine.settings)
    start = ladder.index(engine.first)
    best = last = fit(engine.first)
    tried = 1

    def in_time() -> bool:
        return time.perf_counter() - begin + last["seconds"] < seconds

    for way in (ladder[start + 1 :], ladder[:start][::-1]):
        if best["setting"] != engine.first:  # up was better: nobody looks down
            break
        for setting in way:
            if not in_time():
                return best, tried
            last, tried = fit(setting), tried + 1
            if not last["loss"] < best["loss"]:
                break
            best = last
    for setting in engine.also:
        if in_time():
            last, tried = fit(setting), tried + 1
            best = min(best, last, key=lambda found: found["loss"])
    return best, tried


def main() -> None:
    """Run what stdin says; whatever a library prints goes to stderr."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(event: dict[str, Any]) -> None:
        lines.write(json.dumps(event) + "\n")

    try:
        run(json.loads(sys.stdin.read()), say)
    except Exception as error:  # the other side shows it beside the contender's name
        say({"event": "error", "text": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]})
    lines.flush()
    # Some libraries fail while the interpreter takes itself apart.
    os._exit(0)


if __name__ == "__main__":
    main()
