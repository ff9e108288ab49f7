"""Between the rounds of training: penalties, schedules and averaging, against the oracle to the bit, and against optima."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import reference as R
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replicas import PlainReplicas
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


class Team(PlainReplicas):
    """Workers with replicas, all of whom the visits speak to at once."""

    def __init__(self, problem, random, workers, sync_every, **options):
        super().__init__(problem, random, workers, sync_every, **options)
        self.M, self.random, self.intercept_step = problem.M, random, options["intercept_step"]
        self.step, self.model_scale = problem.step, problem.model_scale

    def epoch(self, positions):
        """The examples at these positions of every share; at the end all have merged."""
        for worker in self.workers:
            worker.w, worker.intercept = np.array(self.w), self.intercept
            worker.step, worker.model_scale, worker.intercept_step = self.step, self.model_scale, self.intercept_step
        for first in range(0, len(positions), self.every):
            for worker, share in zip(self.workers, self.shares, strict=True):
                assert worker.epoch([share[i] for i in positions[first : first + self.every]]) == -1
            self.merge()
        return -1


@pytest.mark.parametrize("plan", ["l1", "both", "averaged", "svrg"])
@pytest.mark.parametrize(
    ("D", "M", "random"), [("8", "8", "shared"), ("8", "16", "nearest"), ("4", "4", "shared"), ("32f", "32f", "nearest")]
)
def test_replicas_against_the_oracle(D, M, random, plan, rng):
    """Three workers that merge every 4 examples, and meet every 8: visits are for the examples of all."""
    problem = Problem(rng, D, M, n=70, rows=60)
    options = {"seed": 5, "intercept": 0.25, "intercept_step": 0.02}
    plans = PLANS | {"svrg": {"alpha2": 0.2}}
    job, model = problem.driver(random, n_threads=3, sync_every=4, together=True, **options)
    job.set_rounds(8, **plans[plan])
    visits = R.Visits(Team(problem, random, 3, 4, **options), 8, seed=5, workers=3, **plans[plan])
    if plan == "svrg":
        anchor, visits.drift, visits.drift_intercept = rng.normal(size=(60, 2)), rng.normal(size=70).astype(np.float32), 0.125
        job.set_anchor(anchor, visits.drift, 0.125)
        for worker in visits.run.workers:
            worker.anchor = anchor
    for epoch in range(2):
        visits.epoch(range(20), 60 * epoch)
        for first, last in cuts(rng, 20):
            assert job.run(first, last, 60 * epoch) == -1
    job.merge()
    assert same(problem, model, visits)
    assert job.intercept == visits.run.intercept
    assert job.model_scale == visits.run.model_scale
    if plan == "averaged":
        assert job.average()[0].tobytes() == visits.sum.tobytes()
        assert job.average()[1:] == (visits.sum_intercept, visits.count)


# ---- lp.train: steps ----------------------------------------------------------------------------------------


def steps_used(m, epochs, monkeypatch=None, **options):
    """The sum of the steps of a run, read off the intercept: the loss has slope -1/2 everywhere, the data are zero."""
    r = train(np.zeros((m, 3), np.float32), np.full(m, 1e9), signature="D32fM32f", loss="quantile", quantile=0.5,
              fit_intercept=True, epochs=epochs, **options)  # fmt: skip
    return 2.0 * r.intercept


def expected_steps(m, epochs, every, **plan):
    """The step of every example by the oracle."""
    run = R.PlainSgd(np.zeros((m, 1), np.float32), "32f", "32f", "nearest", np.zeros(1, np.float32), np.zeros(m),
                     loss="quantile", parameter=0.5, step=0.25, data_scale=1.0, model_scale=1.0)  # fmt: skip
    visits = R.Visits(run, every, **plan)
    for epoch in range(epochs):
        visits.epoch(range(m), m * epoch)
    return visits.steps


@pytest.mark.parametrize("schedule", ["constant", "linear", "invscaling"])
def test_the_steps_of_a_schedule(schedule):
    m, epochs = 300, 3
    plan = {"total": 900.0, "rows": 300.0, "schedule": schedule}
    steps = expected_steps(m, epochs, 128, **plan)
    total = 0.0
    for step in steps:
        total += 0.5 * step
    assert steps_used(m, epochs, step_size=0.25, schedule=schedule) == 2.0 * total
    if schedule == "linear":
        assert steps[-1] == 0.25 * (1 - (900 - 22) / 900), "the last round is of 300 - 2 * 128 = 44 examples"
        # the middle of each round stands for all of it: the sum is that of a straight line
        assert sum(steps) == pytest.approx(0.25 * 900 / 2, rel=1e-14)
    if schedule == "invscaling":
        integral = 300 * 0.25 * 2 * ((1 + 3) ** 0.5 - 1)  # of 1 / sqrt(1 + t / 300)
        assert 0 < integral - sum(steps) < 0.01 * integral  # the middles of a convex curve lie below


def test_invscaling_goes_on_where_it_stopped():
    """Two calls of one epoch take the steps of one call of two; so do calls of one epoch each, whatever the power."""
    for power in (0.0, 0.5, 1.0, 2.0):
        options = {"step_size": 0.25, "schedule": "invscaling", "power": power}
        whole = steps_used(300, 3, **options)
        parts = [steps_used(300, 1, examples_before=300 * k, **options) for k in range(3)]
        assert sum(parts) == pytest.approx(whole, rel=1e-13)
    # and with one rounding only, that of the model, to the bit
    X, y, _ = generative(32, 1000, seed=1)
    options = {
        "signature": "D8M16", "rounding": "nearest", "schedule": "invscaling", "model_scale": 1e-4, "penalty": "l2",
        "alpha": 1e-5, "fit_intercept": True,
    }  # fmt: skip
    first = train(X, y, **options)
    second = train(X, y, examples_before=1000, init=first.coef, init_intercept=first.intercept,
                   **options | {"model_scale": first.model_scale})  # fmt: skip
    assert np.array_equal(second.coef, train(X, y, epochs=2, **options).coef)


def test_a_linear_schedule_ends_at_zero_with_the_call():
    """Of two epochs in one call the second has the small steps; of two calls each has its own end."""
    both = steps_used(1280, 2, step_size=0.25, schedule="linear")
    one = steps_used(1280, 1, step_size=0.25, schedule="linear")
    assert both == pytest.approx(0.25 * 1280, rel=1e-13)
    assert one == pytest.approx(0.25 * 640, rel=1e-13)


@pytest.mark.parametrize("schedule", ["constant", "linear", "invscaling"])
@pytest.mark.parametrize(("before", "power"), [(0, 0.5), (777, 1.0), (10**9, 2.0), (0, 0.0), (10**15, 0.3)])
def test_the_mean_of_the_factors(schedule, before, power):
    """What the rule for the model's range is told: the mean of the factors over the run."""
    rounds = Rounds(schedule=schedule, before=before, power=power)
    t = (np.arange(10**5) + 0.5) * (3000 / 10**5)
    factors = {"constant": np.ones_like(t), "linear": 1 - t / 3000, "invscaling": (1 + (before + t) / 1000) ** -power}[schedule]
    assert rounds.mean_step(1000, 3000) == pytest.approx(factors.mean(), rel=2e-6)
    assert Rounds(schedule="invscaling", power=1e308, before=10**6).mean_step(1000, 3000) > 0


