"""The estimators with nothing set, beside scikit-learn's SGD tuned: what a user gets who learns nothing about rounding.

Not the paper's. scikit-learn's setting (loss, penalty, step and its schedule, averaging; 64 of them, 32 for regression) is the
best on a quarter of the training rows; it is then fitted to all of them. Ours are `LowPrecisionSGDClassifier` and
`LowPrecisionSGDRegressor` as they come, but for the signature and `average`. Both are judged on the test rows, and ours by the
mean of some seeds.
"""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec import checks, datasets
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Steps, choices, data_file, make_row, results
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table, duration

__all__ = ["BARS", "FIELDS", "FULL", "NAMES", "QUICK", "Options", "figures", "load", "measure", "ours", "score", "tables"]

FIELDS = (
    "table", "data", "engine", "signature", "average", "measure", "score", "score_min", "score_max", "points_below", "accepted",
    "seconds", "setting", "m", "m_test", "n", "classes", "runs",
)  # fmt: skip

NAMES = ("a9a", "ijcnn1", "reuters_moneyfx", "news20", "mnist", "fashion_mnist", "cal_housing")
#: Signature, whether averaged, and the points below scikit-learn that are accepted.
BARS = (("D8M16", False, 0.5), ("D8M8", False, 1.5), ("D8M8", True, 1.0))
_TEST_FILES = {"a9a": ("a9a.bz2", "a9a.t.bz2")} | {n: (f"{n}.trn.bz2", f"{n}.tst.bz2") for n in ("ijcnn1", "reuters_moneyfx")}
# A class rarer than this is judged by average precision, not by accuracy.
_RARE = 0.2
# Rows of large data that settings are tried on.
_TRIED = 12_000


def load(name: str) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Training and test data: the published split, or a fifth for the test.

    Pixels are divided by 255, and a table's columns standardized, for scikit-learn's sake; counts are as they are.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    checks.check_choice("data", name, NAMES)
    if name in ("mnist", "fashion_mnist"):
        parts = [datasets.load(data_file(name, f"{part}-images-idx3-ubyte.gz")) for part in ("train", "t10k")]
        return tuple(a for X, y in parts for a in (X.astype(np.float32) / 255, y))  # type: ignore[return-value]
    if name in _TEST_FILES:
        (X, y), (Z, z) = (datasets.load(data_file("svmlight", file), sparse=True) for file in _TEST_FILES[name])
        n = max(X.shape[1], Z.shape[1])
        X.resize(X.shape[0], n)
        Z.resize(Z.shape[0], n)
        return _int32(X), y, _int32(Z), z
    if name == "news20":
        X, y = datasets.load(data_file("svmlight", "news20.bz2"), sparse=True)
        X, Z, y, z = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
        return _int32(X), y, _int32(Z), z
    X, y = datasets.load(data_file("tabular", f"{name}.csv.gz"))
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
                progress(k / len(settings))
            try:
                found = score(name, kind(max_iter=30, random_state=0, **setting).fit(A, a), V, v)
            except ValueError:  # it diverged
                continue
            best = max(best, (found, setting), key=lambda pair: pair[0])
        return kind(max_iter=60, random_state=0, **best[1]).fit(X, y), best[1]


