"""LowPrecisionSGDClassifier: scikit-learn's contract, one-vs-rest, going on, and accuracy on real data."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import random_array

import lowprec as lp

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowprec import automatic, datasets, linear_model, preparing
from lowprec._sgd import openmp_enabled
from lowprec.linear_model import LowPrecisionSGDClassifier, LowPrecisionSGDRegressor
from lowprec.report.experiments import defaults
from lowprec.runtime import effective_n_threads

SIGNATURES = ("D32fM32f", "D8M8", "D8M16", "D16M16")


# What `train` does by itself.
PLAIN = {"loss": "log_loss", "penalty": None, "learning_rate": "constant", "batch_size": 1, "data_scale": None}


def classifier(signature="D8M8", **options):
    return LowPrecisionSGDClassifier(signature, **({"random_state": 0} | options))


def plain(signature="D8M8", **options):
    return classifier(signature, **(PLAIN | options))


def regressor(signature="D8M16", **options):
    return LowPrecisionSGDRegressor(signature, **({"random_state": 0} | options))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("sklearn:digits")


@pytest.fixture(scope="module")
def binary():
    X, y, _ = datasets.generative(64, 3000, seed=5)
    return X, np.where(y > 0, "yes", "no")


def expected_failures(estimator):
    return {
        # SGD visits examples one by one: a weight of two is not the same as two visits.
        "check_sample_weight_equivalence_on_dense_data": "stochastic gradient descent",
        "check_sample_weight_equivalence_on_sparse_data": "stochastic gradient descent",
    }


@parametrize_with_checks(
    [
        classifier("D8M16"), classifier("D8M8", loss="log_loss", average=True), classifier("D32fM32f", data_scale="feature"),
        regressor("D8M16"), regressor("D8M8", average=True, loss="huber"),
    ],
    expected_failed_checks=expected_failures,
)  # fmt: skip
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def test_two_classes_are_one_run_of_train(binary):
    X, y = binary
    clf = plain(eta0=0.01, max_iter=3, shuffle=False).fit(X, y)
    r = lp.train(X, y == "yes", signature="D8M8", step_size=0.01, epochs=3, n_threads=1, seed=0, fit_intercept=True)
    assert clf.classes_.tolist() == ["no", "yes"]
    assert np.array_equal(clf.coef_, r.coef[None])
    assert clf.intercept_.tolist() == [r.intercept]
    assert clf.decision_function(X) == pytest.approx(X @ r.coef + r.intercept, rel=1e-5, abs=1e-5)
    assert np.array_equal(clf.predict(X), np.where(clf.decision_function(X) > 0, "yes", "no"))
    assert clf.score(X, y) == np.mean(clf.predict(X) == y) > 0.8
    assert (clf.n_features_in_, clf.n_iter_, clf.n_threads_, clf.eta0_) == (64, 3, 1, 0.01)
    assert clf.saturation_.tolist() == [r.saturated / 64]
    assert clf.gnps_ > 0
    assert clf.bytes_per_example_ == 64


def test_several_classes_are_one_against_the_rest(digits):
    X, y = digits
    clf = plain(eta0=2.0**-12, max_iter=2, shuffle=False).fit(X, y)
    assert clf.coef_.shape == (10, 64)
    for k in (0, 3, 9):
        r = lp.train(X, y == k, signature="D8M8", step_size=2.0**-12, epochs=2, n_threads=1, seed=k, fit_intercept=True)
        assert np.array_equal(clf.coef_[k], r.coef)
    scores = clf.decision_function(X)
    assert scores.shape == (len(X), 10)
    assert np.array_equal(clf.predict(X), clf.classes_[scores.argmax(axis=1)])


def test_the_data_are_quantized_once(digits, monkeypatch):
    X, y = digits
    calls = []
    quantize = preparing.quantize
    monkeypatch.setattr(preparing, "quantize", lambda a, *args, **more: calls.append(np.shape(a)) or quantize(a, *args, **more))
    plain(max_iter=1).fit(X, y)
    assert calls.count(X.shape) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16"])
def test_data_of_any_type(dtype, digits):
    X, y = digits
    q = lp.quantize(X, "8", rounding="nearest")
    a, b = (plain(max_iter=2, eta0=2.0**-12).fit(Z, y) for Z in (X.astype(dtype), q))
    assert np.array_equal(a.coef_, b.coef_)
    assert np.array_equal(a.predict(X.astype(dtype)), a.predict(X))


def test_quantized_arrays_in_and_out(binary):
    X, y = binary
    q = lp.quantize(X, "8", rounding="nearest")
    clf = plain(max_iter=2).fit(q, y)
    assert np.array_equal(clf.coef_, plain(max_iter=2).fit(X, y).coef_)
    assert np.array_equal(clf.predict(q), clf.predict(lp.dequantize(q, np.float64)))
    with pytest.raises(ValueError, match="X has 8 features, but LowPrecisionSGDClassifier is expecting 64"):
        clf.predict(lp.quantize(X[:, :8], "8"))
    with pytest.raises(ValueError, match="y: must have the length of X, 3000; got 2999"):
        clf.fit(q, y[1:])


@pytest.mark.parametrize(("signature", "rounding"), [("D32fM32f", "stochastic"), ("D8M16", "nearest"), ("D8M8", "nearest")])
@pytest.mark.parametrize("data_scale", [None, "feature"])
def test_partial_fit_goes_on(signature, rounding, data_scale, digits):
    """Two calls are two epochs, to the bit, where nothing is drawn at random."""
    X, y = digits
    scale = {"D32fM32f": None, "D8M16": 1e-3, "D8M8": 4e-3}[signature]  # wide enough: where it is widened depends on the calls
    options = {"eta0": 2.0**-12, "shuffle": False, "rounding": rounding, "data_scale": data_scale, "model_scale": scale}
    once = plain(signature, max_iter=2, **options).fit(X, y)
    twice = plain(signature, **options).partial_fit(X, y, classes=range(10)).partial_fit(X, y)
    assert np.abs(once.coef_ - twice.coef_).max() <= 1e-6 * np.abs(once.coef_).max()
    assert once.intercept_ == pytest.approx(twice.intercept_)


def test_partial_fit_learns_from_batches(digits):
    X, y = digits
    order = np.random.default_rng(0).permutation(len(X))
    clf = plain("D8M8", eta0=2.0**-12)
    for _ in range(5):
        for part in np.array_split(order, 12):
            clf.partial_fit(X[part], y[part], classes=np.arange(10))
    assert clf.score(X, y) > 0.93
    assert clf.n_iter_ == 1


def test_calls_draw_other_random_numbers(binary):
    X, y = binary
    a, b = (plain(model_scale=0.05, eta0=1e-3, random_state=s).fit(X, y).coef_ for s in (1, 2))
    assert not np.array_equal(a, b)
    clf = plain(model_scale=0.05, eta0=1e-3, shuffle=False).partial_fit(X, y, classes=["no", "yes"])
    first = clf.coef_.copy()
    again = plain(model_scale=0.05, eta0=1e-3, shuffle=False).fit(X, y).set_params(max_iter=1)
    assert np.array_equal(again.fit(X, y).coef_, first)
    # from the same start, the second call rounds otherwise than the first
    clf.coef_[:] = 0.0
    clf.intercept_[:] = 0.0
    assert not np.array_equal(clf.partial_fit(X, y).coef_, first)


def test_fit_forgets(binary):
    X, y = binary
    a = plain(max_iter=2).fit(X, y)
    b = plain(max_iter=2).fit(X[:, :4], y == "yes").fit(X, y)
    assert np.array_equal(a.coef_, b.coef_)
    assert b.n_features_in_ == 64


def test_labels_that_were_not_announced(binary):
    X, y = binary
    clf = plain().partial_fit(X, y, classes=["no", "yes"])
    with pytest.raises(ValueError, match="y: every label must be among the classes"):
        clf.partial_fit(X, np.where(y == "no", "perhaps", y))
    with pytest.raises(ValueError, match="classes: must be those of the first call"):
        clf.partial_fit(X, y, classes=["no", "perhaps"])
    with pytest.raises(NotFittedError):
        plain().predict(X)


def test_clone_pickle_pipeline_and_search(binary):
    X, y = binary
    clf = plain("D8M16", max_iter=2).fit(X, y)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))
    assert clone(clf).get_params() == clf.get_params()
    assert make_pipeline(StandardScaler(), plain(max_iter=2)).fit(X, y).score(X, y) > 0.8
    search = GridSearchCV(plain(max_iter=2), {"signature": ["D8M8", "D8M16"], "loss": ["log_loss", "hinge"]}, cv=3)
    assert search.fit(X, y).best_score_ > 0.8


def test_the_automatic_step_does_not_depend_on_the_unit_of_the_data(digits):
    X, y = digits
    a, b = (plain("D8M16", max_iter=3, fit_intercept=False).fit(Z, y) for Z in (X, X / 16))
    assert a.score(X, y) > 0.93
    assert b.score(X / 16, y) > 0.93


def test_without_scikit_learn_one_sentence_says_what_to_do():
    code = "import sys; sys.modules['sklearn'] = None; import lowprec; print('fine'); import lowprec.linear_model"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "fine\n"
    last = out.stderr.strip().splitlines()[-1]
    assert last == "ImportError: lowprec.linear_model needs scikit-learn, which is not installed: pip install 'lowprec[learn]'"


# ---- accuracy on real data: points below float32 that each signature may have -------------------------------

BARS = {"D8M8": 1.5, "D8M16": 0.3, "D16M16": 0.3}


def compare(scores, peer):
    """The table, and whether every signature is within its bar."""
    float32 = scores["D32fM32f"]
    lines = [f"scikit-learn's SGDClassifier {peer:.2f} %"]
    lines += [f"{s} {v:.2f} %, {v - float32:+.2f}" for s, v in scores.items()]
    print("\n".join(lines))
    return [s for s, bar in BARS.items() if scores[s] < float32 - bar]


def peer(step, epochs):
    constant = {"penalty": None, "learning_rate": "constant", "eta0": step, "max_iter": epochs, "tol": None}
    return SGDClassifier(loss="log_loss", random_state=0, **constant)


def test_digits_mean_of_20_splits(digits):
    X, y = digits
    step, epochs = 2.0**-12, 10
    found = {s: [] for s in (*SIGNATURES, "peer")}
    for rows, held_out in StratifiedShuffleSplit(20, test_size=0.25, random_state=0).split(X, y):
        for s, scores in found.items():
            clf = peer(step, epochs) if s == "peer" else plain(s, eta0=step, max_iter=epochs)
            scores.append(100 * clf.fit(X[rows], y[rows]).score(X[held_out], y[held_out]))
    means = {s: float(np.mean(v)) for s, v in found.items()}
    assert compare({s: means[s] for s in SIGNATURES}, means["peer"]) == []
    assert means["D32fM32f"] > 94


@pytest.mark.slow
def test_mnist():
    folder = os.environ.get("LOWPREC_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("LOWPREC_DATA does not name a folder with mnist/ in it")
    X, y = datasets.load(Path(folder) / "mnist" / "train-images-idx3-ubyte.gz")
    Z, z = datasets.load(Path(folder) / "mnist" / "t10k-images-idx3-ubyte.gz")
    step, epochs = 2.0**-7, 3
    X, Z = (a.astype(np.float32) / 255 for a in (X, Z))
    scores = {s: 100 * plain(s, eta0=step, max_iter=epochs).fit(X, y).score(Z, z) for s in SIGNATURES}
    assert compare(scores, 100 * peer(step, epochs).fit(X, y).score(Z, z)) == []
    assert scores["D32fM32f"] > 90


# ---- what the parameters do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["hinge", "log_loss", "squared_hinge", "modified_huber"])
@pytest.mark.parametrize("signature", ["D8M8", "D8M16", "D32fM32f"])
def test_every_loss_of_the_classifier(signature, loss, digits):
    X, y = digits
    assert classifier(signature, loss=loss).fit(X, y).score(X, y) > 0.94


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "quantile"])
@pytest.mark.parametrize("signature", ["D8M8", "D8M16", "D32fM32f"])
def test_every_loss_of_the_regressor_in_any_unit(signature, loss, unit, rng):
    X = rng.standard_normal((4000, 10))
    y = unit * (X @ rng.standard_normal(10) + 3.0 + 0.1 * rng.standard_normal(4000))
    reg = regressor(signature, loss=loss, epsilon=0.1 * unit).fit(X, y)
    assert reg.score(X, y) > 0.95
    assert reg.coef_.shape == (10,)
    assert reg.intercept_.shape == (1,)
    assert np.array_equal(reg.predict(X), X @ reg.coef_ + reg.intercept_)


def test_the_quantile_is_that_quantile(rng):
    X = rng.standard_normal((20_000, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.exponential(size=20_000)
    for q in (0.1, 0.5, 0.9):
        below = np.mean(y < regressor(loss="quantile", quantile=q).fit(X, y).predict(X))
        assert abs(below - q) < 0.05


def test_class_weights_are_sample_weights(binary):
    X, y = binary
    weight = np.where(y == "no", 3.0, 0.5)
    a = classifier(class_weight={"no": 3.0, "yes": 0.5}).fit(X, y)
    b = classifier().fit(X, y, sample_weight=weight)
    assert np.array_equal(a.coef_, b.coef_)
    few = np.r_[np.flatnonzero(y == "no"), np.flatnonzero(y == "yes")[:150]]
    plain_, balanced = (classifier("D8M16", class_weight=c).fit(X[few], y[few]) for c in (None, "balanced"))
    recall = [np.mean(clf.predict(X[few])[-150:] == "yes") for clf in (plain_, balanced)]
    assert recall[1] > recall[0] + 0.1


def test_class_weights_of_several_classes_are_those_of_scikit_learn(digits):
    """One against the rest: the one's examples have its weight, all others have 1."""
    X, y = digits
    options = {"eta0": 2.0**-12, "max_iter": 2, "shuffle": False}
    clf = plain(class_weight={3: 5.0}, **options).fit(X, y)
    unweighted = plain(**options).fit(X, y)
    r = lp.train(X, y == 3, signature="D8M8", step_size=2.0**-12, epochs=2, n_threads=1, seed=3, fit_intercept=True,
                 sample_weight=np.where(y == 3, 5.0, 1.0))  # fmt: skip
    assert np.array_equal(clf.coef_[3], r.coef)
    assert np.array_equal(np.delete(clf.coef_, 3, axis=0), np.delete(unweighted.coef_, 3, axis=0))


