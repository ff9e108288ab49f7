"""Replicas of the model, merged every so many examples: against a plain oracle, bit for bit; and what users see of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reference as R
from test_sgd_driver import KINDS, RUNNABLE, Problem, cuts

import lowprec as lp
from lowprec import sgd
from lowprec._sgd import Sgd, can_pin, openmp_enabled


class PlainReplicas:
    """Workers one after another, each on its own model; merges add up what each has changed."""

    def __init__(self, problem, random, workers, sync_every, **options):
        self.every, self.w = sync_every, np.array(problem.w)
        self.workers = [problem.plain(random, stream=t, **options) for t in range(workers)]
        self.intercept = options.get("intercept")
        rows = problem.rows
        self.shares = [range(rows * t // workers, rows * (t + 1) // workers) for t in range(workers)]

    def merge(self):
        if self.workers[0].M == "32f":
            total = self.w.copy()
            for worker in self.workers:
                total = total + (worker.w - self.w)  # float32, in the order of the workers
            self.w = total
        else:
            top = R.max_code(self.workers[0].M)
            total = np.array(self.w, dtype=np.int64)
            for worker in self.workers:
                total += np.asarray(worker.w) - self.w
            self.w = np.clip(total, -top, top)
        if self.intercept is not None:
            total = self.intercept
            for worker in self.workers:
                total += worker.intercept - self.intercept
            self.intercept = total
        for worker in self.workers:
            worker.w, worker.intercept = self.w.copy(), self.intercept

    def epoch(self):
        longest = max(len(share) for share in self.shares)
        for first in range(0, longest, self.every):
            for worker, share in zip(self.workers, self.shares, strict=True):
                worker.epoch(share[first : first + self.every])
            self.merge()  # the last round ends with the epoch


def same(problem, model, w):
    if problem.M == "32f":
        return model.tobytes() == np.asarray(w, np.float32).tobytes()
    return problem.codes(model).tolist() == np.asarray(w).tolist()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_merged_together(D, M, random, isa, rng):
    for workers, every, n in ((2, 4, 41), (3, 1, 64), (2, 100, 7), (5, 3, 130)):
        problem = Problem(rng, D, M, n=n)
        start = {"intercept": 0.25, "intercept_step": 0.125}
        plain = PlainReplicas(problem, random, workers, every, seed=5, **start)
        job, model = problem.driver(random, seed=5, n_threads=workers, sync_every=every, together=True, isa=isa, **start)
        for _ in range(2):  # rounds are counted from the beginning of each epoch
            plain.epoch()
            for first, last in cuts(rng, job.share):
                assert job.run(first, last) == -1
        # What is looked at on the way changes nothing; what is merged is what was seen.
        seen = np.empty_like(model)
        assert job.snapshot(seen) == pytest.approx(job.snapshot(np.empty_like(model)), abs=0.0)
        job.merge()
        plain.merge()
        assert same(problem, model, plain.w), (workers, every, n)
        assert seen.tobytes() == model.tobytes()
        assert job.intercept == plain.intercept


@pytest.mark.parametrize("M", R.TOKENS)
def test_snapshots_change_nothing(M, rng):
    problem = Problem(rng, "8", M, rows=60)
    models = []
    for looks in (False, True):
        job, model = problem.driver("shared", seed=2, n_threads=2, sync_every=7, together=True)
        for first in range(0, 30, 5):
            job.run(first, first + 5)
            if looks:
                job.snapshot(np.empty_like(model))
        job.merge()
        models.append(model.tobytes())
    assert models[0] == models[1]


@pytest.mark.parametrize("M", R.FIXED)
def test_widening_merges_first(M, rng):
    problem = Problem(rng, "8", M, rows=40)
    plain = PlainReplicas(problem, "shared", 2, 20, seed=4)
    job, model = problem.driver("shared", seed=4, n_threads=2, sync_every=20, together=True)
    for _ in range(2):
        plain.epoch()
        plain.merge()
        plain.w = np.array([round(int(v) / 2) for v in plain.w])
        for worker in plain.workers:
            worker.w = plain.w.copy()
            worker.model_scale *= 2
        job.run(0, 20)
        job.widen()
        assert same(problem, model, plain.w)


@pytest.mark.parametrize("sync_every", [1, 8, 1000])
@pytest.mark.parametrize("M", ["8", "16", "32f"])
def test_under_a_lock_nothing_is_lost(M, sync_every, rng):
    # Steps that do not depend on the model (the hinge loss, far inside the margin) on features of their own: the sum is known
    # whatever the order of the merges.
    n, rows = 8, 4000
    X = np.zeros((rows, n), np.int8)
    X[np.arange(rows), rng.integers(0, n, rows)] = 1
    y = np.ones(rows, np.float32)
    model = np.zeros(n, R.DTYPES[M])
    step, random = (1 / 64, "xorshift") if M == "8" else (1.0, "nearest")
    job = Sgd(X.reshape(-1).view(np.uint8), n, rows, n, "8", M, random, model.view(np.uint8), y, loss="hinge", step=step,
              data_scale=1e-6, model_scale=1.0 if M == "32f" else 1e-6, n_threads=4, sync_every=sync_every)  # fmt: skip
    job.run(0, job.share)
    job.merge()
    counts = X.sum(axis=0, dtype=np.int64)
    if M == "16":
        assert model.tolist() == counts.tolist()
    elif M == "32f":
        assert np.allclose(model, counts * 1e-6, rtol=1e-4)
    else:  # each write moves by one quantum with probability 1/64: four standard deviations of a binomial
        assert (np.abs(model - counts / 64) < 4 * np.sqrt(counts / 64)).all()


def blobs(rng, rows=4000, n=64):
    X = rng.uniform(-1, 1, (rows, n)).astype(np.float32)
    w = rng.uniform(-1, 1, n)
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X @ w))).astype(int)


@pytest.mark.parametrize("signature", ["D8M8", "D16M16", "D8M16", "D32fM32f", "D4M4"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_deterministic_runs_are_equal(signature, n_threads, rng):
    X, y = blobs(rng)
    options = {"signature": signature, "step_size": 0.02, "epochs": 2, "n_threads": n_threads, "seed": 3, "deterministic": True}
    a = lp.train(X, y, **options)
    b = lp.train(X, y, callback=lambda info: info.coef() is None, **options)  # looking on changes nothing
    assert a.coef.tobytes() == b.coef.tobytes()
    assert a.model_scale == b.model_scale
    c = lp.train(X, y, sync_every=7, **options)
    d = lp.train(X, y, sync_every=7, fit_intercept=True, history=True, **options)
    e = lp.train(X, y, sync_every=7, fit_intercept=True, **options)
    assert d.coef.tobytes() == e.coef.tobytes()
    assert d.intercept == e.intercept
    if n_threads == 1:  # one worker has nobody to merge with
        assert a.coef.tobytes() == c.coef.tobytes()
        assert a.coef.tobytes() == lp.train(X, y, **options | {"deterministic": False}).coef.tobytes()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("sync_every", [1, 64])
def test_replicas_reach_the_same_loss(sync_every, deterministic, rng):
    X, y = blobs(rng, 20_000)
    options = {"signature": "D8M16", "step_size": 0.01, "epochs": 3, "history": True}
    one = lp.train(X, y, n_threads=1, **options).history[-1]
    two = lp.train(X, y, n_threads=2, sync_every=sync_every, deterministic=deterministic, **options).history[-1]
    assert abs(two / one - 1) < 0.02


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_the_same_model():
    script = """
        import os, signal
        import numpy as np
        import lowprec as lp

        rng = np.random.default_rng(0)
        X, y = rng.uniform(-1, 1, (2000, 50)).astype(np.float32), rng.integers(0, 2, 2000)

        def train():
            return lp.train(X, y, step_size=0.05, epochs=2, n_threads=2, sync_every=16, deterministic=True)

        expected = train()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a hang ends as the signal
            result = train()
            os._exit(0 if result.coef.tobytes() == expected.coef.tobytes() and result.n_threads == 1 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), expected.n_threads)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert run.stdout.split() == ["0", "2" if openmp_enabled() else "1"], run.stdout + run.stderr


