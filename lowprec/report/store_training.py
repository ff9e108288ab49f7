"""The training report of a store: one signature, trained in place, on data that may be larger than the memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lowprec.checks import wrong_value
from lowprec.communication.group import Group
from lowprec.loop import parts, products
from lowprec.losses import mean_loss
from lowprec.quantized import QuantizedArray
from lowprec.report.files import header
from lowprec.report.tables import Table, duration, n_bytes, n_threads, number
from lowprec.report.training import FIELDS, Options, communication_fields, communication_tables, step_for, target_of
from lowprec.sgd import train
from lowprec.sparse import SparseArray
from lowprec.store import Store

__all__ = ["tables", "train_store"]

# Rows whose norms decide on the default step.
_NORM_ROWS = 10_000


def train_store(
    store: Store, options: Options, progress: Callable[[str, str, float], None] = lambda *_: None, *, rows: int | None = None,
    group: Group | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Train on a store, all but the rows at its end, and say how good the models are on those.

    There is no comparison: the data exist as codes alone, and may be larger than the memory. The rows are trained on in
    blocks, in a new order in each epoch (``shuffle="blocks"``), since files are often sorted; all models of several classes
    at once.

    Parameters
    ----------
    store : Store
    options : Options
        Its scaling is not looked at: it was settled when the store was made.
    progress : callable
        As of `lowprec.report.speedups.measure`.
    rows : int, optional
        Take so many rows from the beginning, and train once.
    group : Group, optional
        The ranks that are the workers; each also evaluates its part of the rows.

    Returns
    -------
    dict or None
        The results as docs/results-schema.md describes them; None but on rank 0.
    """
    begin = time.perf_counter()
    if store.y.ndim != 1:
        raise wrong_value("data", "must have one label a row; lowprec.train takes several", f"labels of shape {store.y.shape}")
    m = min(len(store), rows or len(store))
    n_train = m - round(options.test_size * m)
    if not 0 < n_train < m:
        raise wrong_value("test-size", "must leave rows for training and for testing", f"{options.test_size} of {m} rows")
    X, y = store.X[:n_train], store.y[:m]
    signature = options.signature or f"{store.signature}M{'8' if store.format.bits == 4 else store.format}"
    options = replace(options, signature=signature, epochs=1 if rows else options.epochs)
    classes, loss = target_of(y, options)
    progress("Preparing", "looking at the labels", 0.0)
    step = options.step_size or step_for(_squares(X), loss)
    center, unit = 0.0, 1.0
    if classes is None:
        center, unit = float(y[:n_train].mean()), float(y[:n_train].std()) or 1.0
    if group is not None:
        group.gather(None, "every rank to open its data")  # whoever cannot says so here, before training waits for it
        # Another machine's NumPy may round its sums differently.
        step, center, unit = group.share((step, center, unit), "rank 0 to choose the step size")
    if classes is None:
        targets = ((y - center) / unit)[:, np.newaxis]
    else:
        positives = classes[1:] if len(classes) == 2 else classes
        targets = np.where(y[:, np.newaxis] == positives, np.float32(1), np.float32(-1))
    started = time.perf_counter()
    total = n_train * options.epochs
    r = train(
        X, targets[:n_train] if targets.shape[1] > 1 else targets[:n_train, 0], signature=signature, loss=loss, step_size=step,
        epochs=options.epochs, seed=options.seed, fit_intercept=True, shuffle="blocks", checkpoint=options.checkpoint,
        communicator=None if group is None else group.comm, **options.workers(signature),
        callback=lambda info: progress("Training", f"epoch {info.epoch + 1}", 0.1 + 0.8 * info.examples / total),
    )  # fmt: skip
    took = time.perf_counter() - started
    coefs, intercepts = np.atleast_2d(r.coef), np.atleast_1d(r.intercept)
    progress("Evaluating", "", 0.9)

    def loss_of(part: slice, outputs: np.ndarray) -> list[float]:
        return [(part.stop - part.start) * mean_loss(loss, z, targets[part, k]) for k, z in enumerate(outputs)]

    def score_of(part: slice, outputs: np.ndarray) -> list[float]:
        """The number of rows that are right, or the sum of squared errors."""
        if classes is None:
            return [float(np.sum((outputs[0] - targets[part, 0]) ** 2))]
        chosen = (outputs[0] > 0).astype(int) if len(classes) == 2 else outputs.argmax(axis=0)
        return [float(np.sum(classes[chosen] == y[part]))]

    losses = _over_parts(loss_of, store.X, coefs, intercepts, 0, n_train, group)
    scores = _over_parts(score_of, store.X, coefs, intercepts, n_train, m, group)
    if losses is None or scores is None:
        return None
    n_test = m - n_train
    held_out = targets[n_train:, 0]
    score = sum(scores) / n_test
    if classes is None:
        score = 1 - score / max(float(held_out.var()), 1e-30)
    row = dict.fromkeys(FIELDS) | {
        "table": "train", "name": signature, "engine": "lowprec", "signature": signature, "loss": loss, "score": score,
        "score_name": "R^2" if classes is None else "accuracy", "train_loss": sum(losses) / n_train / len(coefs),
        "quantize_seconds": 0.0, "train_seconds": took, "train_seconds_q1": took, "train_seconds_q3": took,
        "epoch_seconds": r.seconds, "gnps": r.gnps, "ratio": 1.0, "ratio_to": signature,
        "bytes_per_example": store.X.nbytes / len(store), "n": store.shape[1], "n_train": n_train, "n_test": n_test,
        "n_models": len(coefs), "epochs": options.epochs, "step_size": step, "threads": options.threads, "runs": 1,
        "batch_size": options.batch_size, "sync_every": options.sync_every,
    } | communication_fields([r.communication])  # fmt: skip
    progress("Done", "", 1.0)
    chosen_options = {"loss": loss, "step_size": step, "given_step": options.step_size is not None, "scaling": "as stored"}
    return header("train", vars(options) | chosen_options, time.perf_counter() - begin) | {"rows": [row]}


