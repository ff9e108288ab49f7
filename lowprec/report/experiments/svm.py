"""Figs 7d and 7e: support vector machines with a Gaussian kernel, by random Fourier features, on MNIST.

The paper's problem: ten one-against-all SVMs (hinge loss) on random Fourier features of MNIST; "39K" weights in all, which are
10 x 3,920 = 10 x 5 x 784; total training loss and test error after each pass; 3.3 and 5.9 times the speed of float32 with D16M16
and D8M8 on 18 threads.

Ours, since the paper leaves it open: the kernel's gamma is 0.02 for pixels in [0, 1], the best of 0.01, 0.02 and 0.04, and the
step 1 over the number of features, the best of 1, 2, 4 and 8 over it; both by the error on the last 10,000 training images of
models that had not seen them. The features are cosines without a factor, so data codes cover [-1, 1]; model codes cover
+-0.125, a little less than the largest weight in float32. No bias, no regularizer, one thread, the files' order in every
pass. The training loss is the sum over the ten models and all images, on the features as they were trained on; the test error is
that of the trained models on unrounded features. A number of the data counts once for each model that is trained on it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.report import paper
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Steps, choices, data_file, make_row, model_scale, results
from lowprec.report.rows import FLOAT, select
from lowprec.report.tables import NONE, Table, duration, number, times

__all__ = ["FIELDS", "FULL", "QUICK", "Options", "figures", "measure", "tables"]

FIELDS = (
    "table",
    "signature",
    "passes",
    "train_loss",
    "test_error",
    "paper_train_loss",
    "paper_test_error",
    "gnps",
    "train_seconds",
    "ratio",
    "paper_ratio",
    "step_size",
    "n",
    "m",
    "m_test",
    "n_models",
)

CLASSES = 10


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    n_features : int
    m : int, optional
        Training images, from the first on; None: all.
    passes : int
    signatures : tuple of str
        Float32 is the first: what the speed of the others is compared with.
    gamma : float
        Of the kernel, for pixels in [0, 1].
    step_factor : float
        The step size times the number of features.
    limit : float
        What the codes of the model cover.
    seed : int
        Of the features and of the rounding.
    """

    n_features: int = 3920
    m: int | None = None
    passes: int = 10
    signatures: tuple[str, ...] = (FLOAT, "D16M16", "D8M16", "D8M8")
    gamma: float = 0.02
    step_factor: float = 1.0
    limit: float = 0.125
    seed: int = 1


FULL = Options()
QUICK = Options(n_features=784, m=10_000, passes=5)