def test_probabilities(binary, digits):
    for X, y in (binary, digits):
        clf = classifier(loss="log_loss").fit(X, y)
        p = clf.predict_proba(X)
        assert p.shape == (len(X), len(clf.classes_))
        assert np.abs(p.sum(axis=1) - 1.0).max() < 1e-12
        assert np.array_equal(clf.classes_[p.argmax(axis=1)], clf.predict(X))
        assert np.array_equal(clf.predict_log_proba(X), np.log(p))
    X, y = binary
    clf = classifier(loss="log_loss", signature="D8M16").fit(X, y)
    assert clf.predict_proba(X)[:, 1] == pytest.approx(1 / (1 + np.exp(-clf.decision_function(X))), rel=1e-12)
    # what it calls 80 to 90 % is right so often
    p = clf.predict_proba(X)[:, 1]
    sure = (p > 0.8) & (p < 0.9)
    assert abs(np.mean(y[sure] == "yes") - 0.85) < 4 * np.sqrt(0.85 * 0.15 / sure.sum()) + 0.05
    assert not hasattr(classifier(loss="hinge"), "predict_proba")
    q = classifier(loss="modified_huber").fit(X, y).predict_proba(X)
    assert q.min() >= 0.0
    assert q.max() <= 1.0


def test_early_stopping_holds_rows_out(binary):
    X, y = binary
    options = {"early_stopping": True, "max_iter": 200, "n_iter_no_change": 3, "learning_rate": "constant"}
    clf = classifier("D8M16", **options).fit(X, y)
    assert 3 < clf.n_iter_ < 200
    assert clf.score(X, y) > 0.8
    held_out = clf._hold_out(y, False, True)
    assert len(held_out) == 300
    assert abs(np.mean(y[held_out] == "yes") - np.mean(y == "yes")) < 0.01  # stratified
    swapped = X.copy()
    swapped[held_out] = X[held_out[::-1]]
    epochs = {"max_iter": 3, "data_scale": None, "eta0": 0.01, "model_scale": 0.05}
    a, b = (classifier(**(options | epochs)).fit(Z, y) for Z in (X, swapped))
    assert np.array_equal(a.coef_, b.coef_)


