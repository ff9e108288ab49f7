"""Between the rounds of training: penalties, schedules and averaging, against the oracle to the bit, and against optima."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import reference as R
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sgd_driver import KINDS, Problem, as_bytes, cuts, same
from test_sparse_kernels import Problem as SparseProblem

import lowprec as lp
from lowprec import loop, sgd
from lowprec._sgd import Sgd
from lowprec.datasets import generative
from lowprec.rounds import Rounds

FIXED = ("4", "8", "16")


def train(X, y, **options):
    return lp.train(X, y, **({"n_threads": 1, "step_size": 0.02} | options))


# ---- L1: one visit ------------------------------------------------------------------------------------------


class Still:
    """A model that examples do not move, for their weight is zero: what is left are the visits."""

    def __init__(self, w, M, *, random="shared", seed=0, scale=1.0, step=1.0, rows=1):
        self.M, self.n, self.model = M, len(w), as_bytes(w, M)
        self.run = Sgd(np.zeros(rows * self.n, np.uint8), self.n, rows, self.n, "8", M, random, self.model,
                       np.ones(rows, np.float32), loss="squared", step=step, data_scale=1.0, model_scale=scale, seed=seed,
                       weight=np.zeros(rows, np.float32))  # fmt: skip

    def visit(self):
        assert self.run.run(0, 1) == -1

    @property
    def w(self):
        return R.sweep_unpack(self.model if self.M == "4" else self.model.view(R.DTYPES[self.M]), self.M, self.n)


def every_code(M):
    return np.arange(-R.max_code(M), R.max_code(M) + 1)[:: 97 if M == "16" else 1]


def thetas(M):
    top = R.max_code(M)
    return [2.0**-20, 2.0**-16, 3 * 2.0**-16, 0.3, 0.5, 1.0 - 2.0**-16, 1.0, 1.5, top - 0.25, float(top), 2.0 * top, 1e6, 1e300]


@pytest.mark.parametrize("random", ["nearest", "shared"])
@pytest.mark.parametrize("M", FIXED)
def test_shrinking(M, random):
    """One visit takes theta, in quanta, from every code; from the least that acts to far beyond the range."""
    for seed, theta in enumerate(thetas(M)):
        still = Still(every_code(M), M, random=random, seed=seed)
        still.run.set_rounds(1, alpha1=theta)
        words, draw, taken = None, 0, theta
        if random == "nearest":
            taken = np.floor(theta)
        else:
            source = R.Stream(seed, 2**33)
            words = np.resize(np.array(R.words16(source.block())), still.n).tolist()
            draw = source.scalar()
        still.visit()
        np.testing.assert_array_equal(still.w, R.shrink(every_code(M), M, taken, draw, words), err_msg=f"theta {theta}")
        if theta >= R.max_code(M):
            assert not still.w.any(), "nothing is left beyond the range"
        assert (still.w * np.sign(every_code(M)) >= 0).all(), "not beyond zero"


@pytest.mark.parametrize("theta", [0.0, 1e-9, 0.3, 2.0])
def test_shrinking_a_float_model(theta, rng):
    w = np.concatenate([rng.standard_normal(70), [0.0, 0.3, -0.3]]).astype(np.float32)
    still = Still(w, "32f")
    still.run.set_rounds(1, alpha1=theta)
    still.visit()
    assert still.w.tobytes() == (R.shrink(w, "32f", theta, 0, None) if theta else w).tobytes()


@pytest.mark.parametrize("theta", [0.0, 2.0**-16, 0.2, 1.0, 2.75])
def test_what_the_words_take_is_theta_on_average(theta):
    """Of a weight that is large enough: the sum over all 2^16 words is exact."""
    total = sum(10 - int(R.shrink([10], "8", theta, 0, [word])[0]) for word in range(0, 2**16))
    assert total == np.floor(theta * 2**16)


def test_what_the_draw_takes_is_theta_on_average():
    """theta itself is rounded to 2^-16 quanta by the draw: at every multiple of 2^-8 of that, exactly."""
    theta = (5 + 77 / 256) / 2**16
    whole = [int(10 - R.shrink([10], "8", theta, (part << 24) << 32, [2**16 - 6])[0]) for part in range(256)]
    assert sum(whole) == 77  # word 2^16 - 6 takes a quantum where theta came out as 6


@given(st.integers(0, 2**32), st.floats(2.0**-16, 2.0**14), st.sampled_from(FIXED), st.integers(1, 70))
@settings(max_examples=50)
def test_shrinking_never_crosses_zero_and_takes_less_than_a_quantum_more(seed, theta, M, n):
    w = np.random.default_rng(seed).integers(-R.max_code(M), R.max_code(M), n, endpoint=True)
    still = Still(w, M, seed=seed)
    still.run.set_rounds(1, alpha1=theta)
    still.visit()
    assert (still.w * np.sign(w) >= 0).all()
    taken = np.abs(w) - np.abs(still.w)
    assert (np.abs(taken - theta)[still.w != 0] < 1.0 + 2.0**-16).all()
    assert (np.abs(w)[still.w == 0] <= np.ceil(theta + 2.0**-16)).all()


def test_to_nearest_what_is_less_than_a_quantum_waits():
    still = Still([100, -100, 3, 0], "8", random="nearest", scale=0.5, step=1.0)
    still.run.set_rounds(1, alpha1=0.5 * 0.3)  # 0.3 quanta a visit
    quanta = Fraction(0.5 * 0.3) / Fraction(0.5)
    for visit in range(1, 41):
        still.visit()
        took = int(visit * quanta)
        assert still.w.tolist() == [100 - took, took - 100, max(3 - took, 0), 0]
    # Halved codes are worth as much, and what is waiting too: nothing is taken before it adds up to a quantum of today.
    still = Still([100], "8", random="nearest", scale=1.0)
    still.run.set_rounds(1, alpha1=0.75)
    still.visit()
    still.run.widen()
    still.visit()
    assert still.w.tolist() == [50]
    still.visit()
    assert still.w.tolist() == [49]


def test_beyond_the_range_nothing_is_left_waiting():
    still = Still([127, 127], "8", random="nearest", rows=1)
    still.run.set_rounds(1, alpha1=1e6)
    still.visit()
    still.run.set_rounds(1, alpha1=0.0, alpha2=1e-9)
    still.model[:] = 127
    still.visit()
    assert still.w.tolist() == [127, 127]


# ---- L2: one visit, many visits -----------------------------------------------------------------------------


@pytest.mark.parametrize("signature", ["D8M4", "D8M8", "D16M16", "D8M32f", "D32fM32f"])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3])
def test_l2_alone_decays_exactly(signature, alpha):
    """X = 0: coef is (1 - step alpha)^k times what it was; of codes, as long as none is halved, with nothing rounded at all."""
    m, epochs, step = 100, 3, 0.1
    start = np.array([0.5, -0.25, 0.125, 0.0, 1.0])
    y, zeros = np.ones(m), np.zeros((m, 5), np.float32)
    options = {"signature": signature, "init": start, "step_size": step, "data_scale": 1.0}
    before = train(zeros, y, **options)
    r = train(zeros, y, penalty="l2", alpha=alpha, epochs=epochs, **options)
    assert (r.widened, r.saturated) == (before.widened, before.saturated)
    factor = 1.0
    for _ in range(epochs):  # a round is the epoch, 100 examples
        factor *= R.power(1.0 - step * alpha, m)
    if signature.endswith("32f"):
        assert np.array_equal(r.coef, (before.coef.astype(np.float32) * np.float32(factor)).astype(np.float64))
        assert r.model_scale == 1.0
    else:
        scale = before.model_scale
        for _ in range(epochs):
            scale *= R.power(1.0 - step * alpha, m)
        assert np.array_equal(r.coef, before.model.codes * scale if signature[3] != "4" else before.model.unpacked() * scale)
        assert r.model_scale == scale
    assert np.array_equal(r.coef, lp.dequantize(r.model, np.float64))


@pytest.mark.parametrize("M", [*FIXED, "32f"])
def test_l2_halves_codes_instead_of_the_range(M):
    """The scale stays within a factor of sqrt(2) of the first one, and a weight within half a quantum for each halving."""
    m, alpha, step = 1000, 0.01, 0.5
    top = 1.0 if M == "32f" else R.max_code(M)
    start = np.linspace(-1, 1, 33) * top * 0.01
    scale = 0.01
    options = {} if M == "32f" else {"model_scale": scale}
    r = train(np.zeros((m, 33), np.float32), np.ones(m), signature=f"D8M{M}", penalty="l2", alpha=alpha, step_size=step,
              init=start, data_scale=1.0, epochs=1, **options)  # fmt: skip
    exact = (1.0 - step * alpha) ** m
    if M == "32f":
        # each fold is a rounding of a product; so are the start and the factor itself
        assert np.abs(r.coef - start * exact).max() <= 40 * np.finfo(np.float32).eps * np.abs(start).max() * exact
        return
    assert scale / 2**0.5 <= r.model_scale < scale * 2**0.5
    halvings = round(np.log2(r.model_scale / scale / exact))
    assert halvings >= 6
    # q <- q/2 within 1/2, and again: 1/2 + 1/4 + ... < 1 quantum
    assert np.abs(r.coef - start * exact).max() <= 1.0 * r.model_scale + 0.5 * scale * exact
    assert r.widened == 0


def test_the_range_may_be_widened_between():
    """`widen` doubles what the scale is kept near."""
    still = Still([100, -51, 7], "8", scale=1.0, step=0.1)
    still.run.set_rounds(1, alpha2=1.0)
    for _ in range(3):
        still.visit()
    assert still.run.model_scale == pytest.approx(0.9**3, rel=1e-15)
    still.run.widen()
    assert still.run.model_scale == pytest.approx(2 * 0.9**3, rel=1e-15)
    assert still.w.tolist() == [50, -26, 4]
    still.visit()  # 2 * 0.9^4 is below 2 / sqrt(2): halved
    assert still.w.tolist() == [25, -13, 2]
    assert still.run.model_scale == pytest.approx(4 * 0.9**4, rel=1e-15)


@pytest.mark.parametrize("M", [*FIXED, "32f"])
def test_a_penalty_that_leaves_nothing(M):
    """(1 - step alpha)^k far below the least number: the model is zero, and training goes on."""
    X = np.eye(4, dtype=np.float32)[np.arange(4000) % 4]
    r = train(X, np.ones(4000), signature=f"D8M{M}", penalty="l2", alpha=9.0, step_size=0.1, batch_size=2000, init=np.ones(4))
    assert np.isfinite(r.coef).all()
    assert np.abs(r.coef).max() < 1e-3
    assert np.isfinite(r.model_scale)
    assert r.n_examples == 4000


# ---- whole runs against the oracle --------------------------------------------------------------------------

PLANS = {
    "l1": {"alpha1": 0.02},
    "l2": {"alpha2": 0.9},
    "both": {"alpha1": 0.004, "alpha2": 0.3},
    "linear": {"schedule": "linear", "total": 87.0},
    "invscaling": {"schedule": "invscaling", "rows": 29.0, "before": 40.0, "power": 0.75, "alpha1": 0.01},
    "averaged": {"average_from": 20, "alpha2": 0.5, "schedule": "linear", "total": 100.0},
    "only_averaged": {"average_from": 0},
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_against_the_oracle(D, M, random, plan, rng):
    """Three epochs, calls cut anywhere, an intercept, one weight of zero: the same bits, steps and sums."""
    problem = Problem(rng, D, M, n=37, rows=29)
    weight = rng.uniform(0.5, 2.0, 29).astype(np.float32)
    weight[4] = 0.0
    options = {"seed": 11, "weight": weight, "intercept": 0.25, "intercept_step": 0.02}
    job, model = problem.driver(random, **options)
    job.set_rounds(7, **PLANS[plan])
    visits = R.Visits(problem.plain(random, **options), 7, seed=11, **PLANS[plan])
    order = rng.permutation(29).astype(np.int64)
    job.set_order(order)
    for epoch in range(3):
        visits.epoch(order.tolist(), 29 * epoch)
        for first, last in cuts(rng, 29):
            assert job.run(first, last, 29 * epoch) == -1
    job.flush()
    assert same(problem, model, visits.run)
    assert job.intercept == visits.run.intercept
    assert job.model_scale == visits.run.model_scale
    if "average_from" in PLANS[plan]:
        total, intercept, count = job.average()
        assert total.tobytes() == visits.sum.tobytes()
        assert (intercept, count) == (visits.sum_intercept, visits.count)
        # rounds end at 7, 14, 21, 28, 29 of each epoch: those after 20 examples, or all
        assert count == (13 if PLANS[plan]["average_from"] == 20 else 15)


@pytest.mark.parametrize("gradient", [None, "8", "32f"])
@pytest.mark.parametrize(("D", "M"), [("8", "8"), ("8", "16"), ("16", "8"), ("4", "4"), ("32f", "8"), ("32f", "32f")])
def test_mini_batches_against_the_oracle(D, M, gradient, rng):
    problem = Problem(rng, D, M, n=37, rows=29)
    plan = {"schedule": "linear", "total": 90.0, "alpha1": 0.01, "alpha2": 0.3, "average_from": 0}
    options = {"seed": 3, "intercept": 0.25, "intercept_step": 0.02, "batch_size": 4, "gradient": gradient}
    if D == "32f" and gradient is not None:
        options["data_limit"] = float(np.abs(problem.X).max())
    job, model = problem.driver("shared", **options)
    job.set_rounds(8, **plan)
    plain = R.PlainBatchSgd(problem.X, D, M, "shared", problem.w, problem.y, loss=problem.loss, step=problem.step,
                            data_scale=problem.data_scale, model_scale=problem.model_scale, **options)  # fmt: skip
    visits = R.Visits(plain, 8, seed=3, **plan)
    for epoch in range(3):
        visits.epoch(range(29), 29 * epoch)
        for first, last in ((0, 4), (4, 20), (20, 29)):
            assert job.run(first, last, 29 * epoch) == -1
    job.flush()
    assert same(problem, model, plain)
    assert job.intercept == plain.intercept
    assert job.average()[0].tobytes() == visits.sum.tobytes()


@pytest.mark.parametrize("random", ["nearest", "shared", "xorshift", "mt19937"])
@pytest.mark.parametrize(("D", "M"), [("8", "8"), ("16", "16"), ("4", "4"), ("32f", "16")])
def test_sparse_rows_against_the_oracle(D, M, random, rng):
    problem = SparseProblem(rng, D, M, "16", True)
    plan = {"schedule": "invscaling", "rows": 20.0, "alpha1": 0.01, "alpha2": 0.3, "average_from": 0}
    job, model = problem.driver(random, seed=3)
    job.set_rounds(8, **plan)
    plain = problem.plain(random, seed=3)
    visits = R.Visits(plain, 8, seed=3, **plan)
    for epoch in range(2):
        visits.epoch(range(len(problem.rows)), len(problem.rows) * epoch)
        for first, last in cuts(rng, len(problem.rows)):
            assert job.run(first, last, len(problem.rows) * epoch) == -1
    job.flush()
    assert problem.same(model, plain)
    assert job.average()[0].tobytes() == visits.sum.tobytes()