# ---- lp.train: averaging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", ["D8M4", "D8M8", "D16M16", "D8M32f", "D32fM8"])
@pytest.mark.parametrize("average", [True, False, 0, 500, 1000])
def test_the_average_is_the_mean_of_the_models_at_the_visits(signature, average, monkeypatch):
    X, y, _ = generative(32, 600, seed=4)
    monkeypatch.setattr(loop, "_BLOCK", 32 * 128)
    seen = {}

    def note(info):
        if info.position % 128 == 0 or info.position == 600:
            seen[info.examples] = info.coef()

    M = signature[signature.index("M") + 1 :]
    scale = None if M == "32f" else 1.0 / R.max_code(M)  # wide enough: a model that is widened is another one after the visit
    r = train(X, y, signature=signature, epochs=2, average=average, schedule="linear", fit_intercept=True, callback=note,
              model_scale=scale)  # fmt: skip
    assert r.widened == 0
    assert sorted(seen) == [128, 256, 384, 512, 600, 728, 856, 984, 1112, 1200]
    start = 600 if average is True else average
    if average is False:
        assert np.array_equal(r.coef, seen[1200])
        return
    total = np.zeros(32)
    counted = [coef for at, coef in sorted(seen.items()) if at > start]
    for coef in counted:
        total += coef
    assert np.array_equal(r.coef, total / len(counted))
    assert not np.array_equal(r.coef, seen[1200])
    assert np.array_equal(lp.dequantize(r.model, np.float64), seen[1200]), "model is the last iterate"


