"""LowPrecisionSGDClassifier: scikit-learn's contract, one-vs-rest, going on, and accuracy on real data."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lowprec as lp

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowprec import datasets, preparing
from lowprec.linear_model import LowPrecisionSGDClassifier, LowPrecisionSGDRegressor

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
