"""The comparison: who reaches the same validation loss, how soon, and with how much memory. See `measure`."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowprec import runtime
from lowprec.checks import check_choice, check_finite_scalar, check_int, check_seed
from lowprec.report.compare import calls
from lowprec.report.compare.data import NAMED, Data, make
from lowprec.report.compare.peers import ENGINES, Contender, Engine, absence, cleared, contenders, engine_of, missing
from lowprec.report.files import header
from lowprec.report.timing import Case, Turns, ratios, spread, take_turns

__all__ = ["FIELDS", "Options", "measure"]

FIELDS = (
    "table",
    "data",
    "name",
    "engine",
    "signature",
    "threads",
    "n",
    "n_train",
    "n_models",
    "target",
    "reached",
    "loss",
    "score",
    "score_name",
    "setting_name",
    "setting",
    "effort_name",
    "effort",
    "prepares",
    "prepare_seconds",
    "seconds",
    "seconds_q1",
    "seconds_q3",
    "total_seconds",
    "total_seconds_q1",
    "total_seconds_q3",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "ratio_to",
    "fit_ratio",
    "peak_bytes",
    "bytes_per_example",
    "isa",
    "op",
    "gnps",
    "gnps_q1",
    "gnps_q3",
    "runs",
    "note",
)

#: Seconds to start a process, import a library and read the data, beyond any limit.
_START = 60.0


@dataclass(frozen=True)
class Options:
    """What is compared, and for how long.

    Parameters
    ----------
    data : tuple of str
        Names of `data.NAMED`, or files.
    features : int
        Random Fourier features of MNIST.
    limit : float
        Seconds that a single step of one contender may take, preparing or a fit; then it is ended. The first, who sets the
        target, has ten times as long.
    peers : tuple of str
        Keys of `peers.ENGINES`: who is compared with lowprec, if installed.
    search_seconds : float
        How long one contender's settings are tried, and again how long its efforts.
    turns : int
        Runs that the medians are of, at most. A contender whose run is longer than a quarter of `turn_seconds` is not run again.
    turn_seconds : float
        Also: about how long all turns of one data set may take.
    quick : bool
        Small data, one thread.
    kernels : bool
        Whether single kernels are compared too.
    seed : int
        Of the data.
    """

    data: tuple[str, ...] = ("generative",)
    features: int = 4096
    limit: float = 60.0
    peers: tuple[str, ...] = tuple(name for name in ENGINES if name != "lowprec")
    search_seconds: float = 60.0
    turns: int = 5
    turn_seconds: float = 120.0
    quick: bool = False
    kernels: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("limit", "search_seconds", "turn_seconds"):
            check_finite_scalar(name.replace("_", "-"), getattr(self, name), positive=True)
        check_int("features", self.features, minimum=1)
        check_int("turns", self.turns, minimum=1)
        check_seed(self.seed)
        for name in self.peers:
            check_choice("peers", name, [engine for engine in ENGINES if engine != "lowprec"])

    @classmethod
    def short(cls, **changes: Any) -> Options:
        """The options of --quick."""
        few = {"features": 512, "limit": 6.0, "search_seconds": 1.5, "turns": 3, "turn_seconds": 10.0, "quick": True}
        return cls(**(few | changes))


# ---- one process -----------------------------------------------------------------------------------------------------------


def _events(folder: Path, contender: Contender, task: dict[str, Any], limit: float) -> Iterator[dict[str, Any]]:
    """What a contender's process says, ended by ``done``, ``error`` or ``absent``; the process is gone then."""
    environ = os.environ | {f"{name}_NUM_THREADS": str(contender.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "lowprec.report.compare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environ,
        )
        lines: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            process.stdin.write(json.dumps({"folder": str(folder), "contender": asdict(contender)} | task))
            process.stdin.close()
            wait = limit + _START
            while True:
                try:
                    line = lines.get(timeout=wait)
                except queue.Empty:
                    yield {"event": "error", "late": True, "text": f"more than {limit:g} s"}
                    return
                if line is None:
                    complaints.seek(0)
                    last = (complaints.read().strip().splitlines() or [""])[-1]
                    yield {"event": "error", "text": f"the process ended with status {process.wait()} {last}".strip()[:300]}
                    return
                event = json.loads(line)
                yield event
                if event["event"] in ("done", "error", "absent"):
                    return
                wait = limit
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
            cleared(folder)


# ---- one data set ----------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """What the search has brought of one contender."""

    contender: Contender
    engine: type[Engine]
    prepare_seconds: float | None = None
    bytes_per_example: float | None = None
    setting: Any = None
    fits: list[dict[str, Any]] | None = None  # of all models with the chosen setting, by effort
    note: str = ""
    absent: bool = False

    def best(self, target: float) -> dict[str, Any] | None:
        """The fit of least effort that reaches the target; else that of the lowest loss."""
        if not self.fits:
            return None
        there = [fit for fit in self.fits if fit["loss"] <= target]
        return min(there, key=lambda fit: fit["seconds"]) if there else min(self.fits, key=lambda fit: fit["loss"])


def _search(folder: Path, contender: Contender, models: int, target: float | None, options: Options) -> _Found:
    found, fits = _Found(contender, engine_of(contender.engine)), []
    limit = options.limit if target is not None else 10 * options.limit
    for event in _events(folder, contender, {"target": target, "seconds": options.search_seconds}, limit):
        if event["event"] == "prepared":
            found.prepare_seconds, found.bytes_per_example = event["seconds"], event["bytes_per_example"]
        elif event["event"] == "fit":
            fits.append(event)
        elif event["event"] == "chosen":
            found.setting = event["setting"]
        elif event["event"] == "error":
            found.note = event["text"]
        elif event["event"] == "absent":
            found.note, found.absent = absence(found.engine, f"does not import ({event['text']})"), True
    if found.setting is None and fits:  # ended while settings were tried
        found.setting = min(fits, key=lambda fit: fit["loss"])["setting"]
    whole = [fit for fit in fits if fit["columns"] == models and math.isfinite(fit["loss"])]
    found.fits = [fit for fit in whole if fit["setting"] == found.setting]
    found.fits.sort(key=lambda fit: fit["seconds"])
    return found


def rounded_up(loss: float) -> float:
    """A loss rounded up in the fourth digit, so that what set the target reaches it again."""
    if loss == 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(loss)) - 3)
    return math.ceil(loss / unit) * unit


