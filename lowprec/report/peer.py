"""scikit-learn's SGDClassifier and ours on the same float32 array: one epoch, whole public calls."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lowprec.report.timing import Case, huge_buffer

__all__ = ["Contender", "available", "contenders"]

_TEST_ROWS = 8192


def available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


@dataclass
class Contender:
    """Something that trains, to be timed, and how good its last model is."""

    case: Case
    accuracy: Callable[[], float]  # on rows that were not trained on
    prepare_seconds: float | None = None


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
    from sklearn.linear_model import SGDClassifier

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

    def contender(
        engine: str, D: str, M: str, train: Callable[[], np.ndarray], prepare: float | None = None
    ) -> Contender:
        coef: list[np.ndarray] = []

        def run() -> float:
            begin = time.perf_counter()
            coef[:] = [train()]
            return m * n / (time.perf_counter() - begin) / 1e9

        about = {
            "engine": engine,
            "signature": f"D{D}M{M}",
            "D": D,
            "M": M,
            "random": "none" if M == "32f" else "shared",
            "n": n,
            "n_rows": m,
            "threads": 1,
        }
        right = lambda: float(np.mean((X_test @ coef[0].astype(np.float32) > 0) == (y_test > 0)))  # noqa: E731
        return Contender(Case(about, run), right, prepare)

    theirs = SGDClassifier(
        loss="log_loss",
        penalty=None,
        learning_rate="constant",
        eta0=step,
        max_iter=1,
        tol=None,
        shuffle=False,
        fit_intercept=False,
    )
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

        made.append(contender("lowprec", "8", M, train, quantizing + choosing))
    return made
