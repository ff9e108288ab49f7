"""scikit-learn's SGDClassifier and ours on the same data: dense, whole public calls; sparse, the loops of the epochs."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.report.sparse_data import DENSITY
from lowprec.report.timing import Case, huge_buffer
from lowprec.report.workload import Workload

__all__ = ["Contender", "available", "contenders", "sparse_contenders"]

_TEST_ROWS = 8192

#: Two calls of scikit-learn differ by so many epochs: the difference of their times is that of its loop.
_EPOCHS = 2


def available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


@dataclass
class Contender:
    """Something that trains, to be timed, and how good its last model is."""

    case: Case
    coef: list[np.ndarray]  # the last run's weights, alone in the list
    quality: Callable[[np.ndarray], dict[str, float]]
    prepare_seconds: float | None = None

    def fields(self) -> dict[str, Any]:
        """What a row says beyond speed."""
        return {**self.quality(self.coef[0]), "prepare_seconds": self.prepare_seconds}


def _contender(
    engine: str,
    formats: tuple[str, str | None, str],
    train: Callable[[], tuple[float, np.ndarray]],
    shape: tuple[int, int],
    numbers: int,
    quality: Callable[[np.ndarray], dict[str, float]],
    **about: Any,
) -> Contender:
    """A contender: `train` returns the seconds of an epoch of `numbers` dataset numbers, and the weights."""
    (D, index, M), (m, n) = formats, shape
    coef: list[np.ndarray] = []

    def run() -> float:
        seconds, weights = train()
        coef[:] = [weights]
        return numbers / seconds / 1e9

    what = {
        "engine": engine,
        "signature": f"D{D}{'' if index is None else f'i{index}'}M{M}",
        "D": D,
        "index": index,
        "M": M,
        "random": "none" if M == "32f" else "shared",
        "n": n,
        "n_rows": m,
        "threads": 1,
    }
    return Contender(Case(what | about, run), coef, quality)


def _classifier(step: float, epochs: int) -> Any:
    """scikit-learn's, doing what ours does."""
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(
        loss="log_loss",
        penalty=None,
        learning_rate="constant",
        eta0=step,
        max_iter=epochs,
        tol=None,
        shuffle=False,
        fit_intercept=False,
    )


def contenders(n: int, n_bytes: int, seed: int) -> list[Contender]:
    """scikit-learn, ours in float32, and ours with 8-bit data.

    Quantizing the data and choosing the model's scale are done here, before any timing, and timed apart.

    Parameters
    ----------
    n : int
        Model size.
    n_bytes : int
        Size of the float32 array of the paper's generative model that all train on.
    seed : int
        Of the data and of the rounding.
    """
    import lowprec as lp

    m = max(n_bytes // (4 * n), 2)
    rng = np.random.default_rng([seed, n])
    true = rng.uniform(-1, 1, n).astype(np.float32)

    def draw(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng.random(out=X, dtype=np.float32)
        X *= 2
        X -= 1
        return X, np.where(rng.random(len(X)) < 0.5 * (1 + np.tanh(0.5 * (X @ true))), 1, -1)

    X, y = draw(huge_buffer(m * n * 4).view(np.float32).reshape(m, n))
    X_test, y_test = draw(np.empty((min(m, _TEST_ROWS), n), np.float32))
    step = 0.5 / (n / 3)

    def accuracy(coef: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(np.mean((X_test @ coef.astype(np.float32) > 0) == (y_test > 0)))}

    def contender(engine: str, D: str, M: str, train: Callable[[], np.ndarray]) -> Contender:
        def timed() -> tuple[float, np.ndarray]:
            begin = time.perf_counter()
            coef = train()
            return time.perf_counter() - begin, coef

        return _contender(engine, (D, None, M), timed, (m, n), m * n, accuracy)

    theirs = _classifier(step, 1)
    common = {"step_size": step, "n_threads": 1, "seed": seed}
    made = [
        contender("scikit-learn", "32f", "32f", lambda: theirs.fit(X, y).coef_[0]),
        contender("lowprec", "32f", "32f", lambda: lp.train(X, y, signature="D32fM32f", **common).coef),
    ]
    begin = time.perf_counter()
    q = lp.quantize(X, "8", seed=seed)
    quantizing = time.perf_counter() - begin
    for M in ("16", "8"):
        begin = time.perf_counter()
        first = lp.train(q, y, signature=f"D8M{M}", **common)
        choosing = time.perf_counter() - begin - first.seconds

        def train(M: str = M, scale: float = first.model.scale) -> np.ndarray:
            return lp.train(q, y, signature=f"D8M{M}", model_scale=scale, **common).coef

        made.append(contender("lowprec", "8", M, train))
        made[-1].prepare_seconds = quantizing + choosing
    return made


def sparse_contenders(work: Workload, n: int) -> list[Contender]:
    """scikit-learn on a float32 CSR matrix of the paper's density, and ours on the same numbers, converted beforehand.

    What is timed is the loop of the epochs alone: `lowprec.train` says how long that took, and two calls of scikit-learn
    differ by nothing else.

    Parameters
    ----------
    work : Workload
    n : int
        Columns.
    """
    import lowprec as lp

    data = work.sparse_data(n)
    X, y, labels = data.csr, data.y, data.y.astype(np.int8)
    some, step = X[:_TEST_ROWS], 0.5 / (DENSITY * n / 3)

    def loss(coef: np.ndarray) -> dict[str, float]:
        return {"loss": float(np.logaddexp(0, -y[:_TEST_ROWS] * (some @ coef)).mean())}

    short, long = _classifier(step, 1), _classifier(step, 1 + _EPOCHS)

    def theirs() -> tuple[float, np.ndarray]:
        times = []
        for model in (short, long):
            begin = time.perf_counter()
            model.fit(X, labels)
            times.append(time.perf_counter() - begin)
        # Data that are too small to tell: the whole call.
        return (times[1] - times[0]) / _EPOCHS if times[1] > times[0] else times[0], short.coef_[0]

    def contender(engine: str, formats: tuple[str, str, str], n_bytes: float, train: Callable) -> Contender:
        return _contender(engine, formats, train, X.shape, X.nnz, loss, bytes_per_number=n_bytes)

    made = [contender("scikit-learn", ("32f", "32", "32f"), 8.0, theirs)]
    for D, index, M in (("32f", "32", "32f"), ("8", "16", "8"), ("8", "8", "8")):
        q = data.array(D, index)
        options = {"signature": f"D{D}i{index}M{M}", "step_size": step, "n_threads": 1, "seed": work.seed}
        first = lp.train(q, y, **options)
        if M != "32f":
            options["model_scale"] = first.model.scale

        def ours(q: Any = q, options: dict[str, Any] = options) -> tuple[float, np.ndarray]:
            r = lp.train(q, y, **options)
            return r.seconds, r.coef

        made.append(contender("lowprec", (D, index, M), q.bytes_per_nonzero, ours))
    return made
