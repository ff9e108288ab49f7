"""The training report: one signature beside float32 and scikit-learn, on the user's data. See `compare`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.checks import check_choice, check_finite_scalar, check_int, check_seed, check_step, wrong_value
from lowprec.report.files import header
from lowprec.report.rows import FLOAT
from lowprec.report.tables import Table, duration, n_bytes, n_threads, number, times
from lowprec.report.timing import Case, ratios, spread, take_turns

__all__ = [
    "Options",
    "Problem",
    "communication_fields",
    "communication_tables",
    "compare",
    "default_step",
    "figures",
    "prepare",
    "tables",
]

_SCALINGS = ("auto", "maxabs", "standard", "none")

#: What the default step corrects of an example's error in one update, about: the best of 1, 0.3, 0.1, 0.03 and 0.01
#: after 5 epochs on nine data sets, or between the best two. Its keys are the losses that the command compares; `lowprec.train`
#: and the estimators have more.
STEP_FACTORS = {"logistic": 0.2, "hinge": 0.1, "squared": 0.05}

#: More distinct targets than this are taken for a quantity and not for classes.
MAX_CLASSES = 100

#: A dense float32 array larger than this is refused rather than left to exhaust the memory.
MAX_DENSE_BYTES = 8 * 2**30

FIELDS = (
    "table",
    "name",
    "engine",
    "signature",
    "loss",
    "score",
    "score_name",
    "train_loss",
    "quantize_seconds",
    "train_seconds",
    "train_seconds_q1",
    "train_seconds_q3",
    "epoch_seconds",
    "gnps",
    "ratio",
    "ratio_to",
    "bytes_per_example",
    "n",
    "n_train",
    "n_test",
    "n_models",
    "epochs",
    "step_size",
    "threads",
    "ranks",
    "batch_size",
    "sync_every",
    "codec",
    "exchanges",
    "bytes_sent",
    "communication_seconds",
    "compression_ratio",
    "runs",
)


@dataclass(frozen=True)
class Options:
    """How to train.

    Parameters
    ----------
    signature : str, optional
        None: of a store, its own D and i, and M of the same width, 8 bits at least.
    loss : {"logistic", "hinge", "squared"}, optional
        None: squared for a target that is a quantity, otherwise logistic.
    step_size : float, optional
        None: `default_step`.
    epochs, threads : int
    test_size : float
        Share of the examples that is held out.
    scaling : {"auto", "maxabs", "standard", "none"}
        What is done to each feature before anything else, as the training split has it: division by its
        largest magnitude; subtraction of its mean and division by its standard deviation; nothing. "auto" is
        maxabs if most of the data are zeros (pixels, counts, indicators), else standard.
    seed : int
        Of the split and of the rounding.
    seconds : float
        About how long training is repeated, to have medians.
    batch_size, sync_every, error_feedback, staleness, timeout
        As `lowprec.train` has them; the last three are for a signature with a C term.
    checkpoint : str, optional
        As `lowprec.train` has it; on a store alone.
    """

    signature: str | None = "D8M8"
    loss: str | None = None
    step_size: float | None = None
    epochs: int = 5
    threads: int = 1
    test_size: float = 0.2
    scaling: str = "auto"
    seed: int = 0
    seconds: float = 5.0
    batch_size: int = 1
    sync_every: int | None = None
    error_feedback: bool = True
    staleness: int | None = None
    timeout: float = 120.0
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.loss is not None:
            check_choice("loss", self.loss, tuple(STEP_FACTORS))
        if self.step_size is not None:
            check_step(self.step_size, "step-size")
        check_int("epochs", self.epochs, minimum=1)
        check_int("threads", self.threads, minimum=1)
        if not 0 < check_finite_scalar("test-size", self.test_size) < 1:
            raise wrong_value("test-size", "must lie between 0 and 1", self.test_size)
        check_choice("scale", self.scaling, _SCALINGS)
        check_seed(self.seed)
        check_int("batch-size", self.batch_size, minimum=1)
        if self.sync_every is not None:
            check_int("sync-every", self.sync_every, minimum=1)
        check_finite_scalar("timeout", self.timeout, positive=True)

    def workers(self, signature: str) -> dict[str, Any]:
        """Arguments of `lowprec.train` that say how workers share a model; what is for a C term goes to the chosen signature."""
        found: dict[str, Any] = {
            "n_threads": self.threads, "batch_size": self.batch_size, "sync_every": self.sync_every, "timeout": self.timeout,
        }  # fmt: skip
        if signature == self.signature:
            found |= {"error_feedback": self.error_feedback, "staleness": self.staleness}
        return found


@dataclass
class Problem:
    """Data split and scaled, ready for every contender."""

    X: np.ndarray  # float32
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    classes: np.ndarray | None  # None: y is a quantity
    loss: str
    scaling: str

    def targets(self) -> list[np.ndarray]:
        """What each model learns: one for two classes or a quantity, else one class against the rest each."""
        if self.classes is None:
            return [self._standard(self.y)]
        positives = self.classes[1:] if len(self.classes) == 2 else self.classes
        return [np.where(self.y == c, np.float32(1), np.float32(-1)) for c in positives]

    def _standard(self, y: np.ndarray) -> np.ndarray:
        spread_ = float(self.y.std()) or 1.0
        return ((y - self.y.mean()) / spread_).astype(np.float32)

    def score(self, outputs: np.ndarray) -> float:
        """Accuracy, or R^2 of a quantity, of the models' outputs for the test rows, shape (models, rows)."""
        if self.classes is None:
            truth = self._standard(self.y_test)
            return float(1 - np.mean((outputs[0] - truth) ** 2) / max(float(truth.var()), 1e-30))
        if len(self.classes) == 2:
            return float(np.mean(self.classes[(outputs[0] > 0).astype(int)] == self.y_test))
        return float(np.mean(self.classes[outputs.argmax(axis=0)] == self.y_test))

    @property
    def score_name(self) -> str:
        """What `score` is."""
        return "R^2" if self.classes is None else "accuracy"


