"""Checkpoints: a run that is interrupted, anywhere and any number of times, ends with the bits of the run that was not."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest
from conftest import SEED

import lowprec as lp
from lowprec.checkpoint import Checkpoint

#: How many random kills of each kind of run; more are for a thorough look.
KILLS = int(os.environ.get("LOWPREC_KILLS", "4"))

#: One of each thing that a run's state consists of.
RUNS = {
    "plain": {"signature": "D8M8"},
    "M4, shuffled": {"signature": "D8M4", "shuffle": True},
    "M16, blocks": {"signature": "D16M16", "shuffle": "blocks", "random": "xorshift"},
    "M32f": {"signature": "D32fM32f", "shuffle": True},
    "mt19937, refresh": {"signature": "D4M4", "random": "mt19937", "epochs": 2},
    "refresh": {"signature": "D8M8", "refresh": 7, "model_scale": 2.0**-9},
    "mini-batch": {"signature": "D8M8G8", "batch_size": 6, "shuffle": True},
    "weights, history": {"signature": "D8M8", "weighted": True, "history": True, "loss": "hinge"},
    "one scale a feature": {"signature": "D8M16", "data_scale": "feature", "init": True},
    "average, L1, schedule": {
        "signature": "D8M8", "average": True, "penalty": "l1", "alpha": 0.01, "schedule": "linear", "shuffle": True,
    },
    "elastic net, invscaling": {
        "signature": "D8M16", "penalty": "elasticnet", "alpha": 0.02, "schedule": "invscaling", "average": 100, "loss": "huber",
    },
    "L2 of floats": {"signature": "D32fM32f", "penalty": "l2", "alpha": 0.05},
    "several models": {"signature": "D8M8", "several": True, "shuffle": True, "history": True},
    "several models, average, L2": {"signature": "D8M16", "several": True, "average": True, "penalty": "l2", "alpha": 0.01},
    "SVRG": {"signature": "D8M8", "solver": "svrg", "history": True, "shuffle": True},
    "SVRG, several models, L2": {"signature": "D16M8", "solver": "svrg", "several": True, "penalty": "l2", "alpha": 0.01},
    "sparse": {"signature": "D8i16M8", "sparse": True, "shuffle": True, "average": True},
    "sparse, SVRG": {"signature": "D8M8", "sparse": True, "solver": "svrg"},
    "two workers": {"signature": "D8M8", "n_threads": 2, "deterministic": True, "sync_every": 8, "shuffle": True},
    # An epoch of 80 rows a worker ends within a round.
    "two workers, rounds cut": {"signature": "D8M16", "n_threads": 2, "deterministic": True, "sync_every": 9},
}  # fmt: skip


def problem():
    """Data, labels and weights, the same in every process."""
    rng = np.random.default_rng(SEED)
    X = rng.normal(size=(160, 24)).astype(np.float32)
    X[rng.random(X.shape) < 0.5] = 0
    w = rng.normal(size=(24, 3))
    return X, X @ w > 0, rng.uniform(0.5, 2.0, len(X))


def run(kind, checkpoint=None, **more):
    """Train as a kind of run says."""
    how = {"step_size": 0.05, "epochs": 2, "n_threads": 1, "seed": 5, "fit_intercept": True} | RUNS[kind] | more
    X, y, weight = problem()
    if how.pop("sparse", False):
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    labels = y if how.pop("several", False) else y[:, 0]
    if how.pop("weighted", False):
        how["sample_weight"] = weight
    if how.pop("init", False):
        how["init"] = np.linspace(-0.5, 0.5, X.shape[1])
    return lp.train(X, labels, checkpoint=checkpoint, **({"checkpoint_seconds": 0.0} | how))


def assert_same(a, b):
    """All of a result but the times."""
    np.testing.assert_array_equal(a.coef, b.coef)
    np.testing.assert_array_equal(a.intercept, b.intercept)
    for q, p in zip(*(r.model if isinstance(r.model, list) else [r.model] for r in (a, b)), strict=True):
        assert q.codes.tobytes() == p.codes.tobytes()
        np.testing.assert_array_equal(q.scale, p.scale)
    np.testing.assert_array_equal(a.history, b.history)
    for name in ("model_scale", "saturated", "widened", "n_examples", "signature"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and against the loss of power, not of the process


@pytest.mark.parametrize("kind", RUNS)
def test_interrupted_at_every_checkpoint(kind, tmp_path, monkeypatch):
    """Each attempt gets as far as one checkpoint more."""
    whole = run(kind)
    path, write = tmp_path / "run", Checkpoint.write

    def once(self, facts, arrays):
        write(self, facts, arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", once)
    attempts = 0
    while True:
        try:
            resumed = run(kind, path)
        except KeyboardInterrupt:
            attempts += 1
        else:
            break
    assert attempts >= 2 if RUNS[kind].get("solver") == "svrg" else attempts > 5
    assert_same(resumed, whole)


def forked(kind, path, kill_after=None):
    """Run in a child process, which may be killed; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run(kind, path)
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["several models", "average, L1, schedule", "SVRG", "sparse", "two workers, rounds cut"])
def test_killed_at_random(kind, tmp_path):
    """`LOWPREC_KILLS` SIGKILLs at random moments, each of a process that goes on from where the last one was."""
    rng = random.Random(f"{SEED} {kind}")
    whole = run(kind)
    begin = time.perf_counter()
    assert forked(kind, tmp_path / "timed")
    took = time.perf_counter() - begin
    path, killed, runs = tmp_path / "run", 0, 0
    while killed < KILLS and runs < 20 * KILLS:
        runs += 1
        if forked(kind, path, kill_after=rng.uniform(0.0, took)):
            assert_same(run(kind, path), whole)
            path.unlink()
        else:
            killed += 1
    assert killed >= KILLS
    assert_same(run(kind, path), whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run("several models", tmp_path / "run")
    assert_same(run("several models", tmp_path / "run", callback=lambda info: pytest.fail("trained again")), first)


def test_other_workers_go_on_where_the_length_of_rounds_was_chosen(tmp_path):
    """What is chosen depends on how many workers there are, and is no argument that the file must agree with."""
    X = np.ones((640, 8), np.float32)
    given = {"signature": "D32fM32fC8s", "step_size": 0.02, "epochs": 2, "checkpoint_seconds": 0.0}
    y = np.arange(640) % 2
    whole = {n: lp.train(X, y, n_threads=n, **given).communication.exchanges for n in (2, 4)}
    assert whole[2] < 2 * whole[4], "rounds are longer where there are fewer workers"

    def stop(info):
        if info.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lp.train(X, y, n_threads=4, checkpoint=tmp_path / "run", callback=stop, **given)
    begun = (tmp_path / "run").read_bytes()
    for n in (2, 4):
        (tmp_path / "run").write_bytes(begun)
        r = lp.train(X, y, n_threads=n, checkpoint=tmp_path / "run", **given)
        assert (r.n_examples, r.communication.workers) == (1280, n)
    with pytest.raises(ValueError, match="run: is the checkpoint of another run"):
        lp.train(X, y, n_threads=4, checkpoint=tmp_path / "run", sync_every=8, **given)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run"
    run("plain", path)
    for other in ({"seed": 6}, {"step_size": 0.06}, {"epochs": 4}, {"shuffle": True}, {"loss": "hinge"}, {"average": True}):
        with pytest.raises(ValueError, match="run: is the checkpoint of another run; expected the same data and arguments"):
            run("plain", path, **other)
    with pytest.raises(ValueError, match="run: is the checkpoint of another run"):
        run("weights, history", path)


def test_any_cut_of_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run"
    run("plain", path)
    content = path.read_bytes()
    for size in range(0, len(content), 97):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="run: is no checkpoint"):
            run("plain", path)


def test_one_byte_that_differs_is_no_other_model(tmp_path):
    """An edited checkpoint is refused, or the edit is where nothing is read from; it never changes the model."""
    path = tmp_path / "run"
    whole = run("plain", path)
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 23):
        changed = bytearray(content)
        changed[at] ^= 0x11
        path.write_bytes(changed)
        try:
            found = run("plain", path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - some bytes of a zip file say nothing
            refused += 1
        else:
            assert_same(found, whole)
    assert refused > 0


def test_where_a_checkpoint_cannot_be(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "run"):
        with pytest.raises(ValueError, match="checkpoint: must be a file in a folder that exists"):
            run("plain", path)