def test_it_stops_when_the_loss_does(binary):
    X, y = binary
    assert classifier("D8M16", tol=1e-3, max_iter=200, n_iter_no_change=2, learning_rate="constant").fit(X, y).n_iter_ < 100
    assert classifier("D8M16", max_iter=20).fit(X, y).n_iter_ == 20


def test_warm_start_goes_on(binary):
    X, y = binary
    options = {"eta0": 0.01, "max_iter": 1, "shuffle": False, "model_scale": 1e-4}
    warm = plain("D8M16", warm_start=True, **options).fit(X, y).fit(X, y)
    called = plain("D8M16", **options).partial_fit(X, y, classes=["no", "yes"]).partial_fit(X, y)
    cold = plain("D8M16", **options).fit(X, y).fit(X, y)
    assert np.array_equal(warm.coef_, called.coef_)
    assert warm.t_ == 6000
    assert cold.t_ == 3000
    assert not np.array_equal(warm.coef_, cold.coef_)


def test_averages(binary):
    X, y = binary
    options = {"eta0": 0.05, "max_iter": 2, "shuffle": False}
    clf = plain(average=True, **options).fit(X, y)
    r = lp.train(X, y == "yes", signature="D8M8", step_size=0.05, epochs=2, n_threads=1, fit_intercept=True, average=True)
    assert np.array_equal(clf.coef_[0], r.coef)
    assert not hasattr(clf, "models_")
    # of several calls the mean of their means, by examples
    parts = [slice(0, 1000), slice(1000, 3000)]
    calls = plain(average=True, eta0=0.05, shuffle=False, model_scale=0.05)
    means = []
    for part in parts:
        start = {} if not means else {"init": r.model, "init_intercept": r.last_intercept}
        r = lp.train(X[part], y[part] == "yes", signature="D8M8", step_size=0.05, n_threads=1, fit_intercept=True, average=0,
                     model_scale=0.05 if not means else r.model_scale, seed=len(means), **start)  # fmt: skip
        means.append(r.coef)
        calls.partial_fit(X[part], y[part], classes=["no", "yes"])
    assert calls.coef_[0] == pytest.approx(means[0] / 3 + means[1] * 2 / 3, rel=1e-12, abs=1e-15)