def test_averaging_alone_changes_no_step():
    X, y, _ = generative(32, 600, seed=4)
    options = {"signature": "D8M8", "epochs": 2, "seed": 3}
    assert np.array_equal(train(X, y, average=True, **options).model.buffer, train(X, y, **options).model.buffer)


def test_a_run_that_ends_before_the_average_begins_has_none():
    X, y, _ = generative(32, 600, seed=4)
    options = {"signature": "D8M8", "epochs": 2, "seed": 3, "schedule": "linear"}
    assert np.array_equal(train(X, y, average=10**30, **options).coef, train(X, y, **options).coef)


def test_an_average_halves_the_noise_of_few_bits():
    """Rounding and sampling noise are independent from far to far: the mean of many models is nearer to the optimum."""
    X, y, _ = generative(32, 4096, seed=5)
    wide = X.astype(np.float64)
    w = np.linalg.solve(wide.T @ wide, wide.T @ y)

    def excess(**options):
        r = train(X, y, signature="D8M8", loss="squared", step_size=0.01, epochs=8, **options)
        return np.mean((X @ r.coef - X @ w) ** 2)

    assert excess(average=True) < 0.5 * excess()


# ---- lp.train: nothing depends on where calls are cut -------------------------------------------------------

EVERYTHING = {
    "constant": {"penalty": "l2", "alpha": 1e-3},
    "linear": {"schedule": "linear", "penalty": "l1", "alpha": 1e-3, "average": True},
    "invscaling": {"schedule": "invscaling", "penalty": "elasticnet", "alpha": 1e-3, "average": 100, "fit_intercept": True},
    "svrg": {"solver": "svrg", "penalty": "l2", "alpha": 1e-3, "fit_intercept": True},
    "batch": {"batch_size": 16, "schedule": "linear", "penalty": "elasticnet", "alpha": 1e-3, "average": True},
    "G8": {"batch_size": 16, "signature": "D8M8G8", "schedule": "linear", "penalty": "l1", "alpha": 1e-3},
    "two": {"n_threads": 2, "deterministic": True, "schedule": "linear", "penalty": "elasticnet", "alpha": 1e-3, "average": True},
    "two_svrg": {"n_threads": 2, "deterministic": True, "solver": "svrg"},
    "shuffled": {"shuffle": "blocks", "schedule": "linear", "penalty": "l2", "alpha": 1e-3, "sample_weight": np.arange(500) % 3},
}


def result(r):
    models = r.model if isinstance(r.model, list) else [r.model]
    numbers = (r.coef, r.intercept, r.model_scale, r.widened, r.saturated, r.history)
    return [*(np.asarray(a).tobytes() for a in numbers), *(model.buffer.tobytes() for model in models)]


@pytest.mark.parametrize("how", EVERYTHING)
@pytest.mark.parametrize("signature", ["D8M8", "D16M16", "D32fM32f"])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_calls_cut_anywhere(signature, how, layout, monkeypatch):
    """Blocks of one example (one batch), of some, and by the clock; with a callback and without."""
    if layout == "sparse" and "batch_size" in EVERYTHING[how]:
        pytest.skip("sparse data are trained on example by example")
    X, y, _ = generative(48, 500, seed=1)
    if layout == "sparse":
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.2, X, 0)
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    options = {"signature": signature, "epochs": 3, "history": True, "seed": 9} | EVERYTHING[how]
    expected = result(train(X, y, **options))
    # Threads that wait for each other at every example take long where they share a core.
    for block in (48 * 100,) if "n_threads" in options else (1, 48 * 100):
        monkeypatch.setattr(loop, "_BLOCK", block)
        assert result(train(X, y, callback=lambda info: info.coef() is None, **options)) == expected
    if "n_threads" in options:
        return
    monkeypatch.setattr(loop, "_CALL_SECONDS", 1e-9)
    assert result(train(X, y, **options)) == expected


