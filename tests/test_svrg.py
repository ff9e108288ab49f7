"""SVRG with bit centering: the inner loop against the oracle to the bit, the outer loop against optima in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import reference as R
import scipy.optimize
import scipy.sparse as sp
from test_rounds import result
from test_sgd_driver import KINDS, Problem, cuts, same

import lowprec as lp
from lowprec import datasets
from lowprec.losses import MARGIN_LOSSES, Loss, loss_of, mean_loss


def train(X, y, **options):
    return lp.train(X, y, **({"n_threads": 1, "solver": "svrg", "signature": "D8M8", "loss": "squared"} | options))


# ---- the inner loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha2", [0.0, 0.3])
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_the_inner_loop_against_the_oracle(D, M, random, alpha2, rng):
    """Anchors in the products and slopes, the drift at the visits, weights, an intercept, a new quantum and step."""
    problem = Problem(rng, D, M, n=37, rows=29)
    weight = rng.uniform(0.5, 2.0, 29).astype(np.float32)
    options = {"seed": 11, "weight": weight, "intercept": 0.25, "intercept_step": 0.02}
    job, model = problem.driver(random, **options)
    job.set_rounds(7, alpha2=alpha2)
    visits = R.Visits(problem.plain(random, **options), 7, seed=11, alpha2=alpha2)
    for epoch in range(3):
        anchor = rng.normal(size=(29, 2))
        drift = rng.normal(size=37).astype(np.float32)
        job.set_anchor(anchor, drift, 0.125)
        plain = visits.run
        plain.anchor, visits.drift, visits.drift_intercept = anchor, drift, 0.125
        if epoch == 2:
            quantum = 1.0 if M == "32f" else 0.5 * problem.model_scale
            job.restart(quantum, 0.03)
            visits.restart(quantum, 0.03)
        visits.epoch(range(29), 29 * epoch)
        for first, last in cuts(rng, 29):
            assert job.run(first, last, 29 * epoch) == -1
    job.flush()
    assert same(problem, model, plain)
    assert job.intercept == plain.intercept
    assert job.model_scale == plain.model_scale


# ---- optima -------------------------------------------------------------------------------------------------


def objective(X, y, w, b=0.0, *, loss="squared", weight=None, l2=0.0):
    """The mean of weight * loss, with the penalty, on the data as they are; X float64 or sparse."""
    values = loss_of(loss).values(X @ w + b, y)
    return float(np.mean(values if weight is None else values * weight)) + 0.5 * l2 * float(w @ w)


def optimum(X, y, *, loss="squared", weight=None, l2=0.0, intercept=False):
    """Its least value."""
    X = sp.csr_array(X, dtype=np.float64) if sp.issparse(X) else X.astype(np.float64)
    m, n = X.shape
    k = np.ones(m) if weight is None else np.asarray(weight, np.float64)
    form = Loss(loss)

    def f(w):
        b = w[n] if intercept else 0.0
        p = X @ w[:n] + b
        d = form.derivatives(p, y) * k / m
        gradient = X.T @ d + l2 * w[:n]
        return objective(X, y, w[:n], b, loss=loss, weight=weight, l2=l2), np.append(gradient, d.sum() if intercept else 0.0)

    options = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 40}
    return scipy.optimize.minimize(f, np.zeros(n + 1), jac=True, method="L-BFGS-B", options=options).fun


def excess(X, y, r, **what):
    """How far above the optimum a result is, relative to that, on the data as they are."""
    intercept = what.pop("intercept", False)
    best = optimum(X, y, intercept=intercept, **what)
    X = sp.csr_array(X, dtype=np.float64) if sp.issparse(X) else X.astype(np.float64)
    return objective(X, y, r.coef, r.intercept, **what) / best - 1.0


def least_squares(m=6000, seed=0):
    """As standardized housing data: eight columns, strongly correlated, some with long tails."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, 8)) @ (np.eye(8) + 0.6 * rng.normal(size=(8, 8)))
    X[:, :2] = np.sign(X[:, :2]) * np.abs(X[:, :2]) ** 1.5
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = X @ rng.normal(size=8) + 0.5 * rng.normal(size=m)
    return X.astype(np.float32), y.astype(np.float32)


