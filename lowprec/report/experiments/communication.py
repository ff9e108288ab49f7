"""What explicit communication in few bits costs in training loss and saves in bytes and time; and what it would save elsewhere.

Four workers (threads) train the logistic loss on a9a and on MNIST (even digits against odd ones), with every codec, together and
each by itself, with and without error feedback: the loss after every pass beside what a worker has sent. All have the same order
of the data, rounds, passes, and step; it falls linearly to nothing, so that last losses can be compared. The step is the one of
`Options.factors`, over the mean squared norm of an example, with which full precision, D32fM32fC32fs, has the lowest mean of the
losses after every pass. The lowest last loss would choose a step too large to begin with: the schedule ends it well all the same.

How long a round is matters more than the codec: what four workers changed is added up, a step four times as long. Long rounds
save bytes too. 64 examples are the longest of those tried with which C32fs learns as a single thread does at the same step; with
256 its first passes go astray. Rows with a G term have mini-batches, whose gradients are added up too, so their rounds are one
batch of 16: with 64, four workers would add up 256 gradients at the step of one.

Times are those of ranks, if there are mpi4py and mpiexec: the same training by 2 and 4 processes of this machine, one run
each. A synchronous run comes to the model of as many threads, to the bit; that is looked at (`same_as_threads`). Without them
threads are timed.

The projection asks what other links would do with a large model, D8M8 on the generative problem. Measured are a rank's rounds
without communication and its coding, on two cores at once, and rounds of 2 and 4 ranks, which the model is checked with.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowprec.perfmodel import Coding, Work
from lowprec.perfmodel.communication import CODECS, fit_link
from lowprec.report import projection
from lowprec.report.experiments.common import Steps, data_file, make_row, results
from lowprec.report.experiments.communication_tables import figures, tables
from lowprec.report.experiments.communication_worker import digest, launcher, run_ranks
from lowprec.report.machine import usable_cpus
from lowprec.report.rows import FLOAT
from lowprec.report.tables import power

__all__ = ["DATA", "FIELDS", "FULL", "QUICK", "Options", "figures", "measure", "tables"]

_OWN = (
    "table",
    "data",
    "signature",
    "codec",
    "synchronous",
    "error_feedback",
    "ranks",
    "workers",
    "passes",
    "loss",
    "final_loss",
    "excess",
    "bytes",
    "bytes_per_step",
    "float32_ratio",
    "exchanges",
    "seconds",
    "exchange_seconds",
    "waiting_seconds",
    "same_as_threads",
    "sync_every",
    "batch_size",
    "step_size",
    "n",
    "m",
    "encode",
    "decode",
)
FIELDS = _OWN + tuple(field for field in projection.FIELDS if field not in _OWN)

#: The name of the link between processes of this machine.
HERE = "this machine's memory (measured)"

#: Bytes of the messages that this link is found with.
_SIZES = tuple(2**k for k in range(12, 23))


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    data : tuple of str
        Of `DATA`.
    codecs : tuple of str
        32f among them.
    others, batched : tuple of str
        Further signatures; those with mini-batches.
    workers : int
        That losses are compared with.
    ranks : tuple of int
        That times are measured with.
    passes : int
    sync_every, batch_size : int
        Examples of a round; of a batch, which is a round of the batched ones.
    rounds : tuple of int
        Examples of a round, to compare on the first data set.
    factors : tuple of float
        Step sizes to choose from, times the mean squared norm of an example.
    n_large, large_rounds, large_turns : int
        Model size of the projection, rounds of a measurement, and measurements whose median counts.
    seed : int
    """

    data: tuple[str, ...] = ("a9a", "mnist")
    codecs: tuple[str, ...] = tuple(CODECS)
    others: tuple[str, ...] = ("D16M16C8s", "D8M16C1s", "D8M8C32fs", "D8M8C8s", "D8M8C1s")
    batched: tuple[str, ...] = ("D32fM32fG32fC32fs", "D32fM32fG1C1s", "D8M8G32fC8s")
    workers: int = 4
    ranks: tuple[int, ...] = (2, 4)
    passes: int = 10
    sync_every: int = 64
    batch_size: int = 16
    rounds: tuple[int, ...] = (16, 64, 256, 1024)
    factors: tuple[float, ...] = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0)
    n_large: int = 2**20
    large_rounds: int = 8
    large_turns: int = 3
    seed: int = 1


FULL = Options()
QUICK = Options(data=("generated",), passes=5, ranks=(2,), rounds=(16, 64), n_large=2**16)


