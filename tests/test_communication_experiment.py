"""``lowprec experiment communication``: what must be equal is equal, on a problem far too small to mean anything else."""

from __future__ import annotations

import importlib.util
import json
import statistics

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

import lowprec as lp
from lowprec.communication.accounting import bytes_per_exchange
from lowprec.datasets import generative
from lowprec.perfmodel import CommunicationModel, Link, Work
from lowprec.perfmodel.communication import CODECS
from lowprec.report import codings, projection
from lowprec.report.experiments import communication, communication_worker
from lowprec.report.experiments.communication_worker import launcher, run_ranks
from lowprec.report.tables import to_markdown

M, N = 512, 70
SMALL = communication.Options(
    data=("tiny",),
    others=("D8M16C1s",),
    batched=("D32fM32fG1C1s",),
    ranks=(2,),
    passes=2,
    sync_every=64,
    rounds=(32, 64),
    factors=(0.25, 0.5),
    n_large=256,
    large_rounds=2,
    large_turns=1,
)


def tiny(seed):
    made = generative(N, M, seed)
    return communication.Data(made.X, made.y)


def measured(monkeypatch, options):
    monkeypatch.setitem(communication.DATA, "tiny", tiny)
    seen = []
    results = communication.measure(options, lambda *told: seen.append(told))
    assert all(tuple(row) == communication.FIELDS for row in results["rows"])
    assert json.loads(json.dumps(results["options"])) == results["options"]
    done = [share for _, _, share in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0
    return results


def select(results, table, **wanted):
    rows = [row for row in results["rows"] if row["table"] == table]
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def shown(results):
    """Everything that is printed, and the plots drawn."""
    figures = communication.figures(results)
    assert all(figure.axes for figure in figures.values())
    assert set(figures) == {f"communication-{what}" for what in ("bytes", "time", "feedback", "machines")}
    return "\n".join(to_markdown(table) for table in communication.tables(results))


# ---- with threads alone --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def threads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(communication, "launcher", lambda: None)
        return measured(patch, SMALL)


def test_every_case_is_there(threads):
    o = SMALL
    runs = select(threads, "runs", ranks=o.workers)
    plain = {(r["codec"], r["synchronous"], r["error_feedback"]) for r in runs if r["signature"].startswith("D32fM32fC")}
    assert plain == {(C, s, kept) for C in CODECS for s in (True, False) for kept in (True, False)}
    assert len(runs) == 4 * len(CODECS) + 2
    assert len(select(threads, "runs", ranks=2)) == 2 * len(CODECS), "those that are timed"
    assert len(select(threads, "trace")) == o.passes * len(select(threads, "runs"))
    assert len(select(threads, "rounds")) == len(CODECS) * len(o.rounds)
    assert len(select(threads, "steps")) == len(o.factors)
    assert {row["workers"] for row in select(threads, "runs")} == {"threads"}


def test_the_step_is_the_best_for_full_precision(threads):
    X = tiny(SMALL.seed).X
    rows = select(threads, "steps")
    norm = float(np.sum(X.astype(np.float64) ** 2)) / M
    rounding = X.size * 2.0**-52  # of a sum, in whatever order
    for row, factor in zip(rows, SMALL.factors, strict=True):
        assert abs(row["step_size"] * norm / factor - 1.0) <= rounding
    best = min(rows, key=lambda row: row["loss"])
    assert best["excess"] == 0.0
    assert {row["step_size"] for row in select(threads, "runs")} == {best["step_size"]}
    (full,) = select(threads, "runs", signature="D32fM32fC32fs", error_feedback=True, ranks=SMALL.workers)
    assert (full["final_loss"], full["excess"]) == (best["final_loss"], 0.0)
    trace = select(threads, "trace", signature="D32fM32fC32fs", error_feedback=True, ranks=SMALL.workers)
    assert best["loss"] == statistics.fmean(row["loss"] for row in trace)


def test_full_precision_is_training_without_a_codec(threads):
    """C32fs has the bits of deterministic workers that merge their replicas."""
    X, y = tiny(SMALL.seed)
    (full,) = select(threads, "runs", signature="D32fM32fC32fs", error_feedback=True, ranks=SMALL.workers)
    given = {"step_size": full["step_size"], "epochs": SMALL.passes, "seed": SMALL.seed, "sync_every": SMALL.sync_every}
    given |= {"schedule": "linear", "shuffle": True, "fit_intercept": True, "history": True}
    found = lp.train(X, y, signature="D32fM32f", n_threads=SMALL.workers, deterministic=True, **given)
    trace = select(threads, "trace", signature="D32fM32fC32fs", error_feedback=True, ranks=SMALL.workers)
    assert [row["loss"] for row in trace] == found.history


def test_bytes_are_those_of_the_codec(threads):
    """Every worker has M / workers examples in a pass, so many rounds of sync_every, and one of its batches is a round."""
    for row in select(threads, "runs"):
        if row["codec"] is None:
            assert row["bytes"] == 0.0
            continue
        every = SMALL.batch_size if row["batch_size"] > 1 else SMALL.sync_every
        exchanges = SMALL.passes * M // row["ranks"] // every
        assert row["sync_every"] == every
        assert row["bytes_per_step"] == bytes_per_exchange(row["codec"], N, row["ranks"], intercept=True)
        if row["signature"].startswith("D32f"):  # the others also exchange before their range is looked at
            assert row["exchanges"] == exchanges
        assert row["bytes"] == row["bytes_per_step"] * row["exchanges"]
        trace = select(
            threads,
            "trace",
            **{key: row[key] for key in ("signature", "error_feedback", "ranks", "workers")},
        )
        assert [(r["passes"], r["bytes"]) for r in trace] == [(1, row["bytes"] / 2), (2, row["bytes"])]
        assert (trace[-1]["loss"], trace[-1]["seconds"]) == (row["final_loss"], row["seconds"])


def test_one_bit_needs_feedback(threads):
    """Synchronous runs repeat to the bit, and so does this."""
    with_, without = (select(threads, "runs", signature="D32fM32fC1s", error_feedback=kept, ranks=4)[0] for kept in (True, False))
    assert with_["final_loss"] < without["final_loss"]
    (full,) = select(threads, "rounds", codec="1", sync_every=SMALL.sync_every)
    assert full["final_loss"] == with_["final_loss"]


def test_without_mpi_it_says_so(threads):
    text = shown(threads)
    assert "these are threads, whose messages cross no wire" in text
    assert "no link was measured, and no projection checked" in text
    assert not select(threads, "check")
    assert {row["link"] for row in select(threads, "link")} == set(projection.LINKS)


def test_the_projection_follows_from_what_was_measured(threads):
    (alone,) = select(threads, "alone")
    each = SMALL.sync_every
    work = Work(n=SMALL.n_large, examples=each, numbers=each * SMALL.n_large, seconds=alone["seconds"])
    rates = {row["codec"]: codings.Coding(row["codec"], row["encode"], row["decode"]) for row in select(threads, "coding")}
    rows = select(threads, "projection")
    assert len(rows) == 2 * len(projection.LINKS) * len(CODECS) * len(projection.MACHINES)
    for row in rows[:: len(projection.MACHINES) + 1]:
        link = Link(row["latency_seconds"], row["bandwidth"])
        model = CommunicationModel(work, link, rates[row["codec"]], asynchronous=not row["synchronous"])
        assert row["round_seconds"] == model.round(row["ranks"]).seconds
        assert row["gnps"] == model.gnps(row["ranks"])


# ---- with ranks ----------------------------------------------------------------------------------------------------

needs_ranks = pytest.mark.skipif(launcher() is None, reason="there is no mpi4py, or no mpiexec")


@needs_ranks
def test_ranks_and_threads_come_to_the_same(monkeypatch):
    options = communication.Options(**vars(SMALL) | {"codecs": ("1", "32f"), "workers": 2})
    results = measured(monkeypatch, options)
    runs = select(results, "runs", workers="ranks")
    assert len(runs) == 2 * 2
    for row in runs:
        assert row["same_as_threads"] is (True if row["synchronous"] else None)
        assert row["exchange_seconds"] > 0
        (theirs,) = [
            r
            for r in select(results, "runs", workers="threads", signature=row["signature"], ranks=2)
            if r["error_feedback"] == row["error_feedback"]
        ]
        keys = ("bytes_per_step", "exchanges", "float32_ratio", "sync_every")
        assert {key: row[key] for key in keys} == {key: theirs[key] for key in keys}
    checks = select(results, "check")
    assert [(row["codec"], row["synchronous"], row["ranks"]) for row in checks] == [
        (C, s, 2) for s in (True, False) for C in ("1", "32f")
    ]
    assert all(row["projected_over_measured"] == row["round_seconds"] / row["measured_seconds"] for row in checks)
    assert communication.HERE in {row["link"] for row in select(results, "link")}
    text = shown(results)
    assert "as many threads, to the bit, in 2 of 2 runs" in text
    assert "Measured against projected" in text


@needs_ranks
def test_ranks_that_fail_say_why(tmp_path):
    np.save(tmp_path / "X.npy", np.ones((8, 2), np.float32))
    np.save(tmp_path / "y.npy", np.ones(8, np.int8))
    task = {"X": str(tmp_path / "X.npy"), "y": str(tmp_path / "y.npy"), "train": [(8, {"signature": "D8M8", "step_size": 0.1})]}
    with pytest.raises(RuntimeError, match="2 ranks could not measure; they said: ValueError: signature: needs a C term"):
        run_ranks(2, tmp_path, task)


def test_without_mpi4py_there_is_no_launcher(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launcher() is None
    with pytest.raises(RuntimeError, match=r"needs mpi4py and mpiexec: pip install 'lowprec\[mpi\]'"):
        run_ranks(2, tmp_path, {})


def test_the_launcher_may_be_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(communication_worker.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(communication_worker.shutil, "which", lambda name: f"/opt/{name}")
    assert launcher() == "/opt/mpiexec"
    (tmp_path / "mpiexec").touch()
    assert launcher() == str(tmp_path / "mpiexec")


# ---- coding rates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", list(CODECS))
@pytest.mark.parametrize("M", ["4", "8", "16", "32f"])
def test_rates_are_numbers_over_seconds(C, M, monkeypatch):
    """By a clock on which every step takes a second: n are encoded in one, and 2 n decoded in a merge and a take, less half
    a second in which the merge encodes its chunk."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(codings.time, "perf_counter", lambda: float(next(ticks)))
    rates = codings.coding_rates(C, 2**12, M=M, exchanges=3)
    assert (rates.C, rates.encode, rates.decode) == (C, 2**12, 2**13 / 1.5)


def test_rates_are_refused_where_there_is_nothing_to_share():
    with pytest.raises(ValueError, match="n: must be at least 128"):
        codings.coding_rates("8", 64)
    with pytest.raises(ValueError, match="C: choose one of"):
        codings.coding_rates("3", 256)