def test_the_whole_of_an_epoch_may_be_one_batch():
    """Batches and merges longer than the data, of more than 64 bits even: a round is the epoch."""
    X, y, _ = generative(32, 300, seed=1)
    options = {"schedule": "linear", "penalty": "l2", "alpha": 0.01, "average": 0, "epochs": 2}
    expected = result(train(X, y, batch_size=300, **options))
    for size in (301, 1000, 2**70):
        assert result(train(X, y, batch_size=size, **options)) == expected
    for more in ({"sync_every": 2**70}, {"batch_size": 1000, "sync_every": 2000}, {"deterministic": True, "batch_size": 2**70}):
        r = train(X, y, n_threads=2, **options, **more)
        assert r.n_examples == 600
        assert not np.array_equal(r.coef, lp.dequantize(r.model, np.float64)), "it was averaged"


# ---- optima -------------------------------------------------------------------------------------------------


def lasso_problem():
    rng = np.random.default_rng(8)
    X = rng.uniform(-1, 1, (4096, 12)).astype(np.float32)
    w = np.array([1.0, -0.7, 0.5, 0.8] + [0.0] * 8)
    return X, (X @ w + 0.2 * rng.standard_normal(4096)).astype(np.float32)


def objective(X, y, w, l1, l2):
    return 0.5 * np.mean((X.astype(np.float64) @ w - y) ** 2) + l1 * np.abs(w).sum() + 0.5 * l2 * w @ w


@pytest.mark.parametrize("signature", ["D32fM32f", "D16M16"])
@pytest.mark.parametrize(("penalty", "alpha", "l1_ratio"), [("l2", 0.2, 0.0), ("l1", 0.1, 1.0), ("elasticnet", 0.2, 0.5)])
def test_the_penalized_optimum(signature, penalty, alpha, l1_ratio):
    """The last iterate of a linear schedule is within D G / sqrt(T) of it, if the first step is D / (G sqrt(T)).

    (Defazio, Cutkosky, Mehta, Mishchenko 2023, theorem on linear decay; D: the distance from the start, G: the root of the mean
    square of the subgradients, largest at the start.) Noise of 16-bit numbers is far below that of the sampling.
    """
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = lasso_problem()
    l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio)
    if l1:
        fit = linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-10).fit(X.astype(np.float64), y)
        best = fit.coef_
    else:
        XX, Xy = X.T.astype(np.float64) @ X, X.T.astype(np.float64) @ y
        best = np.linalg.solve(XX / len(y) + l2 * np.eye(12), Xy / len(y))
    epochs = 10
    T, D = epochs * len(y), np.linalg.norm(best)
    G = np.sqrt(np.mean(y.astype(np.float64) ** 2 * (X.astype(np.float64) ** 2).sum(axis=1))) + l1 * 12**0.5 + l2 * D
    r = train(X, y, signature=signature, loss="squared", step_size=D / (G * T**0.5), epochs=epochs, schedule="linear",
              shuffle=True, penalty=penalty, alpha=alpha, l1_ratio=l1_ratio,
              model_scale=None if signature.endswith("32f") else 2.0**-13)  # fmt: skip
    optimum = objective(X, y, best, l1, l2)
    assert objective(X, y, r.coef, l1, l2) - optimum <= D * G / T**0.5
    # What other penalties lead to does not pass: none, and twice as much.
    for factor in (0.0, 2.0):
        other = linear_model.ElasticNet(alpha=max(factor * alpha, 1e-12), l1_ratio=l1_ratio, fit_intercept=False, tol=1e-8)
        with np.errstate(all="ignore"):
            w = other.fit(X.astype(np.float64), y).coef_
        assert np.linalg.norm(r.coef - best) < 0.2 * np.linalg.norm(w - best)
    if l1:
        # Zeros are exact where l1 holds them with 0.6 of its strength to spare: in a round of 128 examples that is 128 * 0.06
        # steps, six times what the noise of 128 gradients, each of 0.2 / sqrt(3), adds up to. The last steps are far below a
        # quantum: of a weight that rounding has just moved by one, or by some one after the other, they would need many visits to
        # take it back.
        gradient = np.abs(X.T.astype(np.float64) @ (X.astype(np.float64) @ best - y)) / len(y)
        spare = (best == 0) & (gradient < 0.4 * l1)
        assert spare.sum() >= 6
        assert (np.abs(r.coef[spare]) <= (0.0 if signature.endswith("32f") else 4 * r.model_scale)).all()
        assert (r.coef[:4] * best[:4] > 0).all()


