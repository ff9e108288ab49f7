"""What do 16, 8 and 4 bits of the data (D), the model (M) and the gradient (G) cost in training loss?

The loss table of the authors' earlier paper (NIPS 2015) asks it of the data alone, at one step size. Here it is asked of D and M
on five data sets, and of G on the dense ones: the logistic loss on the unrounded training rows after the last pass, beside that
of float32. A comparison at a step that is bad for float32 proves nothing, so every case has its own best step: from that of a
neighbor on, steps are quadrupled or quartered while that pays, then doubled and halved once. The model's range is searched
too, among what `lowprec.train` chooses and some multiples of float32's largest weight; where the model has 8 bits or fewer, by
the mean loss of two seeds. With step and range found, the case is trained with further seeds, and what is reported is the mean of
these runs, none of which was chosen for its luck.

The data, prepared in our way: a9a, ijcnn1 and Reuters (money-fx) as they are, with their own test files; of news20 the
counts c as log(1 + c), rows of unit length, classes 1 to 10 against 11 to 20; of the first 20,000 rows of Covertype the range of
each feature brought to [-1, 1], class 2 against the rest. Of the last two a fifth is held out. Data have one scale for all
features. Examples come one by one, in a new random order in each pass, with an intercept in float64 beside the model, on one
thread.

G rounds the gradient of every example before it is added to the model. Sparse data are trained on without a G.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lowprec.report import paper
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Steps, choices, data_file, make_row, model_scale, results
from lowprec.report.tables import NONE, Table, number

__all__ = ["DATA", "FIELDS", "FULL", "QUICK", "Data", "Options", "figures", "measure", "search", "tables"]

FIELDS = (
    "table",
    "data",
    "signature",
    "D",
    "M",
    "G",
    "train_loss",
    "train_loss_min",
    "train_loss_max",
    "excess",
    "accuracy",
    "step_size",
    "model_range",
    "reason",
    "earlier_data",
    "earlier_loss",
    "n",
    "m",
    "m_test",
    "passes",
    "runs",
    "searched",
)

FORMATS = ("32f", "16", "8", "4")


#: A training loss below this is that of data that a linear model all but separates.
SMALL = 0.05


class Data(NamedTuple):
    """Rows to train on and rows to test on; X is CSR where the data are sparse, else float32; labels -1 and +1."""

    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray


# ---- the data ----------------------------------------------------------------------------------------------


def _signs(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, 1, -1).astype(np.int8)


def _files(train: str, test: str, sparse: bool) -> Data:
    """A training file and a test file, which may lack the last columns."""
    from lowprec.datasets import load

    (X, y), (X_test, y_test) = (load(data_file("svmlight", name), sparse=True) for name in (train, test))
    n = max(X.shape[1], X_test.shape[1])
    for part in (X, X_test):
        part.resize(part.shape[0], n)
    if not sparse:
        X, X_test = X.toarray(), X_test.toarray()
    return Data(X, _signs(y), X_test, _signs(y_test))


def _split(X: Any, y: np.ndarray, seed: int) -> Data:
    """A fifth held out, at random."""
    order = np.random.default_rng(seed).permutation(len(y))
    test, train = order[: len(y) // 5], order[len(y) // 5 :]
    return Data(X[train], y[train], X[test], y[test])


def _news20(seed: int) -> Data:
    from lowprec.datasets import load

    X, y = load(data_file("svmlight", "news20.bz2"), sparse=True)
    X.data = np.log1p(X.data)
    length = np.sqrt(np.asarray(X.multiply(X).sum(axis=1), np.float64).ravel())
    X.data /= np.repeat(np.where(length > 0, length, 1.0), np.diff(X.indptr)).astype(np.float32)
    return _split(X, np.where(y <= 10, 1, -1).astype(np.int8), seed)


def _covtype(seed: int) -> Data:
    from lowprec.datasets import load

    X, y = load(data_file("tabular", "covtype.20k.csv.gz"))
    found = _split(X, np.where(y == 2, 1, -1).astype(np.int8), seed)
    low, high = found.X.min(axis=0), found.X.max(axis=0)
    half = np.where(high > low, (high - low) / 2, 1.0)
    # A test row may lie a little outside.
    X, X_test = (((part - low) / half - 1).astype(np.float32) for part in (found.X, found.X_test))
    return found._replace(X=X, X_test=X_test)


#: How each data set is read, given a seed.
DATA: dict[str, Callable[[int], Data]] = {
    "a9a": lambda seed: _files("a9a.bz2", "a9a.t.bz2", sparse=False),
    "ijcnn1": lambda seed: _files("ijcnn1.trn.bz2", "ijcnn1.tst.bz2", sparse=False),
    "covtype": _covtype,
    "reuters_moneyfx": lambda seed: _files("reuters_moneyfx.trn.bz2", "reuters_moneyfx.tst.bz2", sparse=True),
    "news20": _news20,
}

#: Data sets of the earlier paper that are of the same family, and what they differ in.
EARLIER = {
    "reuters_moneyfx": ("Reuters", "another subset and topic, 7,770 rows of 8,315 features"),
    "covtype": ("Forest", "16,000 of its rows, each feature in [-1, 1]"),
}


# ---- measuring ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    data : tuple of str
        Of `DATA`.
    D, M : tuple of str
        Formats; 32f is the first.
    G : tuple of str
        Formats beside the exact gradient.
    passes : int
    ranges : tuple of float
        Of the model, times the largest weight of float32; 0: as `lowprec.train` chooses.
    runs : int
        With the best step and range, each with another seed of the order and the rounding.
    seed : int
        Of the splits, and the first while steps are searched.
    """

    data: tuple[str, ...] = tuple(DATA)
    D: tuple[str, ...] = FORMATS
    M: tuple[str, ...] = FORMATS
    G: tuple[str, ...] = ("32f", "16", "8")
    passes: int = 10
    ranges: tuple[float, ...] = (0.0, 1.0, 0.4)
    runs: int = 3
    seed: int = 1