def _images(part: str) -> tuple[np.ndarray, np.ndarray]:
    from lowprec.datasets import load

    return load(data_file("mnist", f"{part}-images-idx3-ubyte.gz"), labels=data_file("mnist", f"{part}-labels-idx1-ubyte.gz"))


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Train the ten SVMs with every signature.

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
    import lowprec as lp
    from lowprec.features import random_fourier_features

    begin = time.perf_counter()
    o = options
    step = Steps(progress, 2 + 3 * len(o.signatures))
    step("Features", "of the test images")
    X, labels = _images("train")
    X, labels = X[: o.m], labels[: o.m]
    X_test, truth = _images("t10k")
    y = np.where(labels[:, None] == np.arange(CLASSES), 1, -1).astype(np.int8)
    m = len(X)
    kernel = {"gamma": o.gamma / 255.0**2, "seed": o.seed}
    Z_test = random_fourier_features(X_test, o.n_features, **kernel)

    Z, rows, float_gnps = None, [], None
    for signature in o.signatures:
        D = lp.Signature(signature).dataset
        if Z is None or Z.format != D:
            step(signature, "making the features")
            Z = None  # before the next are made
            Z = random_fourier_features(X, o.n_features, fmt=str(D), **kernel)
        errors: list[float] = []

        def after(info: Any, errors=errors) -> None:
            step.within(info.examples / (m * o.passes))
            if info.position == m:
                outputs = Z_test @ info.coef().T.astype(np.float32)
                errors.append(float(np.mean(outputs.argmax(axis=1) != truth)))

        step(signature, "training", 2.0)
        found = lp.train(
            Z,
            y,
            signature=signature,
            loss="hinge",
            step_size=o.step_factor / o.n_features,
            epochs=o.passes,
            n_threads=1,
            seed=o.seed,
            model_scale=model_scale(str(lp.Signature(signature).model), o.limit),
            history=True,
            callback=after,
        )
        losses = [float(np.sum(each)) * m for each in found.history]
        if signature == FLOAT:
            float_gnps = found.gnps
        given = {
            "signature": signature,
            "step_size": o.step_factor / o.n_features,
            "n": o.n_features,
            "m": m,
            "m_test": len(truth),
            "n_models": CLASSES,
        }
        theirs = [paper.series(figure, signature) for figure in ("fig7d", "fig7e")]
        for k, (loss, error) in enumerate(zip(losses, errors, strict=True), 1):
            published = {"paper_train_loss": theirs[0].get(k), "paper_test_error": theirs[1].get(k)}
            rows.append(make_row(FIELDS, table="svm", passes=k, train_loss=loss, test_error=error, **published, **given))
        speed = {"gnps": found.gnps, "train_seconds": found.seconds, "passes": o.passes}
        ratio = None if float_gnps is None else found.gnps / float_gnps
        rows.append(make_row(FIELDS, table="speed", **speed, ratio=ratio, paper_ratio=paper.svm_speed(signature), **given))
    progress("Done", "", 1.0)
    return results("svm", options, begin, rows)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f} %"


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, speeds = results["options"], select(results, "speed")
    by = {(row["signature"], row["passes"]): row for row in select(results, "svm")}
    first = speeds[0]
    about = f"{first['n_models']} SVMs of {first['n']:,} features, {first['m']:,} training images"
    whole = (o["n_features"], o["m"]) == (FULL.n_features, FULL.m)
    less = "" if whole else "; it trains on 60,000 images, with about 3,920 features"
    made = []
    for key, title, show in (
        ("test_error", "Test error", _percent),
        ("train_loss", "Total training loss", lambda v: NONE if v is None else f"{v:,.0f}"),
    ):
        columns = [*o["signatures"], *(f"{s} *" for s in o["signatures"])]
        table = Table(f"{title}: {about}", ["after pass", *columns])
        for k in range(1, o["passes"] + 1):
            mine = [by[s, k] for s in o["signatures"]]
            table.add(str(k), *(show(row[key]) for row in mine), *(show(row[f"paper_{key}"]) for row in mine))
        table.notes.append(f"*: the paper, Fig {'7e' if key == 'test_error' else '7d'}{less}.")
        made.append(table)
    speed = Table("Speed of training", ["<", "time", "GNPS", "of float32", "paper"], strong=(3,))
    for row in speeds:
        shown = (duration(row["train_seconds"]), number(row["gnps"]), times(row["ratio"]), times(row["paper_ratio"]))
        speed.add(row["signature"], *shown)
    speed.notes.append("One run each, one after another; the paper's on 18 threads. lowprec speedups measures speed properly.")
    made.append(speed)
    made.append(
        choices(
            [
                ("features", f"{o['n_features']:,} cosines of a Gaussian kernel, gamma {o['gamma']:g} for pixels in [0, 1]"),
                ("step size", f"{o['step_factor']:g} / features; as gamma, by the error on training images held out"),
                ("scales", f"data codes cover [-1, 1], model codes [-{o['limit']:g}, {o['limit']:g}]"),
                ("bias, regularizer", "none"),
                ("start, order, threads", "w = 0; the files' order in every pass; one thread"),
                ("training loss", "sum over images and models, on features as trained on; test error: on unrounded ones"),
            ]
        )
    )
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o, rows = results["options"], select(results, "svm")

    def panel(key: str, factor: float) -> list[plots.Line]:
        made = []
        for signature in o["signatures"]:
            mine = [row for row in rows if row["signature"] == signature]
            theirs = [row for row in mine if row[f"paper_{key}"] is not None]
            made.append(
                plots.Line(
                    signature,
                    [(row["passes"], factor * row[key]) for row in mine],
                    [(row["passes"], factor * row[f"paper_{key}"]) for row in theirs],
                )
            )
        return made

    panels = {"Training loss": panel("train_loss", 1.0), "Test error": panel("test_error", 100.0)}
    made = plots.lines(
        f"Ten SVMs on {o['n_features']:,} random Fourier features of MNIST",
        panels,
        x="passes",
        y=["sum of the hinge losses", "%"],
        x_ticks=range(0, o["passes"] + 1, 2),
        log_y=True,
        same_y=False,
    )
    return {"svm": made}