def default_step(X: np.ndarray, loss: str) -> float:
    """The step size that is taken where none is given: the loss's factor in `STEP_FACTORS`, over mean(q).

    q is the squared norm of an example and its constant feature; at most the first 10,000 rows are looked at. With the
    squared loss the step is also at most 1 / max(q), beyond which an update would overshoot.
    """
    return step_for(np.einsum("ij,ij->i", X[:10_000], X[:10_000], dtype=np.float64), loss)


def step_for(squares: np.ndarray, loss: str) -> float:
    """`default_step` from the rows' sums of squares."""
    q = 1.0 + squares
    step = STEP_FACTORS[loss] / float(q.mean())
    return min(step, 1.0 / float(q.max())) if loss == "squared" else step


def _dense(X: Any) -> np.ndarray:
    n_bytes = 4 * X.shape[0] * X.shape[1]
    if n_bytes > MAX_DENSE_BYTES:
        rule = f"must fit into {MAX_DENSE_BYTES / 2**30:.0f} GiB as a dense float32 array"
        raise wrong_value("data", rule, f"shape {tuple(X.shape)}, {n_bytes / 2**30:.1f} GiB")
    return X.toarray() if hasattr(X, "toarray") else np.asarray(X)


def _split(
    y: np.ndarray, classes: np.ndarray | None, test_size: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for testing, both shuffled; each class is split in the same proportion."""
    rng = np.random.default_rng(seed)
    groups = [np.arange(len(y))] if classes is None else [np.flatnonzero(y == c) for c in classes]
    train, test = [], []
    for rows in groups:
        rng.shuffle(rows)
        k = round(test_size * len(rows))
        test.append(rows[:k])
        train.append(rows[k:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def target_of(y: np.ndarray, options: Options) -> tuple[np.ndarray | None, str]:
    """The classes, or None where the target is a quantity, and the loss."""
    found = np.unique(y)
    quantity = y.dtype.kind == "f" and (len(found) > MAX_CLASSES or bool(np.any(found != np.round(found))))
    loss = options.loss or ("squared" if quantity else "logistic")
    if quantity and loss != "squared":
        raise wrong_value("loss", "must be squared for a target that is a quantity", loss)
    if len(found) < 2:
        raise wrong_value("target", "must have at least two distinct values", f"{len(found)}: {found[:1]}")
    if not quantity and len(found) > MAX_CLASSES:
        raise wrong_value(
            "target",
            f"must have at most {MAX_CLASSES} classes, or be floats",
            f"{len(found)} distinct values",
        )
    return (None if quantity else found), loss


def prepare(X: Any, y: Any, options: Options) -> Problem:
    """Decide what kind of problem the data are, hold out test rows, and scale the features."""
    X, y = _dense(X), np.asarray(y)
    if len(y) != X.shape[0]:
        raise wrong_value("y", f"must have one label for each of the {X.shape[0]} rows", f"{len(y)}")
    classes, loss = target_of(y, options)
    train, test = _split(y, classes, options.test_size, options.seed)
    if not len(train) or not len(test):
        raise wrong_value(
            "test-size",
            "must leave rows for training and for testing",
            f"{options.test_size} of {len(y)} rows",
        )
    A, B = X[train].astype(np.float32), X[test].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(A).all(axis=1))
    if len(bad):
        raise wrong_value("data", "every value must be finite", f"NaN or inf in row {train[bad[0]]}")
    scaling = options.scaling
    if scaling == "auto":
        scaling = "maxabs" if np.count_nonzero(A) < 0.5 * A.size else "standard"
    if scaling != "none":
        shift = (
            A.mean(axis=0, dtype=np.float64).astype(np.float32) if scaling == "standard" else np.float32(0)
        )
        spread_ = A.std(axis=0, dtype=np.float64) if scaling == "standard" else np.abs(A).max(axis=0)
        factor = (1 / np.where(spread_ > 0, spread_, 1)).astype(np.float32)
        for part in (A, B):
            part -= shift
            part *= factor
    return Problem(A, y[train], B, y[test], classes, loss, scaling)


class _Ours:
    """One signature of ours: quantized once, then one model for each target."""

    engine = "lowprec"

    def __init__(self, p: Problem, signature: str, step: float, options: Options) -> None:
        import lowprec as lp

        self.name = self.signature = signature
        self.p, self.step, self.options, self.train = p, step, options, lp.train
        D = lp.Signature(signature).dataset
        begin = time.perf_counter()
        # A float32 array is what the kernels of D32f read: nothing to convert.
        self.X = p.X if D is None or D.is_float else lp.quantize(p.X, str(D), seed=options.seed)
        self.quantize_seconds = 0.0 if self.X is p.X else time.perf_counter() - begin
        self.bytes_per_example = self.X.nbytes / len(p.y)
        self.epoch_seconds: list[float] = []
        self.communication: list[Any] = []

    def fit(self, targets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        o = self.options
        found = [
            self.train(
                self.X,
                t,
                signature=self.signature,
                loss=self.p.loss,
                step_size=self.step,
                epochs=o.epochs,
                seed=o.seed,
                fit_intercept=True,
                **o.workers(self.signature),
            )
            for t in targets
        ]
        self.communication = [r.communication for r in found]
        self.epoch_seconds.append(sum(r.seconds for r in found))
        return np.array([r.coef for r in found]), np.array([r.intercept for r in found])


class _Sklearn:
    """scikit-learn's SGD with the same loss, step, order, and number of epochs."""

    engine, name, signature, quantize_seconds, epoch_seconds = "scikit-learn", "scikit-learn", None, 0.0, None
    communication = ()

    def __init__(self, p: Problem, step: float, options: Options) -> None:
        from sklearn.linear_model import SGDClassifier, SGDRegressor

        self.p = p
        names = {"logistic": "log_loss", "hinge": "hinge", "squared": "squared_error"}
        common = {
            "loss": names[p.loss],
            "penalty": None,
            "learning_rate": "constant",
            "eta0": step,
            "max_iter": options.epochs,
            "tol": None,
            "shuffle": False,
        }
        self.model = SGDRegressor(**common) if p.classes is None else SGDClassifier(**common)
        self.bytes_per_example = p.X.nbytes / len(p.y)

    def fit(self, targets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        self.model.fit(self.p.X, targets[0] if self.p.classes is None else self.p.y)
        return np.atleast_2d(self.model.coef_), np.atleast_1d(self.model.intercept_)


def compare(
    X: Any, y: Any, options: Options, progress: Callable[[str, str, float], None] = lambda *_: None
) -> dict[str, Any]:
    """Train the signature, float32 and, if installed, scikit-learn on the same data, and say how good and how
    fast.

    Parameters
    ----------
    X : array or CSR matrix, shape (m, n)
    y : array, shape (m,)
        Classes (any integers or strings), or a quantity.
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    from lowprec.losses import mean_loss

    begin = time.perf_counter()
    progress("Preparing", "splitting and scaling", 0.0)
    p = prepare(X, y, options)
    step = options.step_size or default_step(p.X, p.loss)
    targets = p.targets()
    m, n = p.X.shape
    numbers = m * n * options.epochs * len(targets)

    progress("Preparing", "quantizing", 0.1)
    makers = [lambda s=s: _Ours(p, s, step, options) for s in dict.fromkeys((options.signature, FLOAT))]
    try:
        import sklearn.linear_model  # noqa: F401

        makers.append(lambda: _Sklearn(p, step, options))
    except ImportError:
        pass
    contenders = [make() for make in makers]
    fitted: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def timed(c: Any) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            fitted[c.name] = c.fit(targets)
            return numbers / (time.perf_counter() - start) / 1e9

        return run

    cases = [Case({"name": c.name}, timed(c)) for c in contenders]
    started = time.perf_counter()

    def tick(case: Case) -> None:
        part = min((time.perf_counter() - started) / max(options.seconds, 1e-9), 1.0)
        progress("Training", case.about["name"], 0.2 + 0.8 * part)

    turns = take_turns(cases, options.seconds, min_turns=1, max_turns=15, tick=tick)
    found = {c.name: t for c, t in zip(contenders, turns, strict=True)}
    last = contenders[-1].name
    rows = []
    for c in contenders:
        coef, intercept = fitted[c.name]
        outputs = coef @ p.X_test.T.astype(np.float64) + intercept[:, None]
        fit = [p.X @ w.astype(np.float32) + b for w, b in zip(coef, intercept, strict=True)]
        gnps = found[c.name].gnps
        seconds = spread([numbers / g / 1e9 for g in gnps])
        row = {
            "table": "train",
            "name": c.name,
            "engine": c.engine,
            "signature": c.signature,
            "loss": p.loss,
            "score": p.score(outputs),
            "score_name": p.score_name,
            "train_loss": float(
                np.mean([mean_loss(p.loss, z, t) for z, t in zip(fit, targets, strict=True)])
            ),
            "quantize_seconds": c.quantize_seconds,
            "train_seconds": seconds.median,
            "train_seconds_q1": seconds.q1,
            "train_seconds_q3": seconds.q3,
            "epoch_seconds": None if c.epoch_seconds is None else spread(c.epoch_seconds).median,
            "gnps": numbers
            / (seconds.median if c.epoch_seconds is None else spread(c.epoch_seconds).median)
            / 1e9,
            "ratio": ratios(gnps, found[last].gnps).median,
            "ratio_to": last,
            "bytes_per_example": c.bytes_per_example,
            "n": n,
            "n_train": m,
            "n_test": len(p.y_test),
            "n_models": len(targets),
            "epochs": options.epochs,
            "step_size": step,
            "threads": options.threads if c.engine == "lowprec" else 1,
            "batch_size": options.batch_size if c.engine == "lowprec" else 1,
            "sync_every": options.sync_every if c.engine == "lowprec" else None,
            "runs": len(gnps),
        }
        row |= communication_fields(c.communication)
        rows.append({field: row[field] for field in FIELDS})
    progress("Done", "", 1.0)
    chosen = {"loss": p.loss, "step_size": step, "given_step": options.step_size is not None, "scaling": p.scaling}
    return header("train", vars(options) | chosen, time.perf_counter() - begin) | {"rows": rows}


def communication_fields(found: Sequence[Any]) -> dict[str, Any]:
    """The fields of a row that say what its C term cost: of one run of `lowprec.train`, or of one for each model."""
    if not found or found[0] is None:
        return dict.fromkeys(("ranks", "codec", "exchanges", "bytes_sent", "communication_seconds", "compression_ratio"))
    first = found[0]
    return {
        "ranks": None if first.rank is None else first.workers,
        "codec": first.codec,
        "exchanges": sum(c.exchanges for c in found),
        "bytes_sent": sum(c.bytes_sent for c in found),
        "communication_seconds": sum(c.seconds for c in found),
        "compression_ratio": first.ratio,
    }


def communication_tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """What C terms cost, as a table to read; none where no row has one that did something."""
    rows = [row for row in rows if row["codec"] is not None]
    if not rows:
        return []
    table = Table("Between the workers", ["<", "<workers", "exchanges", "sent", "ratio", "time"], strong=(3,))
    for row in rows:
        table.add(
            f"lowprec {row['name']}", n_threads(row["threads"]) if row["ranks"] is None else f"{row['ranks']} ranks",
            f"{row['exchanges']:,}", n_bytes(row["bytes_sent"]), times(row["compression_ratio"]),
            f"{100 * row['communication_seconds'] / max(row['epoch_seconds'], 1e-9):.0f} %",
        )  # fmt: skip
    table.notes.append(
        "exchanges: of a worker with all others. sent: bytes from one worker; of threads, what it would have sent. ratio: what "
        "32f would have sent over that, in the exchanges. time: share of the epochs' time that is coding, sending and waiting."
    )
    return [table]


def tables(results: dict[str, Any], source: str) -> list[Table]:
    """The results as tables to read."""
    rows = results["rows"]
    first = rows[0]
    kind = "a model" if first["n_models"] == 1 else f"{first['n_models']} models, one a class,"
    o = results["options"]
    table = Table(
        f"{source}: {kind} of {first['n']:,} features; {first['n_train']:,} examples, {first['n_test']:,} held out",
        [
            "<",
            first["score_name"],
            "loss",
            "quantize",
            "train",
            "epochs",
            "GNPS",
            "speed",
            "bytes",
        ],
        strong=(1, 4),
    )
    for row in rows:
        table.add(
            row["name"] if row["engine"] == "scikit-learn" else f"lowprec {row['name']}",
            f"{row['score']:.4f}",
            f"{row['train_loss']:.4f}",
            duration(row["quantize_seconds"] or None),
            duration(row["train_seconds"]),
            duration(row["epoch_seconds"]),
            number(row["gnps"]),
            times(row["ratio"]),
            f"{row['bytes_per_example']:,.0f}",
        )
    chosen = "" if o["given_step"] else " (by default, from the data)"
    threads = "one thread" if o["threads"] == 1 else f"{o['threads']} threads (scikit-learn: one)"
    table.notes += [
        f"{o['loss']} loss, step {o['step_size']:.3g}{chosen}, {o['epochs']} epochs, {threads}, "
        f"features scaled: {o['scaling']}; the same rows in the same order for all.",
        f"{first['score_name']}: on held-out rows. loss: mean on the training rows. bytes: of one row. "
        f"speed: train time over that of {first['ratio_to']}.",
        "train: whole calls; lowprec's include choosing the model's scale, which tells on small data. "
        "epochs: without that, and the basis of GNPS.",
    ]
    return [table, *communication_tables(rows)]


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    from lowprec.report import plots

    return {"train": plots.training(results["rows"], results["rows"][0]["score_name"])}