FULL = Options()
QUICK = Options(data=("a9a",), G=("8",), passes=3, ranges=(1.0,), runs=1)


class _Run(NamedTuple):
    """What training with one step came to: the loss, and the model."""

    loss: float
    coef: np.ndarray
    intercept: float


def search(loss_of: Callable[[float], float], start: float) -> tuple[float, dict[float, float]]:
    """The best step, and the loss of every step that was tried.

    Parameters
    ----------
    loss_of : callable
        Of a step size.
    start : float
        Where to begin. Steps are quadrupled or quartered as long as that pays, then doubled and halved once.
    """
    tried: dict[float, float] = {}

    def loss(step: float) -> float:
        if step not in tried:
            tried[step] = loss_of(step)
        return tried[step]

    best = start
    while (better := min((best, best * 4, best / 4), key=loss)) != best:
        best = better
    best = min((best, best * 2, best / 2), key=loss)
    return best, tried


class _Case:
    """Training on one data set with one signature."""

    def __init__(self, data: Data, codes: Any, signature: str, options: Options) -> None:
        self.data, self.codes, self.signature, self.options = data, codes, signature, options

    def run(self, step: float, limit: float | None, seed: int) -> _Run:
        """Train with a step size and a model that covers +-limit; None: the range that `lowprec.train` chooses."""
        import lowprec as lp
        from lowprec.losses import mean_loss

        try:
            found = lp.train(
                self.codes,
                self.data.y,
                signature=self.signature,
                step_size=step,
                epochs=self.options.passes,
                n_threads=1,
                seed=seed,
                shuffle=True,
                fit_intercept=True,
                model_scale=None if limit is None else model_scale(str(lp.Signature(self.signature).model), limit),
            )
        except ValueError as error:
            if "diverge" not in str(error):
                raise
            return _Run(math.inf, np.zeros(self.data.X.shape[1], np.float32), 0.0)
        w = found.coef.astype(np.float32)
        return _Run(mean_loss("logistic", self.data.X @ w + found.intercept, self.data.y), w, found.intercept)

    def best(self, start: float, limits: Sequence[float | None], seeds: Sequence[int]) -> tuple[float, float | None, int]:
        """The step and range with the least mean loss, and how many runs it took to find them."""
        best, searched = (start, limits[0], math.inf), 0
        for limit in limits:

            def loss_of(step: float, limit: float | None = limit) -> float:
                return float(np.mean([self.run(step, limit, seed).loss for seed in seeds]))

            step, tried = search(loss_of, best[0])
            searched += len(tried) * len(seeds)
            if tried[step] < best[2]:
                best = step, limit, tried[step]
        return best[0], best[1], searched

    def accuracy(self, run: _Run) -> float:
        """On the test rows."""
        return float(np.mean((self.data.X_test @ run.coef + run.intercept > 0) == (self.data.y_test > 0)))


def _signature(D: str, M: str, G: str | None) -> str:
    return f"D{D}M{M}" + (f"G{G}" if G else "")