def test_penalties_act(binary):
    X, _ = binary
    y = X[:, :4].sum(axis=1) > 0  # the other 60 columns say nothing
    free, l2, l1 = (classifier("D8M16", penalty=p, alpha=0.02 if p else "auto").fit(X, y) for p in (None, "l2", "l1"))
    assert np.abs(l2.coef_).sum() < 0.7 * np.abs(free.coef_).sum()
    assert np.count_nonzero(l1.coef_[0, :4]) == 4
    rest = [np.abs(clf.coef_[0, 4:]).mean() for clf in (l1, free)]
    assert rest[0] < 0.05 * rest[1]


def test_workers_that_exchange_coded_changes(digits):
    X, y = digits
    X, y = X[:600], y[:600]
    given = {"n_jobs": 2, "sync_every": 64, "max_iter": 2, "batch_size": 2}
    models = [classifier("D8M8C32fs", **given), classifier("D8M8", deterministic=True, **given), classifier("D8M8C4s", **given)]
    full, merged, coded = (clf.fit(X, y) for clf in models)
    # 32f is what threads merge anyway; fewer bits are another model, as good.
    np.testing.assert_array_equal(full.coef_, merged.coef_)
    np.testing.assert_array_equal(full.intercept_, merged.intercept_)
    np.testing.assert_array_equal(coded.coef_, clone(coded).fit(X, y).coef_)
    if coded.n_threads_ > 1:
        assert not np.array_equal(coded.coef_, full.coef_)
    assert coded.score(X, y) > 0.9
    with pytest.raises(ValueError, match=r"signature: must have no C term with solver='svrg'"):
        classifier("D8M8C8s", loss="log_loss", solver="svrg", n_jobs=2).fit(X, y)


