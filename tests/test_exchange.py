"""Explicit communication between threads, held to the oracle: what workers agree on after each exchange, to the bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import reference as R
from test_replicas import PlainReplicas, same
from test_sgd_driver import RUNNABLE, Problem, as_bytes, cuts

import lowprec as lp
from lowprec import loop
from lowprec.communication import bytes_per_exchange

F = np.float32


def chunks(n, workers):
    """Columns of each owner: whole spans of 64."""
    spans = -(-n // 64)
    ends = [min(n, spans * q // workers * 64) for q in range(workers + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


class Exchanging(PlainReplicas):
    """Workers one after another; at the end of a round they exchange coded changes, as docs/architecture.md says."""

    def __init__(self, problem, random, workers, sync_every, *, C, feedback, at_random, seed, **options):
        super().__init__(problem, random, workers, sync_every, seed=seed, **options)
        self.M, self.C, self.feedback, self.at_random = problem.M, C, feedback and C != "32f", at_random
        self.agreed = np.array(self.w, F)
        self.chunks = chunks(problem.n, workers)
        self.residual = [np.zeros(problem.n, F) for _ in range(workers)]
        self.owed = np.zeros(problem.n, F)
        self.giving = [R.Stream(seed, 2**34 + t) for t in range(workers)]
        self.merging = [R.Stream(seed, 2**35 + q) for q in range(workers)]

    def code(self, v, source):
        message, left, _ = R.encode(self.C, v, feedback=self.feedback, random=self.at_random, source=source)
        return np.array(R.decode(self.C, message, len(v)), F), np.array(left, F)

    def merge(self):
        given = []
        for t, worker in enumerate(self.workers):
            changed = np.array([F(a) - F(b) for a, b in zip(worker.w, self.w, strict=True)], F)
            v = self.residual[t] + changed if self.feedback else changed
            parts = [self.code(v[part], self.giving[t]) for part in self.chunks]
            given.append(np.concatenate([decoded for decoded, _ in parts]))
            if self.feedback:
                self.residual[t] = np.concatenate([left for _, left in parts])
        for q, part in enumerate(self.chunks):
            total = self.agreed[part].copy() if self.C == "32f" else self.owed[part].copy()
            for vector in given:
                total = total + vector[part]
            decoded, left = self.code(total, self.merging[q])
            self.agreed[part] = decoded if self.C == "32f" else self.agreed[part] + decoded
            if self.feedback:
                self.owed[part] = left
        self.to_codes()
        total = self.intercept
        for worker in self.workers:
            total += worker.intercept - self.intercept
        self.intercept = total
        self.start()

    def to_codes(self):
        if self.M == "32f":
            self.w = self.agreed.copy()
            return
        top = R.max_code(self.M)
        self.agreed = np.clip(self.agreed, F(-top), F(top))
        self.w = np.array([round(float(a)) for a in self.agreed], np.int64)

    def start(self):
        for worker in self.workers:
            worker.w, worker.intercept = self.w.copy(), self.intercept

    def widen(self):
        carry = self.agreed - np.array(self.w, F)
        self.w = np.array([round(int(v) / 2) for v in self.w])
        self.agreed = np.array(self.w, F) + F(0.5) * carry
        for residual in (*self.residual, self.owed):
            residual *= F(0.5)
        for worker in self.workers:
            worker.model_scale *= 2
        self.start()


CASES = [
    # D, M, C, feedback, at random, workers, rows to a round, n
    ("8", "8", "1", True, True, 3, 4, 130),
    ("8", "8", "1", False, True, 2, 4, 65),
    ("8", "16", "2", True, True, 2, 8, 200),
    ("8", "8", "4", True, False, 2, 100, 41),
    ("8", "8", "8", True, True, 5, 3, 130),
    ("8", "16", "8", False, True, 3, 4, 300),
    ("4", "4", "8", True, True, 2, 5, 131),
    ("16", "16", "16", True, True, 2, 4, 66),
    ("32f", "32f", "16f", True, True, 3, 4, 70),
    ("32f", "32f", "1", True, True, 2, 4, 70),
    ("32f", "8", "4", False, True, 2, 4, 70),
    ("8", "32f", "32f", True, True, 3, 4, 130),
    ("8", "8", "32f", False, True, 3, 4, 130),
]


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "C", "feedback", "at_random", "workers", "every", "n"), CASES)
def test_synchronous(D, M, C, feedback, at_random, workers, every, n, isa, rng):
    problem = Problem(rng, D, M, n=n)
    start = {"intercept": 0.25, "intercept_step": 0.125}
    plain = Exchanging(problem, "shared", workers, every, C=C, feedback=feedback, at_random=at_random, seed=5, **start)
    asked = {"codec": C, "columns": n, "random": at_random, "feedback": feedback, "staleness": 1, "local": None}
    random = "nearest" if M == "32f" else "shared"
    job, model = problem.driver(
        random, seed=5, n_threads=workers, sync_every=every, together=True, isa=isa, exchange=asked, **start
    )
    for epoch in range(3):
        plain.epoch()
        for first, last in cuts(rng, job.share):
            assert job.run(first, last) == -1
        if epoch == 1 and M != "32f":
            plain.widen()
            job.widen()
        seen = np.empty_like(model)
        assert job.snapshot(seen) == plain.intercept
        assert seen.tobytes() == model.tobytes()
        assert same(problem, model, plain.w), epoch
    assert len(set(np.asarray(plain.w).tolist())) > 2  # models that moved
    rounds = -(-job.share // every)
    assert job.exchanges[0] == 3 * rounds


def data(rng, m=600, n=70):
    X = rng.uniform(-1, 1, (m, n)).astype(F)
    return X, X @ rng.normal(size=n) > 0


@pytest.mark.parametrize("D", ["8", "32f"])
@pytest.mark.parametrize("more", [{}, {"batch_size": 4}, {"penalty": "elasticnet", "alpha": 1e-3, "average": True}])
def test_32_bits_are_a_deterministic_run(D, more, rng):
    X, y = data(rng)
    options = {"step_size": 0.05, "epochs": 3, "n_threads": 3, "sync_every": 8, "fit_intercept": True, "seed": 4} | more
    options["history"] = True
    for M in ("8", "16", "32f"):
        one = lp.train(X, y, signature=f"D{D}M{M}", deterministic=True, **options)
        two = lp.train(X, y, signature=f"D{D}M{M}C32fs", **options)
        assert one.coef.tobytes() == two.coef.tobytes()
        for name in ("intercept", "history", "saturated", "widened", "narrowed"):
            assert getattr(one, name) == getattr(two, name), name


@pytest.mark.parametrize("C", ["1", "2", "4", "8", "16", "16f", "32f"])
@pytest.mark.parametrize("M", ["8", "32f"])
def test_what_it_costs(C, M, rng):
    X, y = data(rng)
    r = lp.train(X, y, signature=f"D8M{M}C{C}s", step_size=0.02, epochs=2, n_threads=4, sync_every=10, fit_intercept=True)
    info = r.communication
    assert (info.codec, info.synchronous, info.workers, info.rank, info.exchanges) == (C, True, 4, None, 2 * 15)
    assert info.sync_every == 10
    assert r.n_threads <= 4
    # 70 columns are two spans: two of the four owners have columns, 64 and 6.
    vector = R.coded_bytes(C, 64) + R.coded_bytes(C, 6) + 8
    assert info.bytes_per_exchange == bytes_per_exchange(C, 70, 4, intercept=True) == 2 * 3 / 4 * vector
    assert info.bytes_sent == round(30 * info.bytes_per_exchange)
    assert info.float32_bytes == 30 * 1.5 * (70 * 4 + 8)
    assert info.ratio == info.float32_bytes / 30 / info.bytes_per_exchange
    assert 0 < info.seconds <= r.seconds


def test_the_bytes_of_large_vectors_are_those_of_their_bits():
    for C, bits in R.CODE_BITS.items():
        for n in (2**16, 2**20):
            for workers in (2, 4, 8):
                full = bytes_per_exchange("32f", n, workers)
                assert full == 2 * (workers - 1) / workers * 4 * n
                assert bits / 32 <= bytes_per_exchange(C, n, workers) / full <= 1.05 * bits / 32, (C, n, workers)


@pytest.mark.parametrize("C", ["8", "32f"])
@pytest.mark.parametrize("M", ["8", "16", "32f"])
def test_asynchronous_threads_lose_nothing(M, C, rng):
    """Features of their own and steps that do not depend on the model (hinge, far inside the margin): the sum is known."""
    n, rows = 8, 400
    X = np.zeros((rows, n), np.int8)
    X[np.arange(rows), rng.integers(0, n, rows)] = 1
    scale = {} if M == "32f" else {"model_scale": 1e-6}  # a step is a quantum
    r = lp.train(X, np.ones(rows), signature=f"D8M{M}C{C}", loss="hinge", step_size=1e-6, n_threads=4, sync_every=10,
                 rounding="nearest", **scale)  # fmt: skip
    assert (r.widened, r.communication.synchronous, r.communication.exchanges) == (0, False, 10)
    # Of a round's counts, 10 at most, each of four workers may keep half a level, 10 / 127 / 2; and a code is half a quantum off.
    left = {"32f": 0.0, "8": 4 * 10 / 127 / 2 + (0.0 if M == "32f" else 0.5)}[C]
    assert np.abs(r.coef / 1e-6 - X.sum(axis=0, dtype=np.int64)).max() <= left + 1e-3


class Ranks:
    """Asynchronous ranks in one process, in lockstep: each gives, is answered, and learns."""

    def __init__(self, problem, workers, **asked):
        how = {"columns": problem.n, "random": True, "feedback": False, "staleness": 1} | asked
        self.jobs = [
            problem.driver("shared", seed=k, n_threads=workers, sync_every=5, exchange=how | {"local": k}, intercept=0.0)[0]
            for k in range(workers)
        ]
        for job in self.jobs:
            job.link = self

    def exchange(self):
        """Called by each job at the end of its round: in `together`, when all are there."""

    def together(self):
        for t, job in enumerate(self.jobs):
            job.ready()
            messages = [np.zeros(job.message_bytes(q) + 1, np.uint8) for q in range(len(self.jobs))]
            for q, message in enumerate(messages):
                job.give(q, message, 0)
            job.given()
            for q, owner in enumerate(self.jobs):
                answer = np.zeros_like(messages[q])
                owner.answer(t, messages[q], 0, answer, 0)
                job.hear(q, answer, 0)
            job.learn()


@pytest.mark.parametrize("M", ["4", "8", "16"])
def test_an_owner_and_a_worker_have_the_same_book(M, rng):
    """What a worker has heard beyond the model's range it clips, and its owner knows."""
    for _ in range(10):
        problem = Problem(rng, "8", M, n=130)
        problem.step *= 40  # from limit to limit
        both = Ranks(problem, 2, codec="4")
        for first in (0, 5, 10):
            for job in both.jobs:
                assert job.run(first, first + 5) == -1
            both.together()
        for _ in range(60):  # nothing is learned any more: each answer says at least 6 / 7 of what is left
            both.together()
        owners = np.concatenate([job.columns(q) for q, job in enumerate(both.jobs)])
        assert np.abs(owners).max() == R.max_code(M)
        for job in both.jobs:
            seen = as_bytes(problem.w, M)
            job.snapshot(seen)
            assert np.abs(problem.codes(seen) - owners).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("signature", ["D8M8C8", "D32fM32fC1", "D8M16C4"])