# ---- the experiment ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What is compared.

    Parameters
    ----------
    data : tuple of str
        Of `NAMES`.
    runs : int
        Seeds, from 0 on, that our scores are the mean of.
    """

    data: tuple[str, ...] = NAMES
    runs: int = 6
    seed: int = 0


FULL = Options()
QUICK = Options(data=("a9a", "cal_housing"), runs=3)


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Tune scikit-learn, and fit both.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    begin, rows = time.perf_counter(), []
    step = Steps(progress, 8.0 * len(options.data))
    for name in options.data:
        step(name, "reading", 0.5)
        X, y, Z, z = load(name)
        about = {
            "data": name, "measure": measure_of(name, y), "m": X.shape[0], "m_test": Z.shape[0], "n": X.shape[1],
            "classes": None if name == "cal_housing" else len(np.unique(y)),
        }  # fmt: skip
        step(name, "tuning scikit-learn", 6.0)
        peer, setting = tuned(name, X, y, step.within)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer.fit(X, y)
        given = {"engine": "scikit-learn", "seconds": time.perf_counter() - start, "runs": 1}
        best = score(name, peer, Z, z)
        rows.append(make_row(FIELDS, table="defaults", score=best, setting=setting, average=setting["average"], **given, **about))
        for signature, average, accepted in BARS:
            step(name, f"{signature}{', averaged' if average else ''}", 0.5)
            found, seconds = [], []
            for k in range(options.runs):
                start = time.perf_counter()
                made = ours(name, signature, average=average, random_state=options.seed + k).fit(X, y)
                seconds.append(time.perf_counter() - start)
                found.append(score(name, made, Z, z))
            mean = float(np.mean(found))
            given = {"engine": "lowprec", "seconds": float(np.median(seconds)), "runs": options.runs, "accepted": accepted}
            given |= {"score": mean, "score_min": min(found), "score_max": max(found), "points_below": best - mean}
            rows.append(make_row(FIELDS, table="defaults", signature=signature, average=average, **given, **about))
    progress("Done", "", 1.0)
    return results("defaults", options, begin, rows)


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    columns = ["<", "<", "<", "score", "least", "most", "below it", "accepted", "a fit"]
    table = Table("Untuned, beside scikit-learn's SGD tuned", columns, strong=(6,))
    for name in results["options"]["data"]:
        for row in (row for row in select(results, "defaults") if row["data"] == name):
            peer = row["engine"] == "scikit-learn"
            who = "scikit-learn, tuned" if peer else f"{row['signature']}{', averaged' if row['average'] else ''}"
            spread = (NONE, NONE, NONE, NONE) if peer else (
                f"{row['score_min']:.2f}", f"{row['score_max']:.2f}", f"{row['points_below']:+.2f}", f"{row['accepted']:.1f}"
            )  # fmt: skip
            what = (name, row["measure"]) if peer else ("", "")
            table.add(*what, who, f"{row['score']:.2f}", *spread, duration(row["seconds"]))
        table.rule()
    seeds = results["options"]["runs"]
    table.notes.append(f"Points of a hundred. Ours: the mean, the least and the most of {seeds} seeds; one thread.")
    table.notes.append("a fit: with scikit-learn's chosen setting, at most 60 epochs; ours with quantizing.")
    peers = [row for row in select(results, "defaults") if row["setting"]]
    settings = [(row["data"], ", ".join(f"{k} {v}" for k, v in row["setting"].items())) for row in peers]
    return [table, choices(settings, "scikit-learn's settings")]


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    rows, names = select(results, "defaults"), list(results["options"]["data"])
    made, (ax,) = plots.figure(7.5, 0.55 * len(names) + 1.2, 1)
    for k, (signature, average, _) in enumerate(BARS):
        mine = [row for row in rows if (row["signature"], row["average"]) == (signature, average)]
        at = [names.index(row["data"]) + 0.2 * (k - 1) for row in mine]
        best = [row["score"] + row["points_below"] for row in mine]
        low, high = ([row[key] - b for row, b in zip(mine, best, strict=True)] for key in ("score_min", "score_max"))
        label = f"{signature}{', averaged' if average else ''}"
        ax.hlines(at, low, high, color=plots.COLORS[k], linewidth=2)
        ax.plot([-row["points_below"] for row in mine], at, "o", color=plots.COLORS[k], label=label)
    ax.axvline(0.0, color=plots.QUIET)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(True, axis="x", alpha=0.25)
    ax.set_xlabel("points over scikit-learn's SGD, tuned (mean and range of the seeds)")
    ax.legend(frameon=False, fontsize=8)
    return {"defaults": made}