STEP, EPOCHS = 0.004, 20

WHATS = {
    "plain": {},
    "l2": {"l2": 0.05},
    "weighted": {"weight": 2.0 * (np.arange(6000) % 3) / 2.0},
    "intercept": {"intercept": True},
    "all": {"l2": 0.05, "weight": 2.0 * (np.arange(6000) % 3) / 2.0, "intercept": True},
}


def options_of(what):
    return {
        "loss": what.get("loss", "squared"), "sample_weight": what.get("weight"), "fit_intercept": what.get("intercept", False),
        "penalty": "l2" if "l2" in what else None, "alpha": what.get("l2", 0.0),
    }  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", WHATS)
def test_eight_bits_reach_the_optimum_of_float64(what, workers):
    """A thousandth of the loss, of the data as they were given; plain training with as many passes does not."""
    X, y = least_squares()
    if "intercept" in WHATS[what]:
        y = y + np.float32(1.5)
    options = {"step_size": STEP, "epochs": EPOCHS, "seed": 1} | options_of(WHATS[what])
    if workers == 2:
        options |= {"n_threads": 2, "deterministic": True}
    r = train(X, y, **options)
    assert excess(X, y, r, **WHATS[what]) < 1e-3
    plain = train(X, y, **options | {"solver": "sgd", "epochs": 2 * EPOCHS})  # an epoch of SVRG reads the data twice
    assert excess(X, y, plain, **WHATS[what]) > 1e-3


@pytest.mark.parametrize("signature", ["D4M8", "D16M8", "D32fM8", "D8M16", "D8M32f", "D32fM32f"])
def test_every_format_reaches_it(signature):
    X, y = least_squares()
    assert excess(X, y, train(X, y, signature=signature, step_size=STEP, epochs=30)) < 1e-3


@pytest.mark.parametrize("signature", ["D4M4", "D8M4"])
def test_four_bits_come_near(signature):
    """A correction of seven quanta is rounded so coarsely that each epoch gains little; as much plain training gains none."""
    X, y = least_squares()
    r = train(X, y, signature=signature, step_size=STEP, epochs=100)
    plain = train(X, y, signature=signature, step_size=STEP, epochs=200, solver="sgd")
    assert excess(X, y, r) < 0.02 < 0.02 * excess(X, y, plain)


def test_a_scale_for_each_feature():
    """The anchor is in the data's coordinates, the correction in scaled ones; the penalty is on the scaled weights."""
    X, y = least_squares()
    spread = 10.0 ** np.arange(-4, 4)
    wide = (X * spread).astype(np.float32)
    r = train(wide, y, step_size=0.1, epochs=40, data_scale="feature", seed=1)
    assert excess(wide, y, r) < 1e-3
    largest = np.abs(wide).max(axis=0).astype(np.float64)
    r = train(wide, y, step_size=0.1, epochs=40, data_scale="feature", penalty="l2", alpha=0.01, seed=1)
    scaled = wide.astype(np.float64) / largest
    assert objective(scaled, y, r.coef * largest, l2=0.01) < (1 + 1e-3) * optimum(scaled, y, l2=0.01)


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "modified_huber", "huber"])
def test_smooth_losses(loss):
    X, y = least_squares()
    if loss in MARGIN_LOSSES:
        y = np.where(y + 0.3 * np.random.default_rng(1).normal(size=len(y)) > 0, 1, -1).astype(np.float32)
    r = train(X, y, loss=loss, step_size=STEP, epochs=40, penalty="l2", alpha=0.01)
    assert excess(X, y, r, loss=loss, l2=0.01) < 1e-3