@pytest.mark.parametrize("staleness", [1, 5])
def test_asynchronous_threads_learn(signature, staleness, rng):
    X, y = data(rng, m=2000, n=20)
    options = {"step_size": 0.02, "epochs": 5, "history": True, "seed": 1}
    alone = lp.train(X, y, signature=signature[: signature.index("C")], n_threads=1, **options).history
    four = lp.train(X, y, signature=signature, n_threads=4, sync_every=8, staleness=staleness, **options).history
    assert four[-1] < 0.5 * np.log(2)
    assert alone[-1] < 0.5 * np.log(2)


@pytest.mark.parametrize("C", ["1s", "8s", "32fs"])
def test_penalties_schedules_and_looks_keep_what_is_not_sent(C, rng):
    X, y = data(rng)
    r = lp.train(X, y, signature=f"D8M8C{C}", step_size=0.05, epochs=4, n_threads=3, sync_every=8, penalty="l2", alpha=1e-2,
                 schedule="linear", average=True, shuffle=True, history=True)  # fmt: skip
    again = lp.train(X, y, signature=f"D8M8C{C}", step_size=0.05, epochs=4, n_threads=3, sync_every=8, penalty="l2", alpha=1e-2,
                     schedule="linear", average=True, shuffle=True)  # fmt: skip
    assert r.coef.tobytes() == again.coef.tobytes()
    assert r.history[-1] < 0.6 * np.log(2)


