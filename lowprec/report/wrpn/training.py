"""The report of ``lowprec wrpn train``: one network, epoch by epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lowprec.report.experiments import plots
from lowprec.report.files import header
from lowprec.report.rows import select
from lowprec.report.tables import Table, n_threads
from lowprec.report.wrpn.threads import torch_threads
from lowprec.wrpn.architecture import FLOAT
from lowprec.wrpn.images import Images

__all__ = ["FIELDS", "NEARLY_ALL", "figures", "tables", "train"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = ("table", "epoch", "loss", "accuracy", "layer", "zeros")

#: The share of weights that round to zero from which on a layer is warned of.
NEARLY_ALL = 0.95


def train(
    recipe: Any, images: Images, options: Any, *, checkpoint: str | os.PathLike[str] | None = None, threads: int | None = None,
    progress: Callable[[str, str, float], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Train a network, and say what is known of every epoch.

    Parameters
    ----------
    recipe : lowprec.wrpn.training.Recipe
    images : Images
    options : lowprec.wrpn.training.Options
    checkpoint : path-like, optional
        As of `lowprec.wrpn.train_network`.
    threads : int, optional
        Of PyTorch; by default as many as it takes.
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    import torch

    from lowprec.wrpn.training import train_network

    begin = time.perf_counter()
    bits = f"{recipe.architecture} {recipe.widen:g}x, {recipe.weight_bits}W/{recipe.activation_bits}A"

    def tell(share: float) -> None:
        progress(bits, f"epoch {min(int(share * options.epochs) + 1, options.epochs)} of {options.epochs}", min(share, 0.99))

    with torch_threads(threads) as used:
        _, history = train_network(recipe, images, options, checkpoint=checkpoint, progress=tell)
    rows = []
    for one in history:
        rows.append(_row(table="epoch", epoch=one.epoch, loss=one.loss, accuracy=one.accuracy))
        rows += [_row(table="zeros", epoch=one.epoch, layer=layer, zeros=zeros) for layer, zeros in one.zeros.items()]
    progress("Done", "", 1.0)
    about = asdict(recipe) | asdict(options) | {
        "data": images.name, "m": len(images.x), "m_test": len(images.test_x), "threads": used,
        "torch": torch.__version__,
    }  # fmt: skip
    return header("wrpn train", about, time.perf_counter() - begin) | {"rows": rows}


def _row(**given: Any) -> dict[str, Any]:
    return dict.fromkeys(FIELDS) | given


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, epochs = results["options"], select(results, "epoch")
    layers = list(dict.fromkeys(row["layer"] for row in select(results, "zeros")))
    zeros = {(row["epoch"], row["layer"]): row["zeros"] for row in select(results, "zeros")}
    title = f"{o['architecture']}, {o['widen']:g}x wide, {o['weight_bits']}-bit weights, {o['activation_bits']}-bit activations"
    table = Table(f"{title}: {o['m']:,} images of {o['data']}", ["epoch", "loss", "test accuracy"], strong=(2,))
    for row in epochs:
        table.add(str(row["epoch"]), f"{row['loss']:.4f}", f"{100 * row['accuracy']:.2f} %")
    table.notes.append(
        f"loss: the mean cross entropy of the epoch's batches. Accuracy: of {o['m_test']:,} images. {n_threads(o['threads'])}, "
        f"PyTorch {o['torch']}."
    )
    made = [table]
    if layers and o["weight_bits"] not in (1, FLOAT):
        last = epochs[-1]["epoch"]
        shares = Table("Weights that round to zero", ["<layer", "after the first epoch", "after the last"])
        for layer in layers:
            shares.add(layer, *(f"{100 * zeros[epoch, layer]:.1f} %" for epoch in (1, last)))
        nearly = [layer for layer in layers if zeros[last, layer] >= NEARLY_ALL]
        if nearly:
            shares.notes.append(
                f"Of {', '.join(nearly)} nearly all: the weights are small on the quantizer's range, which is fixed. A batch "
                "normalization behind a layer lets its weights begin large."
            )
        made.append(shares)
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o, epochs = results["options"], select(results, "epoch")
    name = f"{o['weight_bits']}W/{o['activation_bits']}A, {o['widen']:g}x"
    panels = {
        "test accuracy, percent": [plots.Line(name, [(row["epoch"], 100 * row["accuracy"]) for row in epochs])],
        "training loss": [plots.Line(name, [(row["epoch"], row["loss"]) for row in epochs])],
    }
    ticks = [row["epoch"] for row in epochs]
    ticks = ticks[:: -(-len(ticks) // 10)]
    title = f"{o['architecture']} on {o['data']}"
    return {"wrpn-train": plots.lines(title, panels, x="epoch", y=list(panels), x_ticks=ticks, same_y=False)}