def _why_no_gradient(data: Data) -> str | None:
    """Why data have no G, in the library's own words; None where they have."""
    import lowprec as lp

    if not hasattr(data.X, "tocsr"):
        return None
    try:
        lp.train(data.X, data.y, signature="D8M8G8", step_size=0.01)
    except ValueError as error:
        return str(error).removeprefix("signature: ").partition(";")[0]
    raise AssertionError("sparse data have a G after all: measure it")


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Train on every data set in every precision.

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
    begin = time.perf_counter()
    o = options
    per_data = len(o.D) * len(o.M) * (1 + len(o.G)) + 1
    step = Steps(progress, len(o.data) * per_data)
    rows: list[dict[str, Any]] = []
    for name in o.data:
        step(name, "reading")
        rows += _measure_one(o, name, DATA[name](o.seed), lambda what, name=name: step(name, what))
    progress("Done", "", 1.0)
    return results("precision", options, begin, rows)


def _measure_one(o: Options, name: str, data: Data, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """All rows of one data set."""
    import lowprec as lp

    m, n = data.X.shape
    norms = data.X.multiply(data.X).sum() if hasattr(data.X, "tocsr") else np.sum(data.X.astype(np.float64) ** 2)
    given = {"table": "precision", "data": name, "n": n, "m": m, "m_test": len(data.y_test), "passes": o.passes}
    earlier = EARLIER.get(name, (None, ""))[0]
    reason = _why_no_gradient(data)
    start = 0.25 * m / float(norms)
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, str], tuple[float, float | None]] = {}
    float_loss, largest = math.nan, None  # of the first case, which is float32
    for D in o.D:
        fmt = lp.Signature(_signature(D, "32f", None)).dataset
        codes = lp.quantize(data.X, fmt, rounding="nearest")
        for G in (None, *o.G):
            for M in o.M:
                signature = _signature(D, M, G)
                tell(signature)
                cell = {"signature": signature, "D": D, "M": M, "G": G}
                if G is not None and reason is not None:
                    rows.append(make_row(FIELDS, **given, **cell, reason=reason))
                    continue
                limits: list[float | None] = [None]
                if G is not None:  # the range that suits M suits it with a rounded gradient too
                    limits = [found[D, M][1]]
                elif M != "32f" and largest is not None:
                    limits = [factor * largest if factor else None for factor in o.ranges]
                near = found.get((D, M)) or found.get((D, o.M[0])) or found.get((o.D[0], o.M[0])) or (start, None)
                case = _Case(data, codes, signature, o)
                noisy = M in ("8", "4")
                best, limit, searched = case.best(near[0], limits, [o.seed, o.seed + 1] if noisy else [o.seed])
                runs = [case.run(best, limit, o.seed + 2 + k) for k in range(o.runs)]
                found.setdefault((D, M), (best, limit))
                losses = [run.loss for run in runs]
                if largest is None:
                    float_loss, largest = float(np.mean(losses)), float(np.abs(runs[0].coef).max())
                published = None
                if earlier is not None and M == "32f" and G is None:
                    published = paper.earlier_losses(earlier).get(f"D{D}")
                rows.append(
                    make_row(
                        FIELDS,
                        **given,
                        **cell,
                        train_loss=float(np.mean(losses)),
                        train_loss_min=min(losses),
                        train_loss_max=max(losses),
                        excess=float(np.mean(losses)) / float_loss - 1.0,
                        accuracy=float(np.mean([case.accuracy(run) for run in runs])),
                        step_size=best,
                        model_range=limit,
                        earlier_data=earlier if published is not None else None,
                        earlier_loss=published,
                        runs=len(runs),
                        searched=searched,
                    )
                )
    return rows


# ---- showing -----------------------------------------------------------------------------------------------


def _cell(row: dict[str, Any]) -> str:
    return "n/a" if row["reason"] else f"{100 * row['excess']:+.2f} % / {100 * row['accuracy']:.1f}"


def _bits(fmt: str | None) -> str:
    return {None: "exact", "32f": "float32"}.get(fmt, f"{fmt} bits")