def test_the_error_goes_down_to_that_of_float64():
    """Where the loss at the optimum is not zero and nothing is rounded away: the anchor's last digits."""
    X, y = least_squares()
    r = train(X, y, step_size=STEP, epochs=100)
    wide = X.astype(np.float64)
    best = objective(wide, y, np.linalg.solve(wide.T @ wide, wide.T @ y))
    # sums of 6000 float64 numbers
    assert objective(wide, y, r.coef) <= best * (1 + 6000 * np.finfo(float).eps)
    assert r.model_scale < 1e-6, "the quantum has followed"


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "quantized", "csr", "csc", "sparse array", "sliding", "list"])
def test_every_kind_of_data(kind):
    """The exact gradient is that of the data as they were given, whatever they are."""
    X, y = least_squares(1500)
    X = X.astype(np.float16).astype(np.float32)
    if kind in ("csr", "csc", "sparse array"):
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.5, X, 0).astype(np.float32)
    given = {
        "float32": lambda: X, "float64": lambda: X.astype(np.float64), "float16": lambda: X.astype(np.float16),
        "quantized": lambda: lp.quantize(X, "8", rounding="nearest"),
        "csr": lambda: sp.csr_array(X), "csc": lambda: sp.csc_array(X),
        "sparse array": lambda: lp.quantize(sp.csr_array(X), "8", rounding="nearest"),
        "sliding": lambda: np.repeat(X, 2, axis=0)[::2], "list": lambda: X.tolist(),
    }[kind]()  # fmt: skip
    r = train(given, y, step_size=STEP, epochs=40, seed=1)
    exact = lp.dequantize(given, np.float64) if kind in ("quantized", "sparse array") else X
    assert excess(np.asarray(exact.toarray() if sp.issparse(exact) else exact), y, r) < 1e-3


# ---- the outer loop -----------------------------------------------------------------------------------------


def test_history_is_the_mean_loss_at_each_anchor():
    """Without the penalty, by the sum of the weights, for the data as they were given: as everywhere."""
    X, y = least_squares(1000)
    weight = np.arange(1000) % 4
    seen = []
    options = {"step_size": STEP, "epochs": 5, "history": True, "sample_weight": weight, "penalty": "l2", "alpha": 0.1}
    r = train(X, y, callback=lambda info: seen.append(info.coef()) if info.position == 1000 else None, **options)
    assert len(r.history) == len(seen) == 5
    expected = [mean_loss("squared", X.astype(np.float64) @ w, y, weight) for w in seen]
    # the anchor of an epoch is what the callback saw at the end of the one before; the sums are taken in pieces
    assert r.history == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(seen[-1], r.coef)
    stopped = train(X, y, callback=lambda info: info.epoch == 2, **options)
    assert stopped.history == r.history[:2], "epochs that were finished"
    assert stopped.n_examples < 3001


def test_a_step_that_is_too_long_is_halved():
    """No epoch is kept that makes what is minimized clearly worse: not even of steps a hundred times too long."""
    X, y = least_squares(2000)
    for signature in ("D8M8", "D8M16"):
        r = train(X, y, signature=signature, step_size=0.5, epochs=40, history=True)
        assert all(b <= a * (1 + 2e-4) for a, b in zip([np.mean(y**2) / 2, *r.history], r.history, strict=False))
        assert r.history[-1] < 0.5 * r.history[0] or r.history[-1] < 1.01 * optimum(X, y)


def test_going_on_from_a_result():
    """Anchors begin at init; the optimum stays where it is."""
    X, y = least_squares(2000)
    first = train(X, y, step_size=STEP, epochs=30, fit_intercept=True)
    again = train(X, y, step_size=STEP, epochs=10, fit_intercept=True, init=first.coef, init_intercept=first.intercept)
    best = optimum(X, y, intercept=True)
    assert objective(X.astype(np.float64), y, again.coef, again.intercept) <= (1 + 2e-4) * best


@pytest.mark.parametrize("signature", ["D8M4", "D8M8", "D16M16", "D32fM32f"])
def test_nothing_to_learn(signature):
    """At the optimum from the beginning, for hundreds of epochs: the quantum becomes small, not zero."""
    r = train(np.zeros((20, 3), np.float32), np.ones(20), step_size=0.1, epochs=400, signature=signature, history=True)
    assert not r.coef.any()
    assert r.model_scale > 0
    assert np.ptp(r.history) == 0
    X = np.eye(3, dtype=np.float32)
    r = train(X, [1.0, -1.0, 0.0], loss="squared", step_size=0.1, epochs=400, signature=signature, init=[1.0, -1.0, 0.0])
    assert r.coef.tolist() == [1.0, -1.0, 0.0]