@pytest.mark.parametrize("kind", ["D8M8C4s", "D32fM32fC1s", "G1C1s", "D8M16C8s several", "D8M8C4s sparse"])
def test_a_checkpoint_is_gone_on_from(kind, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(loop, "_BLOCK", 300)
    X, y = data(rng, m=500, n=40)
    signature, *how = kind.split()
    if how == ["several"]:
        y = np.stack([y, ~y, X[:, 0] > 0], axis=1)
    if how == ["sparse"]:
        sparse = pytest.importorskip("scipy.sparse")
        X, signature = sparse.csr_array(X * (np.abs(X) > 0.7)), "D8i8M8C4s"
    batch = {"batch_size": 8} if signature == "G1C1s" else {"sync_every": 8}
    options = {"signature": signature, "step_size": 0.02, "epochs": 3, "shuffle": True, "fit_intercept": True, "seed": 2} | batch
    whole = lp.train(X, y, n_threads=3, **options)
    file = tmp_path / "run"
    seen = []

    def stop(info):
        seen.append(info.examples)
        if len(seen) == 20:
            raise KeyboardInterrupt

    cut = options | {"checkpoint": file, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        lp.train(X, y, n_threads=3, callback=stop, **cut)
    before = file.read_bytes()
    on = lp.train(X, y, n_threads=3, **cut)
    assert on.coef.tobytes() == whole.coef.tobytes()
    assert np.array_equal(on.intercept, whole.intercept)
    # Another number of workers goes on from the same file, and sees every row that is left.
    for workers in (1, 2, 5):
        file.write_bytes(before)
        other = lp.train(X, y, n_threads=workers, **cut)
        assert np.isfinite(other.coef).all()
        assert abs(other.n_examples - 1500) < 5
        assert lp.train(X, y, n_threads=1, **cut).coef.tobytes() == other.coef.tobytes()  # it is over


@pytest.mark.parametrize(("M", "C", "together"), [("8", "4", True), ("32f", "1", True), ("4", "8", False), ("16", "2", False)])
def test_one_worker_goes_on_with_what_was_not_sent(M, C, together, rng):
    """And several with what one has."""
    problem = Problem(rng, "8", M, n=131)
    asked = {"codec": C, "columns": 131, "random": True, "feedback": True, "staleness": 1, "local": None}
    how = {"seed": 5, "sync_every": 4, "together": together, "exchange": asked}
    three, _ = problem.driver("shared", n_threads=3, **how)
    alone, model = problem.driver("shared", n_threads=1, **how)
    assert three.run(0, three.share) == -1
    state = three.state()
    alone.restore(state)
    owned = state["owned"] if together else F(0)
    total = state["agreed"] + state["residual"].sum(axis=0) + owned
    assert np.any(state["residual"])
    top = np.inf if M == "32f" else R.max_code(M)
    expected = total if M == "32f" else np.rint(np.clip(total, -top, top))
    assert np.array_equal(problem.codes(model), expected)
    alone.restore(state, over=True)
    assert model.tobytes() == state["model"].tobytes()
    assert alone.run(0, alone.share) == -1
    several, other = problem.driver("shared", n_threads=3, **how)
    several.restore(alone.state())
    assert other.tobytes() == model.tobytes()
    assert several.run(0, several.share) == -1