@pytest.mark.parametrize("M", ["8", "16", "32f"])
def test_strong_l1_leaves_nothing(M):
    X, y = lasso_problem()
    top = np.abs(X.T.astype(np.float64) @ y).max() / len(y)  # from this alpha on the optimum is zero
    r = train(X, y, signature=f"D8M{M}", loss="squared", step_size=0.02, epochs=3, penalty="l1", alpha=3 * top, schedule="linear")
    quantum = 0.0 if M == "32f" else r.model_scale  # which the last steps, far below one, may need many visits to take back
    assert (np.abs(r.coef) <= quantum).all()


def test_the_intercept_is_not_penalized(rng):
    X = rng.uniform(-1, 1, (2000, 3)).astype(np.float32)
    y = 5.0 + 0.01 * rng.standard_normal(2000)
    r = train(X, y, signature="D8M16", loss="squared", step_size=0.05, epochs=5, penalty="l2", alpha=1.0, schedule="linear",
              fit_intercept=True)  # fmt: skip
    # the mean of the labels, as far as 2000 draws of 0.01 and the decaying steps tell: 0.01 / sqrt(2000) is 0.0002
    assert abs(r.intercept - y.mean()) < 0.01


# ---- threads ------------------------------------------------------------------------------------------------

SHARING = {"shared": {}, "sync_every": {"sync_every": 32}, "deterministic": {"deterministic": True}}


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("signature", ["D8M8", "D16M16", "D32fM32f"])
def test_workers_and_visits(sharing, signature):
    """X = 0: whatever is shared how, the visits act on the one model, with the examples of both workers counted."""
    start = np.array([0.5, -0.25, 0.125, 0.0])
    zeros, y = np.zeros((2000, 4), np.float32), np.ones(2000)
    arguments = {
        "signature": signature, "init": start, "step_size": 0.1, "data_scale": 1.0, "epochs": 2, "rounding": "nearest",
        "alpha": 1e-3,
    }  # fmt: skip
    for options in ({"penalty": "l2"}, {"penalty": "l1"}, {"schedule": "linear", "penalty": "elasticnet", "average": 0}):
        one = train(zeros, y, **arguments, **options)
        two = train(zeros, y, n_threads=2, **SHARING[sharing], **arguments, **options)
        if "schedule" not in options:
            # rounds of other lengths, the same examples: products in another order, and for L1 what waits below a quantum
            quantum = 0.0 if signature.endswith("32f") or options["penalty"] == "l2" else two.model_scale
            assert np.abs(one.coef - two.coef).max() <= quantum + 1e-5
        assert 0.0 < two.coef[0] < 0.5
        assert two.coef[3] == 0.0


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("how", ["penalized", "svrg", "several"])
def test_two_workers_learn_as_one(sharing, how):
    X, y, _ = generative(32, 8000, seed=3)
    options = {
        "penalized": {"schedule": "linear", "penalty": "elasticnet", "alpha": 1e-3, "average": True},
        "svrg": {"solver": "svrg", "penalty": "l2", "alpha": 1e-3},
        "several": {"schedule": "linear"},
    }[how]
    if how == "several":
        y = np.stack([y, -y, y], axis=1)
    arguments = {"signature": "D8M16", "epochs": 4, "history": True, "step_size": 0.01}
    one = train(X, y, **arguments, **options)
    two = train(X, y, n_threads=2, **SHARING[sharing], **arguments, **options)
    gained = np.log(2) - np.asarray(one.history[-1])
    assert (gained > 0.1).all()
    assert (np.log(2) - np.asarray(two.history[-1]) > 0.97 * gained).all()
    if sharing == "deterministic":
        again = train(X, y, n_threads=2, **SHARING[sharing], **arguments, **options)
        assert result(again) == result(two)


def test_orders_of_blocks():
    """Every row once; neighbors stay together, each block in an order of its own; an order of its own for each epoch."""
    x = lp.quantize(np.zeros((10_000, 512), np.float32), "8", scale=1.0)
    order = sgd.Order(5, x, "blocks")
    first, second = order._draw(), order._draw()
    size = order.rows
    assert size == (1 << 20) // 512
    assert not np.array_equal(first, second)
    for drawn in (first, second):
        assert np.array_equal(np.sort(drawn), np.arange(10_000))
        blocks = drawn // size
        assert np.count_nonzero(np.diff(blocks)) == 10_000 // size  # one block after another
        assert (np.diff(drawn) != 1).mean() > 0.99