def _squares(x: QuantizedArray | SparseArray) -> np.ndarray:
    """Sums of squares of the first rows, in the coordinates of training, where one scale per feature makes each reach about 1."""
    x = x[:_NORM_ROWS]
    scale = float(x.scale) if np.ndim(x.scale) == 0 else 1.0 if x.format.is_float else 1.0 / x.format.max_code
    found = []
    for part in parts(x):
        piece = x[part]
        squares = np.square(piece.unpacked().astype(np.float64))
        if isinstance(piece, SparseArray):
            rows = np.repeat(np.arange(len(piece)), np.diff(piece.indptr))
            found.append(np.bincount(rows, weights=squares, minlength=len(piece)))
        else:
            found.append(squares.sum(axis=1))
    return np.concatenate(found) * scale**2


def _over_parts(
    of: Callable[[slice, np.ndarray], list[float]], x: QuantizedArray | SparseArray, coefs: np.ndarray, intercepts: np.ndarray,
    first: int, last: int, group: Group | None,
) -> list[float] | None:  # fmt: skip
    """What `of` makes of the models' outputs, shape (models, rows), for some rows at a time, in the rows' order.

    Of several ranks each takes every so many-th part, and rank 0 has them all; the others have None.
    """
    step = parts(x)[0].stop
    slices = [slice(i, min(i + step, last)) for i in range(first, last, step)]
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    found = []
    for part in slices[rank::size]:
        piece = x[part]
        whole = slice(0, len(piece))
        outputs = np.stack([products(piece, w, whole) + b for w, b in zip(coefs, intercepts, strict=True)])
        found.append(of(part, outputs))
    every = [found] if group is None else group.gather(found, "every rank to evaluate its rows")
    return None if every is None else [value for k in range(len(slices)) for value in every[k % size][k // size]]


def tables(results: dict[str, Any], source: str) -> list[Table]:
    """The results as tables to read."""
    row, o = results["rows"][0], results["options"]
    kind = "a model" if row["n_models"] == 1 else f"{row['n_models']} models, one a class,"
    title = f"{source}: {kind} of {row['n']:,} features; {row['n_train']:,} examples, {row['n_test']:,} held out"
    table = Table(title, ["<", row["score_name"], "loss", "train", "epochs", "GNPS", "bytes"], strong=(1, 3))
    table.add(
        f"lowprec {row['name']}", f"{row['score']:.4f}", f"{row['train_loss']:.4f}", duration(row["train_seconds"]),
        duration(row["epoch_seconds"]), number(row["gnps"]), f"{row['bytes_per_example']:,.0f}",
    )  # fmt: skip
    chosen = "" if o["given_step"] else " (by default, from the data)"
    threads = n_threads(o["threads"]) if row["ranks"] is None else f"{row['ranks']} ranks"
    total = row["bytes_per_example"] * row["n_train"]
    table.notes += [
        f"{o['loss']} loss, step {o['step_size']:.3g}{chosen}, {o['epochs']} epochs, {threads}, in place on "
        f"{n_bytes(total)} of codes; blocks of rows in random order.",
        f"{row['score_name']}: on the rows at the end, which were held out. loss: mean on the training rows. bytes: of one row.",
        "train: the whole call, with choosing the model's scale; epochs: without that, and the basis of GNPS.",
    ]
    return [table, *communication_tables([row])]