def _race(folder: Path, people: Sequence[Contender], options: Options, step: Callable[[str, float], None]) -> list[dict]:
    """The rows of one data set."""
    data = Data.open(folder)
    about = data.about
    for engine in {engine_of(c.engine) for c in people}:
        step(f"{engine.name}: its files", 0.0)
        engine().stage(data)
    target: float | None = None
    searched: list[_Found] = []
    gone: dict[str, dict[str, Any]] = {}
    for k, contender in enumerate(people):
        if contender.engine in gone:
            continue
        step(f"{contender.name}, searching", 0.6 * k / len(people))
        found = _search(folder, contender, about.n_models, target, options)
        if found.absent:
            gone[contender.engine] = {"table": "missing", "note": found.note}
            continue
        if target is None and found.fits:
            at_standard = [fit for fit in found.fits if fit["effort"] == found.engine.standard]
            target = rounded_up((at_standard or found.fits)[0]["loss"])
            searched.insert(0, found)  # the one that all are compared with stands first
        else:
            searched.append(found)
    if target is None:
        notes = [f"{found.contender.name}: {found.note}" for found in searched] + [row["note"] for row in gone.values()]
        raise ValueError(f"{about.name}: nobody could be trained; {'; '.join(notes)}")
    kept = {id(found): found.best(target) for found in searched}
    runs: dict[int, list[dict[str, Any]]] = {id(found): [] for found in searched}

    def case(found: _Found) -> Case:
        fit = kept[id(found)]

        def run() -> float:
            seen: dict[str, Any] = {}
            task = {"setting": fit["setting"], "effort": fit["effort"]}
            for event in _events(folder, found.contender, task, 10 * options.limit):
                if event["event"] == "prepared":
                    seen["prepare_seconds"] = event["seconds"]
                elif event["event"] == "fit":
                    seen |= event
                elif event["event"] in ("error", "absent"):
                    found.note = f"ran in the search, and in a turn: {event['text']}"
                    return 0.0
            runs[id(found)].append(seen)
            return 1 / (seen["prepare_seconds"] + seen["seconds"])

        return Case({"found": found}, run)

    again = [
        found
        for found in searched
        if (fit := kept[id(found)]) is not None
        and fit["loss"] <= target
        and fit["seconds"] + found.prepare_seconds <= options.turn_seconds / 4
    ]
    start = time.perf_counter()

    def tick(case: Case) -> None:
        part = min((time.perf_counter() - start) / options.turn_seconds, 1.0)
        step(f"{case.about['found'].contender.name}, its turn", 0.6 + 0.4 * part)

    turns = take_turns([case(found) for found in again], options.turn_seconds, min_turns=1, max_turns=options.turns, tick=tick)
    speeds = {id(found): t for found, t in zip(again, turns, strict=True)}
    rows = [_row(about, found, target, kept[id(found)], runs[id(found)], speeds, searched[0]) for found in searched]
    for found in searched:
        for fit in found.fits or ():
            rows.append(
                _about(about, found)
                | {"table": "trace", "target": target, "reached": fit["loss"] <= target, "loss": fit["loss"]}
                | {"setting": str(fit["setting"]), "effort": fit["effort"], "seconds": fit["seconds"]}
                | {"prepare_seconds": found.prepare_seconds, "total_seconds": found.prepare_seconds + fit["seconds"]}
            )
    return rows + list(gone.values())


