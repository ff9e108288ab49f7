"""Threads: concurrent callers do not disturb one another, workers on one model converge, the process keeps its float mode."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import reference as R

from lowprec import kernels
from lowprec._sgd import Sgd, openmp_enabled

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]


def in_threads(work, count):
    """Run work(k) for k < count, all at the same time; raise what they raised."""
    gate, errors = threading.Barrier(count), []

    def body(k):
        gate.wait()
        try:
            work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("n", [301, 20_011])  # short calls keep the GIL, long ones release it
def test_concurrent_callers(isa, n, rng):
    table = [row for row in kernels._table(isa) if row.index is None]
    operands, expected = {}, {}
    for D in R.TOKENS:
        codes = rng.standard_normal(n) if D == "32f" else rng.integers(R.min_code(D), R.max_code(D), n)
        operands[D] = R.sweep_pack(codes, D)
    words = {D: rng.integers(0, 2**16, n).astype(np.uint32 if D == "32f" else np.uint16) for D in R.TOKENS}

    def call(row, seed):
        x, w = operands[row.D], R.sweep_pack(np.zeros(n), row.M)
        if row.op == "dot":
            return row(x, R.sweep_pack(np.arange(n) % 7 - 3, row.M), n)
        arguments = [0.03, x, w]
        if row.op == "axpy_dot":
            arguments.append(x)
        if row.rounding == "srb":
            arguments.append(words[row.D])
        seeds = {} if row.rounding == "nearest" else {"seed": seed}
        return row(*arguments, n=n, **seeds), w.tobytes()

    for k, row in enumerate(table):
        expected[row.name] = call(row, k % 5)
    rounds = 1 if n > 10_000 else 5

    def work(worker):
        for _ in range(rounds):
            for k in np.random.default_rng(worker).permutation(len(table)):
                assert call(table[k], int(k) % 5) == expected[table[k].name], table[k].name

    in_threads(work, 4)


def logistic_problem(rng, rows, n):
    """The generative model of logistic regression, 8-bit codes; (codes, labels, float data)."""
    truth = rng.uniform(-1, 1, n)
    X = rng.uniform(-1, 1, (rows, n))
    labels = np.where(rng.random(rows) < 1 / (1 + np.exp(-X @ truth)), 1.0, -1.0).astype(np.float32)
    codes = np.clip(np.round(X * 127), -127, 127).astype(np.int8)
    return codes, labels


def mean_loss(codes, labels, w):
    return float(np.mean(np.logaddexp(0.0, -labels * (codes / 127.0 @ w))))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("M", "random"), [("8", "shared"), ("16", "xorshift"), ("32f", "nearest")])
def test_two_workers_on_one_model_converge(M, random, isa, rng):
    if not openmp_enabled():
        pytest.skip("built without OpenMP: one worker runs")
    rows, n = 8192, 64
    codes, labels = logistic_problem(rng, rows, n)
    losses = {}
    for workers in (1, 2):
        model = np.zeros(n, dtype=R.DTYPES[M])
        scale = 1.0 if M == "32f" else 3.0 / R.max_code(M)
        job = Sgd(codes.reshape(-1).view(np.uint8), n, rows, n, "8", M, random, model.view(np.uint8), labels, loss="logistic",
                  step=2.0**-6, data_scale=1 / 127, model_scale=scale, n_threads=workers, isa=isa)  # fmt: skip
        for _ in range(5):
            for first in range(0, job.share, 512):
                assert job.run(first, first + 512) == -1
        job.flush()
        losses[workers] = mean_loss(codes, labels, model.astype(np.float64) * scale)
    start = mean_loss(codes, labels, np.zeros(n))
    # Lost updates cost little: two workers get at least nine tenths of the way that one gets.
    assert losses[1] < 0.7 * start
    assert start - losses[2] > 0.9 * (start - losses[1]), losses


def test_runs_in_several_python_threads_at_once(rng):
    # independent runs, each with its own model: the same bits as one after the other
    codes, labels = logistic_problem(rng, 2048, 100)

    def train(seed):
        model = np.zeros(100, dtype=np.int8)
        job = Sgd(codes.reshape(-1).view(np.uint8), 100, 2048, 100, "8", "8", "shared", model.view(np.uint8), labels,
                  loss="logistic", step=0.02, data_scale=1 / 127, model_scale=3 / 127, seed=seed)  # fmt: skip
        for first in range(0, 2048, 256):
            job.run(first, first + 256)
        job.flush()
        return model.tobytes()

    alone = [train(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    together = [None] * 4

    def work(k):
        together[k] = train(k)

    in_threads(work, 4)
    assert together == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_train():
    # GNU OpenMP hangs in a child whose parent has had a team of threads; multiprocessing forks by default before Python 3.14.
    script = """
        import os, signal
        import numpy as np
        from lowprec._sgd import Sgd

        rows, n = 256, 64
        codes = np.random.default_rng(0).integers(-127, 128, (rows, n)).astype(np.int8)
        labels = np.ones(rows, dtype=np.float32)

        def train(workers):
            model = np.zeros(n, dtype=np.int8)
            job = Sgd(codes.reshape(-1).view(np.uint8), n, rows, n, "8", "8", "shared", model.view(np.uint8), labels,
                      loss="logistic", step=0.1, data_scale=1 / 127, model_scale=3 / 127, n_threads=workers)
            job.run(0, job.share)
            job.flush()
            return model.tobytes()

        expected = train(1)
        train(2)
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a hang ends as the signal
            train(2)
            os._exit(0 if train(1) == expected else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert run.stdout.split() == ["0"], run.stdout + run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_another_thread_merges_can_train():
    # The thread holds the merges' lock most of the time; in the child nobody would ever give it back.
    script = """
        import os, signal, threading, time
        import numpy as np
        import lowprec as lp

        rng = np.random.default_rng(0)
        wide, narrow = (rng.integers(-127, 128, (64, n)).astype(np.int8) for n in (1 << 17, 50))
        y = np.where(np.arange(64) % 2, 1, -1)

        def train(X, **options):
            return lp.train(X, y, step_size=1e-6, n_threads=2, **options)

        expected = train(narrow, deterministic=True).coef.tolist()
        done = threading.Event()

        def merge():
            while not done.is_set():
                train(wide, sync_every=1, model_scale=0.01)

        thread = threading.Thread(target=merge)
        thread.start()
        ends = []
        for _ in range(10):
            time.sleep(0.02)
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # a hang ends as the signal
                os._exit(0 if train(narrow, deterministic=True).coef.tolist() == expected else 1)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if ends[-1]:
                break
        done.set()
        thread.join()
        print(*ends)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert run.stdout.split() == ["0"] * 10, run.stdout + run.stderr


def test_the_float_mode_stays_as_it_was():
    # A shared library that is linked with -ffast-math sets flush-to-zero and denormals-are-zero for the whole process (MXCSR).
    # Either shows in the product of a subnormal number; new threads inherit the mode.
    script = """
        import threading
        import numpy as np

        def subnormals_work():
            single = np.full(9, 1e-40, dtype=np.float32)
            double = np.full(9, 1e-310)
            results = [single * np.float32(1.0), single * np.float32(0.5), np.full(9, 2e-38, np.float32) * np.float32(0.25)]
            results += [double * 1.0, double * 0.5, np.full(9, 4e-308) * 0.25]
            return all((r != 0).all() for r in results) and float("1e-310") * 0.5 != 0.0

        assert subnormals_work(), "subnormal numbers are flushed before anything is imported"
        import lowprec, lowprec.kernels, lowprec._sgd, lowprec._quantize
        assert subnormals_work(), "the package changed the float mode"
        try:
            import lowprec.report._baseline
        except ImportError:
            print("no baseline")
        assert subnormals_work(), "lowprec.report._baseline changed the float mode"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(subnormals_work()))
        thread.start(); thread.join()
        assert seen == [True]
        x = np.full(70, 1e-20, dtype=np.float32)
        for isa, runnable in lowprec.kernels._isas():
            if runnable:
                dot = next(row for row in lowprec.kernels._table(isa) if row.name == "dot_32f_32f")
                assert dot(x, x) > 0.0, isa
        print("done")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["done"]