def test_a_bad_row_is_named():
    X, y = least_squares(500)
    X[17, 3] = np.nan
    for signature in ("D32fM8", "D32fM32f"):
        with pytest.raises(ValueError, match="X: every value must be finite; row 17 holds NaN or inf"):
            train(X, y, signature=signature, step_size=STEP)


@pytest.mark.parametrize("more", [{}, {"batch_size": 8}, {"batch_size": 8, "signature": "D8M8G8"}, {"random": "xorshift"}])
def test_other_ways_of_writing_the_model(more):
    X, y = least_squares(3000)
    assert excess(X, y, train(X, y, step_size=STEP, epochs=30, **more)) < 1e-3


@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_a_checkpoint_goes_on_with_the_same_bits(cut, tmp_path):
    """Anchors, steps, quanta and generators are in the file."""
    X, y = least_squares(600)
    Y = np.stack([y, -y], axis=1)
    options = {
        "step_size": STEP, "epochs": 8, "history": True, "fit_intercept": True, "penalty": "l2", "alpha": 0.01, "shuffle": True,
    }  # fmt: skip
    expected = result(train(X, Y, **options))
    file = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}

    def interrupted(info):
        if info.epoch == cut:
            raise LookupError

    if cut < 8:
        with pytest.raises(LookupError):
            train(X, Y, callback=interrupted, **options, **file)
    assert result(train(X, Y, **options, **file)) == expected
    assert result(train(X, Y, **options, **file)) == expected, "a finished run's file"


# ---- real data ----------------------------------------------------------------------------------------------


def real(name):
    folder = os.environ.get("LOWPREC_DATA")
    if not folder or not (Path(folder) / name).exists():
        pytest.skip(f"LOWPREC_DATA names no folder with {name}")
    return Path(folder) / name


def test_housing_prices():
    X, y = datasets.load(real("tabular/cal_housing.csv.gz"))
    X, y = (((a - a.mean(axis=0)) / a.std(axis=0)).astype(np.float32) for a in (X.astype(np.float64), y.astype(np.float64)))
    options = {"loss": "squared", "step_size": 0.003, "epochs": 20}
    assert excess(X, y, train(X, y, **options)) < 1e-3
    plain = train(X, y, **options | {"solver": "sgd", "epochs": 40, "step_size": 0.0003})
    assert excess(X, y, plain) > 1e-2


def newton(X, y):
    """The least mean logistic loss, by Newton's steps from zero: without a line search, which these data do not need."""
    m, n = X.shape
    w = np.zeros(n)
    for _ in range(12):
        d = Loss("logistic").derivatives(X @ w, y)
        bend = (X.multiply((np.abs(d) * (1 - np.abs(d)))[:, None]).T @ X).toarray() / m
        w -= np.linalg.solve(bend + 1e-9 * np.eye(n), X.T @ d / m)
    assert np.abs(X.T @ Loss("logistic").derivatives(X @ w, y) / m).max() < 1e-6, "it has converged"
    return objective(X, y, w, loss="logistic")


def test_census_income():
    X, y = datasets.load(real("svmlight/a9a.bz2"), sparse=True)
    y = np.where(y > 0, 1, -1).astype(np.float32)
    exact = sp.csr_array(X, dtype=np.float64)
    best = newton(exact, y)
    options = {"loss": "logistic", "step_size": 0.1, "epochs": 15, "seed": 1}
    for workers in ({}, {"n_threads": 2, "deterministic": True}):
        r = train(X, y, **options | workers)
        assert objective(exact, y, r.coef, loss="logistic") < (1 + 1e-3) * best
    plain = train(X, y, **options | {"solver": "sgd", "epochs": 30, "step_size": 0.01})
    assert objective(exact, y, plain.coef, loss="logistic") > (1 + 1e-2) * best