def _about(about: Any, found: _Found) -> dict[str, Any]:
    c = found.contender
    return {
        "data": about.name,
        "name": c.name,
        "engine": found.engine.name,
        "signature": c.signature,
        "threads": c.threads,
        "n": about.n,
        "n_train": about.n_train,
        "n_models": about.n_models,
        "setting_name": found.engine.setting_name,
        "effort_name": found.engine.effort_name,
        "prepares": found.engine.prepares,
        "score_name": "R^2" if about.classes is None else "accuracy",
        "isa": runtime.isa() if found.engine.name == "lowprec" else None,
    }


def _row(
    about: Any,
    found: _Found,
    target: float,
    fit: dict[str, Any] | None,
    runs: list[dict[str, Any]],
    speeds: dict[int, Turns],
    reference: _Found,
) -> dict[str, Any]:
    """A contender's row: of its turns, or where it had none, of the one run in which it was searched."""
    row = _about(about, found) | {"table": "race", "target": target, "reached": False, "note": found.note or None}
    row |= {"prepare_seconds": found.prepare_seconds, "bytes_per_example": found.bytes_per_example}
    if fit is None:
        return row
    seen = runs or [fit | {"prepare_seconds": found.prepare_seconds}]
    seconds, prepared = spread([r["seconds"] for r in seen]), spread([r["prepare_seconds"] for r in seen])
    total = spread([r["seconds"] + r["prepare_seconds"] for r in seen])
    losses = [r["loss"] for r in seen]
    row |= {
        # Threads without locks do not give the same model twice: the median run must be there.
        "reached": spread(losses).median <= target,
        "loss": spread(losses).median,
        "score": spread([r["score"] for r in seen]).median,
        "setting": str(fit["setting"]),
        "effort": fit["effort"],
        "prepare_seconds": prepared.median,
        "seconds": seconds.median,
        "seconds_q1": seconds.q1,
        "seconds_q3": seconds.q3,
        "total_seconds": total.median,
        "total_seconds_q1": total.q1,
        "total_seconds_q3": total.q3,
        "peak_bytes": None if seen[0]["peak_bytes"] is None else spread([r["peak_bytes"] for r in seen]).median,
        "runs": len(seen),
    }
    if fit["loss"] <= target and not row["reached"] and not row["note"]:
        row["note"] = "reached in the search, not by the median of its turns"
    own, other = speeds.get(id(found)), speeds.get(id(reference))
    if own is not None and other is not None and all(own.gnps) and all(other.gnps):
        over = ratios(own.gnps, other.gnps)
        row |= {"ratio": over.median, "ratio_q1": over.q1, "ratio_q3": over.q3, "ratio_to": reference.contender.name}
    return row