@pytest.mark.parametrize(("n_jobs", "threads"), [(None, 1), (1, 1), (2, 2), (-1, None)])
def test_n_jobs_are_threads(n_jobs, threads, binary):
    X, y = binary
    clf = classifier("D8M16", n_jobs=n_jobs).fit(X, y)
    assert clf.n_threads_ == (effective_n_threads(threads) if openmp_enabled() else 1)
    assert clf.score(X, y) > 0.8


def test_only_verbose_prints(binary, capsys):
    X, y = binary
    classifier().fit(X, y)
    assert capsys.readouterr() == ("", "")
    classifier(verbose=1, max_iter=3).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("epoch 3: loss 0.")
    assert "9,000 examples" in lines[2]


def test_all_classes_are_trained_in_one_run(digits, monkeypatch):
    X, y = digits
    calls = []
    monkeypatch.setattr(linear_model, "train", lambda *args, **more: calls.append(args[1].shape) or lp.train(*args, **more))
    classifier(max_iter=1).fit(X, y)
    assert calls == [(len(X), 10)]


def test_svrg_reaches_the_optimum(rng):
    X = rng.standard_normal((3000, 6))
    y = X @ rng.standard_normal(6) + rng.standard_normal(3000)
    least = np.linalg.lstsq(np.c_[X, np.ones(3000)], y, rcond=None)[1][0]
    options = {"penalty": None, "max_iter": 40, "eta0": 0.01, "batch_size": 1}
    reg, sgd = (regressor("D8M8", solver=s, **options).fit(X, y) for s in ("svrg", "sgd"))
    excess = [float(np.square(r.predict(X) - y).sum()) / least - 1.0 for r in (reg, sgd)]
    assert excess[0] < 1e-3 < excess[1]
    assert not hasattr(reg, "models_")