@pytest.mark.skipif(not can_pin(), reason="this system cannot pin threads")
def test_pinned_threads_are_let_go_again(rng):
    X, y = blobs(rng)
    before = os.sched_getaffinity(0)
    plain = lp.train(X, y, step_size=0.02, n_threads=1)
    pinned = lp.train(X, y, step_size=0.02, n_threads=1, pin_threads=True)
    assert pinned.coef.tobytes() == plain.coef.tobytes()
    assert np.isfinite(lp.train(X, y, step_size=0.02, n_threads=2, pin_threads=True).coef).all()
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("prefetch", [0, 64, 100_000])
def test_prefetching_changes_no_bit(prefetch, rng):
    X, y = blobs(rng, 500, 300)
    for shuffle in (False, True):
        options = {"step_size": 0.02, "n_threads": 1, "shuffle": shuffle}
        assert lp.train(X, y, prefetch=prefetch, **options).coef.tobytes() == lp.train(X, y, **options).coef.tobytes()


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"sync_every": 0}, "sync_every: must be at least 1"),
        ({"sync_every": -3}, "sync_every: must be at least 1"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"sync_every": 10, "batch_size": 4}, "sync_every: must be a multiple of batch_size"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch": 1 << 40}, "prefetch"),
    ],
)
def test_refused(options, fragment, rng):
    X, y = blobs(rng, 50, 5)
    with pytest.raises(ValueError, match=fragment):
        lp.train(X, y, step_size=0.1, **options)


@pytest.mark.skipif(not can_pin(), reason="this system cannot pin threads")
def test_threads_that_openmp_binds_are_left_to_it(monkeypatch):
    monkeypatch.delenv("OMP_PROC_BIND", raising=False)
    monkeypatch.delenv("OMP_PLACES", raising=False)
    monkeypatch.delenv("GOMP_CPU_AFFINITY", raising=False)
    assert len(sgd._cpus(3)) == 3
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    assert sgd._cpus(3) is None


@pytest.mark.parametrize("options", [{"sync_every": 2.5}, {"deterministic": "yes"}, {"pin_threads": 1}, {"batch_size": "16"}])
def test_wrong_kinds(options, rng):
    X, y = blobs(rng, 50, 5)
    with pytest.raises(TypeError, match=next(iter(options))):
        lp.train(X, y, step_size=0.1, **options)