# ---- everything ------------------------------------------------------------------------------------------------------------


def measure(
    options: Options,
    progress: Callable[[str, str, float], None] = lambda *_: None,
    people: Callable[[Any, Sequence[int]], list[Contender]] | None = None,
) -> dict[str, Any]:
    """Compare everybody who is installed.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.
    people : callable, optional
        Gives the contenders for a data set and the numbers of threads. None: `peers.contenders`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.

    Raises
    ------
    ValueError
        For a data set that is not there.
    """
    begin = time.perf_counter()
    absent = {name: why for name in options.peers if (why := missing(ENGINES[name])) is not None}
    left_out = absent.keys() | (ENGINES.keys() - {"lowprec", *options.peers})
    notes = list(absent.values()) + (calls.missing() if options.kernels else [])
    threads = (1,) if options.quick else tuple(dict.fromkeys((1, runtime.effective_n_threads())))
    rows: list[dict[str, Any]] = []
    share = 1 / (len(options.data) + bool(options.kernels))
    sources = {}
    for k, name in enumerate(options.data):

        def step(what: str, done: float, k: int = k, name: str = name) -> None:
            progress(f"{Path(name).name if name not in NAMED else name}", what, (k + done) * share)

        step("making the data", 0.0)
        with tempfile.TemporaryDirectory(prefix="lowprec-compare-") as folder:
            about = make(name, Path(folder), n_features=options.features, quick=options.quick, seed=options.seed)
            sources[about.name] = about.source + (", sparse rows" if about.sparse else "")
            present = [c for c in (people or contenders)(about, threads) if c.engine not in left_out]
            rows += _race(Path(folder), present, options, step)
    _fill_fit_ratios(rows)
    if options.kernels:
        progress("Kernels", "", 1 - share)
        rows += calls.measure(4.0 if options.quick else 20.0)
    found = [row["note"] for row in rows if row["table"] == "missing"]
    rows = [row for row in rows if row["table"] != "missing"]
    rows += [{"table": "missing", "note": note} for note in dict.fromkeys(notes + found)]
    progress("Done", "", 1.0)
    made = [dict.fromkeys(FIELDS) | row for row in rows]
    unknown = {key for row in made for key in row} - set(FIELDS)
    if unknown:
        raise KeyError(f"not fields of the results: {sorted(unknown)}")
    chosen = asdict(options) | {"sources": sources}
    return header("compare", chosen, time.perf_counter() - begin) | {"rows": made}


def _fill_fit_ratios(rows: list[dict[str, Any]]) -> None:
    """Of those who reached the target: time of the first one's training over theirs, preparing left out of both."""
    for data in {row["data"] for row in rows if row["table"] == "race"}:
        mine = [row for row in rows if row["table"] == "race" and row["data"] == data]
        first = mine[0]
        for row in mine:
            if row.get("reached") and first.get("seconds"):
                row["fit_ratio"] = first["seconds"] / row["seconds"]
                if row.get("ratio") is None:  # not in the turns: of the medians
                    row |= {"ratio": first["total_seconds"] / row["total_seconds"], "ratio_to": first["name"]}