# ---- what is chosen automatically ----------------------------------------------------------------------------


def test_tables_with_columns_of_all_sizes(rng):
    Z = rng.standard_normal((5000, 4))
    X = Z * [1e-3, 1.0, 1e3, 1e6] + [5.0, -3.0, 2e4, 1e7]
    y = Z @ [1.0, -2.0, 3.0, 0.5] + 1.0
    for signature in ("D8M8", "D8M16", "D16M16", "D32fM32f"):
        reg = regressor(signature).fit(X, y)
        assert reg.score(X, y) > 0.99
        assert np.abs(reg.predict(X) - (X @ reg.coef_ + reg.intercept_)).max() < 1e-6
    again = regressor("D8M16").partial_fit(X[:2500], y[:2500])
    for _ in range(20):
        again.partial_fit(X[2500:], y[2500:])
    assert again.score(X, y) > 0.99


def test_word_counts_are_not_rounded_to_zero(rng):
    X = random_array((4000, 500), density=0.05, rng=rng, format="csr", data_sampler=lambda size: rng.integers(1, 4, size) * 1.0)
    w = rng.standard_normal(500)
    y = X @ w > 0
    X.data[:3] = 900.0  # three words that are very many
    clf = classifier("D8M16").fit(X, y)
    assert clf.score(X, y) > 0.93
    assert automatic.prepare(X, lp.Format(8, False)).codes.scale == 1.0
    assert classifier("D8M16", data_scale=None).fit(X, y).score(X, y) < clf.score(X, y) - 0.05


