"""Untuned estimators beside tuned scikit-learn, on real data: what a user gets without learning anything about rounding."""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lowprec import checks, datasets

__all__ = ["BARS", "NAMES", "data_folder", "grid", "load", "ours", "score", "tuned"]

NAMES = ("a9a", "ijcnn1", "reuters_moneyfx", "news20", "mnist", "fashion_mnist", "cal_housing")
#: Signature, whether averaged, and the points below scikit-learn that are accepted.
BARS = (("D8M16", False, 0.5), ("D8M8", False, 1.5), ("D8M8", True, 1.0))
_TEST_FILES = {"a9a": ("a9a.bz2", "a9a.t.bz2")} | {n: (f"{n}.trn.bz2", f"{n}.tst.bz2") for n in ("ijcnn1", "reuters_moneyfx")}
# A class rarer than this is judged by average precision, not by accuracy.
_RARE = 0.2
# Rows of large data that settings are tried on.
_TRIED = 12_000


def data_folder() -> Path:
    """What LOWPREC_DATA names.

    Raises
    ------
    ValueError
        If it names no folder.
    """
    folder = os.environ.get("LOWPREC_DATA", "")
    if not folder or not Path(folder).is_dir():
        raise checks.wrong_value("LOWPREC_DATA", "this environment variable must name the folder of the data sets", folder)
    return Path(folder)


def load(folder: Path, name: str) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Training and test data: the published split, or a fifth for the test.

    Pixels are divided by 255, and a table's columns standardized, for scikit-learn's sake; counts are as they are.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    if name in ("mnist", "fashion_mnist"):
        parts = [datasets.load(folder / name / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
        return tuple(a for X, y in parts for a in (X.astype(np.float32) / 255, y))  # type: ignore[return-value]
    if name in _TEST_FILES:
        (X, y), (Z, z) = (datasets.load(folder / "svmlight" / file, sparse=True) for file in _TEST_FILES[name])
        n = max(X.shape[1], Z.shape[1])
        X.resize(X.shape[0], n)
        Z.resize(Z.shape[0], n)
        return _int32(X), y, _int32(Z), z
    if name == "news20":
        X, y = datasets.load(folder / "svmlight" / "news20.bz2", sparse=True)
        X, Z, y, z = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
        return _int32(X), y, _int32(Z), z
    X, y = datasets.load(folder / "tabular" / f"{checks.check_choice('name', name, NAMES)}.csv.gz")
    X, Z, y, z = train_test_split(X, y, test_size=0.2, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), y, scaler.transform(Z), z


def _int32(X: Any) -> Any:
    """With indices of 32 bits: scikit-learn takes no others."""
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X


def measure_of(name: str, y: np.ndarray) -> str:
    """What a data set is judged by."""
    if name == "cal_housing":
        return "R2"
    counts = np.unique(y, return_counts=True)[1]
    return "average precision" if len(counts) == 2 and counts.min() < _RARE * len(y) else "accuracy"


def score(name: str, model: Any, X: Any, y: np.ndarray) -> float:
    """Points of a hundred: accuracy, average precision where a class is rare, or R2."""
    from sklearn.metrics import average_precision_score

    if measure_of(name, y) == "average precision":
        return 100.0 * float(average_precision_score(y, model.decision_function(X)))
    return 100.0 * float(model.score(X, y))


def ours(name: str, signature: str, **parameters: Any) -> Any:
    """One of our estimators with nothing else set."""
    from lowprec.linear_model import LowPrecisionSGDClassifier, LowPrecisionSGDRegressor

    return (LowPrecisionSGDRegressor if name == "cal_housing" else LowPrecisionSGDClassifier)(signature, **parameters)


def grid(name: str) -> list[dict[str, Any]]:
    """The settings of scikit-learn's that are tried."""
    losses = ("squared_error",) if name == "cal_housing" else ("log_loss", "hinge")
    steps = (("optimal", 0.01), ("adaptive", 0.003), ("adaptive", 0.03), ("adaptive", 0.3))
    return [
        {"loss": loss, "alpha": alpha, "learning_rate": rate, "eta0": eta0, "average": average}
        for loss, alpha, (rate, eta0), average in itertools.product(losses, (1e-6, 1e-5, 1e-4, 1e-3), steps, (False, True))
    ]


def tuned(name: str, X: Any, y: np.ndarray, progress: Any = None) -> tuple[Any, dict[str, Any]]:
    """scikit-learn's SGD with the setting that is best on a quarter held out, fitted to all: the model, and the setting."""
    from sklearn.linear_model import SGDClassifier, SGDRegressor
    from sklearn.model_selection import train_test_split

    kind = SGDRegressor if name == "cal_housing" else SGDClassifier
    parts = train_test_split(X, y, test_size=0.25, random_state=1, stratify=None if name == "cal_housing" else y)
    A, V, a, v = (part[:_TRIED] for part in parts) if name in ("mnist", "fashion_mnist") else parts
    best: tuple[float, dict[str, Any]] = (-np.inf, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 30 epochs are not enough for some settings
        settings = grid(name)
        for k, setting in enumerate(settings):
            if progress is not None:
                progress(f"{name}: tuning scikit-learn", f"setting {k + 1} of {len(settings)}", k / len(settings))
            try:
                found = score(name, kind(max_iter=30, random_state=0, **setting).fit(A, a), V, v)
            except ValueError:  # it diverged
                continue
            best = max(best, (found, setting), key=lambda pair: pair[0])
        return kind(max_iter=60, random_state=0, **best[1]).fit(X, y), best[1]