def _noise(rows: list[dict[str, Any]]) -> str:
    """How far runs with different seeds are apart, by M."""
    apart: dict[str, list[float]] = {}
    for row in rows:
        if row["runs"] and row["runs"] > 1:
            apart.setdefault(row["M"], []).append((row["train_loss_max"] - row["train_loss_min"]) / row["train_loss"])
    if not apart:
        return ""
    return "; runs apart by " + ", ".join(f"{number(100 * float(np.median(v)), 2)} % (M {_bits(M)})" for M, v in apart.items())


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o = results["options"]
    made = []
    for name in o["data"]:
        rows = [row for row in results["rows"] if row["data"] == name]
        by = {(row["D"], row["M"], row["G"]): row for row in rows}
        first = rows[0]
        size = f"{first['m']:,} rows of {first['n']:,} features, {first['m_test']:,} test rows"
        table = Table(f"{name}: {size}", ["<", *(f"M {_bits(M)}" for M in o["M"])])
        for D in o["D"]:
            table.add(f"D {_bits(D)}", *(_cell(by[D, M, None]) for M in o["M"]))
        loss, accuracy = first["train_loss"], 100 * first["accuracy"]
        table.notes.append(
            f"Excess of the training loss over float32's {loss:.4f}, and accuracy in % (float32: {accuracy:.1f}); "
            f"{o['passes']} passes, each at its best step{_noise(rows)}."
        )
        if loss < SMALL:
            table.notes.append("These data can all but be separated: the losses are so small that large ratios mean little.")
        made.append(table)
        if not o["G"]:
            continue
        reason = by[o["D"][0], o["M"][0], o["G"][0]]["reason"]
        if reason:
            table.notes.append(f"G: n/a, {reason}.")
            continue
        columns = [None, *o["G"]]
        table = Table(f"{name}: the gradient", ["<", *(f"G {_bits(G)}" for G in columns)])
        for D in o["D"]:
            for M in o["M"]:
                table.add(_signature(D, M, None), *(_cell(by[D, M, G]) for G in columns))
            table.rule()
        made.append(table)
    made += _earlier_table(results)
    multiples = " and ".join(f"{factor:g}" for factor in o["ranges"] if factor)
    automatic = "what lowprec.train chooses, and " if 0.0 in o["ranges"] else ""
    kinds = [
        ("data", "features scaled; news20 and covtype made problems of two classes, and split; one scale for all features"),
        ("step size", "each case's best: by factors of 4 while that pays, then by 2; M of 8, 4 bits: by two seeds' mean"),
        ("model's range", f"the best of {automatic}{multiples} times float32's largest weight"),
        ("runs", f"the mean of {o['runs']} with other seeds than those of the search"),
        ("rounding", "data to nearest; model and gradient stochastic, shared random words"),
        ("order, bias, threads", "a new random order in every pass; an intercept in float64; one thread"),
        ("G", "with one example to an update; exact: the product is added to the model in one rounding"),
    ]
    made.append(choices(kinds, "Our choices"))
    return made


def _earlier_table(results: dict[str, Any]) -> list[Table]:
    """Beside the earlier paper's losses, of data of the same family."""
    rows = [row for row in results["rows"] if row["earlier_data"]]
    if not rows:
        return []
    kinds = [D for D in results["options"]["D"] if any(row["D"] == D for row in rows)]
    title = "Rounding the data alone (M float32), beside the paper of NIPS 2015"
    table = Table(title, ["<training loss", *(f"D {_bits(D)}" for D in kinds)])
    for name in dict.fromkeys(row["data"] for row in rows):
        earlier, differs = EARLIER[name]
        mine = {row["D"]: row for row in rows if row["data"] == name}
        table.add(name, *(f"{mine[D]['train_loss']:.4f}" if D in mine else NONE for D in kinds))
        table.add(f"their {earlier}", *(f"{mine[D]['earlier_loss']:.4f}" if D in mine else NONE for D in kinds))
        size = paper.earlier_losses(earlier)
        table.notes.append(
            f"{name} is not their {earlier} ({size['rows']} x {size['features']}) but {differs}: "
            "only the differences along a line can be compared."
        )
    table.notes.append("Theirs are at the step 0.0001, far from the least loss; ours each at its best step.")
    return [table]


#: Below this, in %, an excess is drawn at the floor: it is noise, or none.
_FLOOR = 0.01


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o = results["options"]
    panels = {}
    for name in o["data"]:
        rows = [row for row in results["rows"] if row["data"] == name and row["G"] is None]
        panels[name] = [
            plots.Line(
                f"D {_bits(D)}",
                [(int(row["M"].rstrip("f")), max(100 * row["excess"], _FLOOR)) for row in rows if row["D"] == D],
            )
            for D in o["D"]
        ]
    made = plots.lines(
        f"Training loss over float32's (below {_FLOOR} %: drawn there), each case at its best step",
        panels,
        x="bits of M (32: float32)",
        y=["excess loss, %"] * len(panels),
        x_ticks=[int(M.rstrip("f")) for M in o["M"]],
        log_x=True,
        log_y=True,
        width=2.9 if len(panels) > 2 else 4.6,
    )
    return {"precision": made}