def test_data_of_one_range_have_one_scale(binary):
    X, _ = binary
    q = automatic.prepare(X, lp.Format(8, False)).codes
    assert q.scale == np.abs(X).max() / 127
    codes = np.zeros((100, 8), np.int8)
    assert np.shares_memory(automatic.prepare(codes, lp.Format(8, False)).codes.buffer, codes)


def test_sparse_data_that_are_not_become_dense(rng):
    for density, dense in ((0.3, False), (0.7, True)):
        X = random_array((500, 60), density=density, rng=rng, format="csr")
        q = automatic.prepare(X, lp.Format(8, False)).codes
        assert isinstance(q, lp.QuantizedArray) == dense
        back = lp.dequantize(q, np.float64)
        assert np.abs((back if dense else back.toarray()) - X.toarray()).max() <= 0.5001 * q.scale


def test_nan_in_uneven_columns_is_named(rng):
    X = rng.standard_normal((300, 3)) * [1.0, 100.0, 1e4]
    X[17, 1] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        automatic.prepare(X, lp.Format(8, False))


# ---- untuned, beside scikit-learn's best -----------------------------------------------------------------------

#: What a grid of 32 settings of SGDClassifier or SGDRegressor and a validation split chose (lowprec experiment defaults).
TUNED = {
    "a9a": SGDClassifier(loss="hinge", alpha=1e-6, learning_rate="optimal", average=True, max_iter=30, random_state=0),
    "ijcnn1": SGDClassifier(loss="hinge", alpha=1e-5, learning_rate="optimal", average=True, max_iter=30, random_state=0),
    "reuters_moneyfx": SGDClassifier(
        loss="log_loss", alpha=1e-6, learning_rate="adaptive", eta0=0.3, max_iter=60, random_state=0
    ),
    "cal_housing": SGDRegressor(alpha=1e-6, learning_rate="adaptive", eta0=0.003, average=True, max_iter=60, random_state=0),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", TUNED)
def test_defaults_are_near_tuned_scikit_learn(name):
    """Points below it that each signature may have, in the mean of six seeds."""
    folder = os.environ.get("LOWPREC_DATA")
    if not folder or not (Path(folder) / "svmlight").is_dir():
        pytest.skip("LOWPREC_DATA does not name a folder with svmlight/ and tabular/ in it")
    X, y, Z, z = defaults.load(name)
    peer = defaults.score(name, TUNED[name].fit(X, y), Z, z)
    for signature, average, bar in defaults.BARS:
        made = (defaults.ours(name, signature, average=average, random_state=seed).fit(X, y) for seed in range(6))
        found = [defaults.score(name, clf, Z, z) for clf in made]
        print(f"{name} {signature} average={average}: {np.round(found, 2)}, scikit-learn {peer:.2f}")
        assert np.mean(found) >= peer - bar