# ---- the data ------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Examples, float32, and labels -1 and +1."""

    X: np.ndarray
    y: np.ndarray


def _a9a(seed: int) -> Data:
    from lowprec.datasets import load

    X, y = load(data_file("svmlight", "a9a.bz2"), sparse=True)
    return Data(X.toarray(), np.where(y > 0, 1, -1).astype(np.int8))


def _mnist(seed: int) -> Data:
    from lowprec.datasets import load

    names = (data_file("mnist", f"train-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    X, digits = load(next(names), labels=next(names))
    return Data(X / np.float32(255), np.where(digits % 2 == 0, 1, -1).astype(np.int8))


def _generated(seed: int) -> Data:
    from lowprec.datasets import generative

    made = generative(256, 2**14, seed)
    return Data(made.X, made.y)


#: How each data set is made, given a seed.
DATA: dict[str, Callable[[int], Data]] = {"a9a": _a9a, "mnist": _mnist, "generated": _generated}


# ---- measuring -----------------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    """A signature, and how it is trained."""

    signature: str
    error_feedback: bool = True
    batch_size: int = 1


def _codec_cases(o: Options, feedback: Sequence[bool]) -> list[_Case]:
    return [_Case(f"{FLOAT}C{C}{s}", kept) for s in ("s", "") for C in o.codecs for kept in feedback]


def _other_cases(o: Options) -> list[_Case]:
    return [_Case(s) for s in o.others] + [_Case(s, True, o.batch_size) for s in o.batched]


class _Training:
    """One problem, trained in many ways.

    Parameters
    ----------
    o : Options
    name : str
        Of the data set.
    data : Data
    """

    def __init__(self, o: Options, name: str, data: Data) -> None:
        self.o, self.name, self.data = o, name, data
        self.m, self.n = data.X.shape
        self.norm = float(np.einsum("ij,ij->", data.X, data.X, dtype=np.float64)) / self.m
        self.step = 0.0
        self.full = math.nan  # the last loss of C32fs
        self.models: dict[_Case, str] = {}  # by as many threads as losses are compared with

    def arguments(self, case: _Case, **more: Any) -> dict[str, Any]:
        """Of `lowprec.train`."""
        made: dict[str, Any] = {
            "signature": case.signature,
            "step_size": self.step,
            "epochs": self.o.passes,
            "seed": self.o.seed,
            "batch_size": case.batch_size,
            "sync_every": case.batch_size if case.batch_size > 1 else self.o.sync_every,
            "schedule": "linear",
            "shuffle": True,
            "fit_intercept": True,
            "history": True,
        }
        if not case.error_feedback:
            made["error_feedback"] = False
        return made | more

    def threads(self, case: _Case, workers: int, **more: Any) -> dict[str, Any]:
        """Train with threads; what `communication_worker` finds of ranks. A loss that is not finite ends it."""
        import lowprec as lp

        found = lp.train(self.data.X, self.data.y, n_threads=workers, **self.arguments(case, **more))
        info = found.communication
        about = {"history": found.history, "digest": digest(found), "seconds": found.seconds, "waiting_seconds": None}
        if info is None:
            return about
        return about | {
            "exchange_seconds": info.seconds,
            "exchanges": info.exchanges,
            "bytes_per_step": info.bytes_per_exchange,
            "float32_ratio": info.ratio,
        }

    def choose_step(self) -> list[dict[str, Any]]:
        """Find the step with which full precision is lowest, all passes taken together."""
        case = _Case(f"{FLOAT}C32fs")
        tried = {}
        for factor in self.o.factors:
            step = factor / self.norm
            tried[step] = self.threads(case, self.o.workers, step_size=step)["history"]
        self.step = min(tried, key=lambda step: statistics.fmean(tried[step]))
        self.full = tried[self.step][-1]
        about = {"ranks": self.o.workers, "workers": "threads"}
        return [
            self.row(
                "steps",
                case,
                **about,
                step_size=step,
                loss=statistics.fmean(trace),
                final_loss=trace[-1],
                excess=trace[-1] / self.full - 1.0,
            )
            for step, trace in tried.items()
        ]

    def row(self, table: str, case: _Case, **fields: Any) -> dict[str, Any]:
        """A row about a case."""
        import lowprec as lp

        term = lp.Signature(case.signature).communication
        about: dict[str, Any] = {
            "data": self.name,
            "signature": case.signature,
            "codec": None if term is None else str(term),
            "synchronous": None if term is None else term.synchronous,
            "error_feedback": None if term is None else case.error_feedback,
            "passes": self.o.passes,
            "sync_every": None if term is None else self.arguments(case)["sync_every"],
            "batch_size": case.batch_size,
            "step_size": self.step,
            "n": self.n,
            "m": self.m,
        }
        return make_row(FIELDS, table=table, **about | fields)

    def rows(self, case: _Case, found: dict[str, Any], workers: str, ranks: int) -> Iterator[dict[str, Any]]:
        """Of one run: what it came to, and the way there."""
        found = dict(found)
        trace, model = found.pop("history"), found.pop("digest")
        sent = found.get("bytes_per_step", 0.0) * found.get("exchanges", 0)
        about: dict[str, Any] = {"workers": workers, "ranks": ranks}
        if workers == "threads" and ranks == self.o.workers:
            self.models[case] = model
        elif workers == "ranks":
            # Of workers that do not wait for each other there is no second run with the same bits.
            theirs = self.models.get(case) if ranks == self.o.workers and case.signature.endswith("s") else None
            about["same_as_threads"] = None if theirs is None else theirs == model
        last = {"final_loss": trace[-1], "excess": trace[-1] / self.full - 1.0, "bytes": sent}
        yield self.row("runs", case, **about, **found, **last)
        about.pop("same_as_threads", None)
        for k, loss in enumerate(trace, 1):
            part = k / len(trace)  # all passes have as many rounds
            so_far = {"passes": k, "bytes": part * sent, "seconds": part * found["seconds"]}
            yield self.row("trace", case, **about, loss=loss, **so_far)


def _measure_one(o: Options, problem: _Training, folder: Path, step: Steps) -> Iterator[dict[str, Any]]:
    """All rows of one data set."""
    name = problem.name
    step(name, "step size", len(o.factors))
    yield from problem.choose_step()
    step(name, f"{FLOAT}, one thread")
    alone = _Case(FLOAT)
    yield from problem.rows(alone, problem.threads(alone, 1, sync_every=None), "threads", 1)
    for case in _codec_cases(o, (True, False)) + _other_cases(o):
        step(name, f"{case.signature}{'' if case.error_feedback else ', no feedback'}")
        yield from problem.rows(case, problem.threads(case, o.workers), "threads", o.workers)
    if name == o.data[0]:
        for case in _codec_cases(o, [True])[: len(o.codecs)]:
            step(name, f"{case.signature}, other rounds", len(o.rounds))
            for every in o.rounds:
                found = problem.threads(case, o.workers, sync_every=every)
                last = {"final_loss": found["history"][-1], "excess": found["history"][-1] / problem.full - 1.0}
                about = {key: found[key] for key in ("exchanges", "bytes_per_step", "float32_ratio")}
                sent = found["bytes_per_step"] * found["exchanges"]
                given = {"workers": "threads", "ranks": o.workers, "sync_every": every, "bytes": sent}
                yield problem.row("rounds", case, **about, **last, **given)
    cases = _codec_cases(o, [True])
    task = {"X": str(folder / "X.npy"), "y": str(folder / "y.npy")}
    if launcher() is not None:
        np.save(task["X"], problem.data.X)
        np.save(task["y"], problem.data.y)
    for ranks in o.ranks:
        step(name, f"{ranks} ranks" if launcher() else f"{ranks} threads", len(cases))
        if launcher() is not None:
            found = run_ranks(ranks, folder, task | {"train": [(problem.m, problem.arguments(case)) for case in cases]})["train"]
            for case, one in zip(cases, found, strict=True):
                yield from problem.rows(case, one, "ranks", ranks)
        elif ranks != o.workers:  # those have been measured
            for case in cases:
                yield from problem.rows(case, problem.threads(case, ranks), "threads", ranks)


# ---- many machines -------------------------------------------------------------------------------------------------


def _large(o: Options, folder: Path) -> dict[str, Any]:
    """What is measured for the projection: rounds, alone and of ranks; coding; the link, if there is one."""
    import lowprec as lp
    from lowprec.datasets import generative
    from lowprec.report.codings import coding_rates

    n, each = o.n_large, o.sync_every
    codings = [{"C": C, "n": n, "M": "8", "seed": o.seed} for C in o.codecs]
    X, y, _ = generative(n, each * max(o.ranks), o.seed, fmt="8")
    # Codes as they are have scale 1; what is learned does not matter, as long as it stays in the model's range.
    given = {"step_size": 1.5 / n / 127**2, "model_scale": 1.0 / 127**2, "epochs": o.large_rounds, "seed": o.seed}
    if launcher() is None:
        alone = [lp.train(X.codes[:each], y[:each], signature="D8M8", n_threads=1, **given) for _ in range(o.large_turns)]
        seconds = statistics.median(found.seconds / found.n_examples for found in alone)
        return {"alone": seconds, "codings": [coding_rates(**about) for about in codings], "link": None, "rounds": {}}
    task = {"X": str(folder / "X.npy"), "y": str(folder / "y.npy")}
    np.save(task["X"], X.codes)
    np.save(task["y"], y)
    by_itself = {"alone": [(each, given | {"signature": "D8M8"})] * o.large_turns, "coding": codings}
    busy = run_ranks(min(2, usable_cpus()), folder, task | by_itself)
    rates = [Coding(about["C"], *pair) for about, pair in zip(codings, busy["coding"], strict=True)]
    rounds: dict[tuple[int, str, str], float] = {}
    messages: list[float] = []
    for ranks in o.ranks:
        kinds = [(C, s) for s in ("s", "") for C in o.codecs]
        # All take turns, so that what else the machine does hits all of them.
        cases = [(each * ranks, given | {"signature": f"D8M8C{C}{s}", "sync_every": each}) for C, s in kinds] * o.large_turns
        found = run_ranks(ranks, folder, task | {"train": cases} | ({} if rounds else {"link": list(_SIZES)}))
        messages = found["link"] or messages
        each_round = [one["seconds"] / one["exchanges"] for one in found["train"]]
        for k, kind in enumerate(kinds):
            rounds[ranks, *kind] = statistics.median(each_round[k :: len(kinds)])
    link = fit_link(_SIZES, messages).link
    return {"alone": statistics.median(busy["alone"]), "codings": rates, "link": link, "rounds": rounds}


def _projection_rows(o: Options, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Codings, links, projections, and the check."""
    n, each = o.n_large, o.sync_every
    work = Work(n=n, examples=each, numbers=float(each) * n, seconds=found["alone"] * each)
    made = [
        make_row(FIELDS, table="coding", codec=c.C, n=n, sync_every=each, encode=c.encode, decode=c.decode, signature="D8M8")
        for c in found["codings"]
    ]
    made.append(make_row(FIELDS, table="alone", n=n, sync_every=each, seconds=work.seconds, signature="D8M8"))
    links = ({HERE: found["link"]} if found["link"] is not None else {}) | projection.LINKS
    rows = []
    for name, link in links.items():
        made.append(make_row(FIELDS, table="link", link=name, latency_seconds=link.latency, bandwidth=link.bandwidth))
        if name != HERE:
            for asynchronous in (False, True):
                by_codec = projection.models(work, link, found["codings"], asynchronous=asynchronous)
                rows += projection.projection_rows(name, by_codec)
    for s in ("s", "") if found["rounds"] else ():
        by_codec = projection.models(work, found["link"], found["codings"], asynchronous=not s, cores=usable_cpus())
        measured = [projection.Measured(C, ranks, t) for (ranks, C, kind), t in found["rounds"].items() if kind == s]
        rows += projection.check_rows(HERE, by_codec, measured)
    for row in rows:
        about = {"codec": row["C"], "synchronous": not row["asynchronous"], "ranks": row["machines"], "sync_every": each}
        made.append(make_row(FIELDS, **row | about))
    return made


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Train with every codec, time it with ranks, and project it.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.

    Raises
    ------
    RuntimeError
        If mpi4py and mpiexec are there, and ranks fail.
    """
    begin = time.perf_counter()
    o = options
    cases = 2 * len(_codec_cases(o, [True])) + len(_other_cases(o)) + len(o.factors) + 2
    total = len(o.data) * (cases + 2 * len(o.ranks) * len(o.codecs)) + len(o.codecs) * len(o.rounds)
    large = len(o.codecs) * (1 + 2 * len(o.ranks))
    step = Steps(progress, total + large)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in o.data:
            step(name, "reading")
            rows += _measure_one(o, _Training(o, name, DATA[name](o.seed)), Path(folder), step)
        step("Many machines", f"rounds of n = {power(o.n_large)}", large)
        rows += _projection_rows(o, _large(o, Path(folder)))
    progress("Done", "", 1.0)
    return results("communication", options, begin, rows)
