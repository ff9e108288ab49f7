"""Several models at once: to the bit what as many calls give, from one pass over the data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import lowprec as lp
from lowprec import loop
from lowprec.datasets import generative
from lowprec.losses import LOSSES, MARGIN_LOSSES


def train(X, y, **options):
    return lp.train(X, y, **({"n_threads": 1, "step_size": 0.02} | options))


def labels(X, count, loss, rng):
    """A column for each of some models, no two alike."""
    values = X @ rng.standard_normal((X.shape[1], count))
    return np.where(values > 0, 1.0, -1.0) if loss in MARGIN_LOSSES else values + 0.1 * rng.standard_normal(values.shape)


def agree(r, alone):
    """Whether a result of several models holds those of the calls, to the bit."""
    count = len(alone)
    assert r.coef.shape == (count, len(alone[0].coef))
    assert r.intercept.shape == (count,)
    for k, one in enumerate(alone):
        assert r.coef[k].tobytes() == one.coef.tobytes(), k
        assert r.intercept[k] == one.intercept
        assert r.model[k].buffer.tobytes() == one.model.buffer.tobytes()
        assert np.array_equal(r.model[k].scale, one.model.scale)
        assert (r.model_scale[k], r.saturated[k], r.widened[k]) == (one.model_scale, one.saturated, one.widened)
        assert [row[k] for row in r.history] == one.history
        assert r.n_examples == one.n_examples
        assert r.n_threads == one.n_threads
        assert r.signature == one.signature


def separately(X, Y, seed=0, **options):
    each = {name: options.pop(name) for name in ("init", "init_intercept", "model_scale") if name in options}
    return [
        train(X, Y[:, k], seed=(seed + k) % 2**64, **options, **{name: value[k] for name, value in each.items()})
        for k in range(Y.shape[1])
    ]


@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, layout, rng):
    X = rng.uniform(-1, 1, (300, 40)).astype(np.float32)
    if layout == "sparse":
        X = sp.csr_array(np.where(rng.random(X.shape) < 0.2, X, 0).astype(np.float32))
    Y = labels(X, 3, loss, rng)
    options = {"loss": loss, "epochs": 2, "history": True, "fit_intercept": True, "epsilon": 0.3, "quantile": 0.8}
    agree(train(X, Y, seed=5, **options), separately(X, Y, 5, **options))


WAYS = {
    "D4M4": {"signature": "D4M4", "step_size": 0.5},
    "D16M16": {"signature": "D16M16", "random": "xorshift"},
    "D32fM8": {"signature": "D32fM8", "random": "mt19937", "refresh": 3},
    "D32fM32f": {"signature": "D32fM32f"},
    "nearest": {"signature": "D8M16", "rounding": "nearest"},
    "batch": {"batch_size": 8},
    "batch_that_leaves_some": {"batch_size": 7, "signature": "D8M16"},
    "G8": {"batch_size": 16, "signature": "D8M8G8"},
    "penalties": {"penalty": "elasticnet", "alpha": 1e-3, "schedule": "linear", "average": True},
    "invscaling": {"schedule": "invscaling", "examples_before": 300, "penalty": "l2", "alpha": 1e-3},
    "svrg": {"solver": "svrg", "penalty": "l2", "alpha": 1e-3},
    "weights": {"sample_weight": np.arange(300) % 3},
    "feature": {"data_scale": "feature"},
    "narrow": {"model_scale": np.array([1e-5, 1e-3, 0.01, 2e-5])},
    "started": {"init": np.linspace(-1, 1, 160).reshape(4, 40), "init_intercept": [0.5, -0.5, 0.0, 2.0]},
    "last_seeds": {"seed": 2**64 - 2},
    "two_workers": {"n_threads": 2, "deterministic": True},
    "two_workers_in_batches": {"n_threads": 2, "deterministic": True, "batch_size": 4, "penalty": "l1", "alpha": 1e-3},
    "two_workers_svrg": {"n_threads": 2, "deterministic": True, "solver": "svrg"},
}


@pytest.mark.parametrize("how", WAYS)
def test_every_way_of_training(how, rng, monkeypatch):
    """Also where the rows are cut into many small blocks, as they are where they are long."""
    X = rng.uniform(-1, 1, (300, 40)).astype(np.float32)
    Y = labels(X, 4, "logistic", rng)
    options = {"epochs": 2, "history": True, "fit_intercept": True, "seed": 7} | WAYS[how]
    alone = separately(X, Y, **options)
    agree(train(X, Y, **options), alone)
    monkeypatch.setattr(loop, "_BLOCK", 40 * 37 * 4)
    agree(train(X, Y, **options), alone)


def test_rows_longer_than_a_block(rng):
    """A block of rows is half a second-level cache: here a row, and for smaller ones some."""
    for n, m in ((200_000, 20), (5_000, 200)):
        X = rng.integers(-127, 127, (m, n), dtype=np.int8)
        Y = labels(X[:, :50].astype(np.float64), 2, "logistic", rng)
        for more in ({}, {"batch_size": 8}):
            options = {"step_size": 1e-9, "model_scale": np.full(2, 1e-6), "signature": "D8M16", **more}
            agree(train(X, Y, **options), separately(X, Y, **options))


def test_a_hundred_models(rng):
    X = rng.uniform(-1, 1, (200, 33)).astype(np.float32)
    Y = labels(X, 100, "logistic", rng)
    agree(train(X, Y, history=True), separately(X, Y, history=True))


def test_labels_of_every_kind(rng):
    X = rng.uniform(-1, 1, (100, 5)).astype(np.float32)
    Y = labels(X, 2, "logistic", rng)
    expected = train(X, Y).coef.tobytes()
    kinds = (Y.astype(int), Y.tolist(), Y > 0, np.asfortranarray(Y), (Y > 0).astype("u1"), Y.astype("f2"), tuple(map(tuple, Y)))
    for other in kinds:
        assert train(X, other).coef.tobytes() == expected
    # each column by its own convention
    assert train(X, np.stack([Y[:, 0], Y[:, 1] > 0], axis=1)).coef.tobytes() == expected


def test_one_number_is_for_all(rng):
    X = rng.uniform(-1, 1, (100, 5)).astype(np.float32)
    Y = labels(X, 3, "logistic", rng)
    a = train(X, Y, model_scale=0.01, init_intercept=0.5, fit_intercept=True)
    b = train(X, Y, model_scale=[0.01] * 3, init_intercept=np.full(3, 0.5), fit_intercept=True)
    assert a.coef.tobytes() == b.coef.tobytes()
    assert a.intercept.tobytes() == b.intercept.tobytes()


def test_shuffled_rows_come_in_one_order_for_all(rng):
    """That of the first seed: the data are read once."""
    X = rng.uniform(-1, 1, (300, 20)).astype(np.float32)
    Y = labels(X, 3, "logistic", rng)
    order = np.random.default_rng(9).permutation(300)
    options = {"data_scale": 1 / 127, "model_scale": [0.02] * 3}
    agree(train(X, Y, seed=9, shuffle=True, **options), separately(X[order], Y[order], 9, **options))


def test_callbacks_speak_of_all(rng):
    X = rng.uniform(-1, 1, (300, 20)).astype(np.float32)
    Y = labels(X, 3, "logistic", rng)
    told = []
    r = train(X, Y, epochs=3, callback=lambda info: told.append((info, info.coef())) or info.epoch == 1)
    info, coef = told[-1]
    assert coef.shape == (3, 20)
    assert coef.tobytes() == r.coef.tobytes()
    assert len(info.model_scale) == len(info.widened) == 3
    assert info.model_scale == r.model_scale
    assert r.n_examples == info.examples == 600
    assert r.gnps == pytest.approx(3 * 600 * 20 / r.seconds / 1e9), "a number counts once for each model"


def test_a_column_alone_is_refused_with_a_way_out(rng):
    X = rng.uniform(-1, 1, (30, 4))
    with pytest.raises(ValueError, match=r"y: must be one-dimensional; got shape \(30, 1\); use y.ravel\(\)"):
        train(X, np.ones((30, 1)))
    r = train(X[:1], np.array([[1, -1, 1]]))  # one example, three models
    assert r.coef.shape == (3, 4)


@pytest.mark.parametrize("sharing", [{}, {"sync_every": 32}, {"deterministic": True}])
def test_threads_learn_all_models(sharing):
    X, y, _ = generative(32, 4000, seed=3)
    Y = np.stack([y, -y, y], axis=1)
    r = train(X, Y, signature="D8M16", epochs=3, n_threads=2, **sharing)
    # the second is the first with its sign turned: what they agree on is far from chance
    assert np.corrcoef(r.coef[0], r.coef[1])[0, 1] < -0.9
    assert np.corrcoef(r.coef[0], r.coef[2])[0, 1] > 0.9
