"""Tables 1 and 2 of the second paper, small: accuracy by bits and width, of a convolutional network on Fashion-MNIST.

A. Mishra, E. Nurvitadhi, J. J. Cook, D. Marr, "WRPN: Wide Reduced-Precision Networks", ICLR 2018. The paper trains AlexNet on
ILSVRC-12: weights and activations of few bits cost accuracy, and a network with twice the filters wins it back. Here the
network is `convnet` of `lowprec.wrpn`, four convolutions and a linear layer, about 0.1 percent of AlexNet's work for each
image.

All runs of a table have the same optimizer, schedule and number of epochs, and those of one seed see the images in the same
order. What is reported is the accuracy on the test images after the last epoch; no epoch is picked. The numbers of the schedule
were chosen for the float network of single width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Steps, choices, make_row, results
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table
from lowprec.report.wrpn import paper

__all__ = ["FIELDS", "FULL", "KEEPS", "QUICK", "Options", "figures", "measure", "runs", "tables", "train_one"]

#: `measure` takes a folder for the runs that are done, so that a command that was stopped goes on where it was.
KEEPS = True

FIELDS = (
    "table",
    "widen",
    "weight_bits",
    "activation_bits",
    "seed",
    "seeds",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "to_float",
    "paper_to_float",
    "loss",
    "zeros",
    "layer",
    "epoch",
    "fmas",
    "cost",
    "m",
    "m_test",
)

Cell = tuple[float, int, int]
_FLOAT: Cell = (1.0, 32, 32)


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    architecture, data : str
    widths : tuple of float
    same_bits : tuple of int
        Cells whose weights and activations have as many bits; trained with `seeds` seeds.
    other_bits : tuple of (int, int)
        Further cells, bits of weights and of activations; trained with `other_seeds` seeds.
    left_out : tuple of (float, int, int)
        Cells of these, width and bits, that are not trained.
    m : int, optional
        Training images, from the first on; None: all.
    epochs, batch_size : int
    learning_rate : float
    seeds, other_seeds : int
    seed : int
        The first; the others follow it.
    """

    architecture: str = "convnet"
    data: str = "fashion-mnist"
    widths: tuple[float, ...] = (1.0, 2.0)
    same_bits: tuple[int, ...] = (32, 4, 2)
    other_bits: tuple[tuple[int, int], ...] = ((32, 4), (32, 2), (4, 32), (4, 2), (2, 32), (2, 4), (1, 1))
    left_out: tuple[Cell, ...] = ()
    m: int | None = None
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.01
    seeds: int = 3
    other_seeds: int = 1
    seed: int = 1


FULL = Options()
QUICK = Options(same_bits=(32, 2), other_bits=(), left_out=((2.0, 32, 32),), m=10_000, epochs=2, seeds=1)


def runs(options: Options) -> list[tuple[Cell, int]]:
    """Every cell and seed to train, the cells of equal bits first."""
    o = options
    made = []
    for bits, seeds in (([(b, b) for b in o.same_bits], o.seeds), (list(o.other_bits), o.other_seeds)):
        for seed in range(o.seed, o.seed + seeds):
            made += [((width, w, a), seed) for w, a in bits for width in o.widths if (width, w, a) not in o.left_out]
    return made


def train_one(cell: Cell, seed: int, images: Any, options: Options, folder: Path | None, tell: Any = lambda share: None) -> Any:
    """Train one network, or read from `folder` that it has been.

    Returns
    -------
    list of lowprec.wrpn.training.Epoch
    """
    from lowprec.wrpn import training

    width, weight_bits, activation_bits = cell
    recipe = training.Recipe(options.architecture, weight_bits, activation_bits, width)
    how = training.Options(options.epochs, options.batch_size, options.learning_rate, seed=seed)
    name = f"{options.architecture}-{width:g}x-{weight_bits}w{activation_bits}a-seed{seed}.safetensors"
    path = None if folder is None else folder / name
    return training.train_network(recipe, images, how, checkpoint=path, progress=tell)[1]


def _images(options: Options) -> Any:
    from lowprec.wrpn.images import load_images

    return load_images(options.data).first(options.m)


def measure(options: Options, progress: Any = lambda *_: None, folder: Path | None = None) -> dict[str, Any]:
    """Train every cell.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.
    folder : Path, optional
        Where each network is kept after every epoch; those that are there are not trained again.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    begin = time.perf_counter()
    planned = runs(options)
    step = Steps(progress, 1 + sum(width**2 for (width, _, _), _ in planned))
    step("Reading", options.data)
    images = _images(options)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    trained: dict[Cell, list[tuple[int, Any]]] = {}
    for cell, seed in planned:
        width, weight_bits, activation_bits = cell
        step(f"{width:g}x, {weight_bits}W/{activation_bits}A", f"seed {seed}", width**2)
        trained.setdefault(cell, []).append((seed, train_one(cell, seed, images, options, folder, step.within)))
    rows = list(_rows(options, trained, images))
    progress("Done", "", 1.0)
    return results("wrpn", options, begin, rows)


def _rows(options: Options, trained: dict[Cell, list[tuple[int, Any]]], images: Any) -> Iterator[dict[str, Any]]:
    from lowprec.wrpn import compute_cost, fmas, get_architecture

    narrow = get_architecture(options.architecture)
    about = {"m": len(images.x), "m_test": len(images.test_x)}
    reference = trained.get(_FLOAT)
    float_accuracy = None if reference is None else np.mean([history[-1].accuracy for _, history in reference])
    for cell, found in trained.items():
        width, weight_bits, activation_bits = cell
        named = dict(zip(("widen", "weight_bits", "activation_bits"), cell, strict=True)) | about
        last = [history[-1].accuracy for _, history in found]
        mean = float(np.mean(last))
        yield make_row(
            FIELDS, table="cell", **named, seeds=len(found), accuracy=mean, accuracy_low=min(last), accuracy_high=max(last),
            to_float=None if float_accuracy is None else mean - float(float_accuracy), paper_to_float=_printed(cell),
            epoch=options.epochs, fmas=fmas(narrow.widen(width)),
            cost=compute_cost(narrow, weight_bits, activation_bits, widen=width),
        )  # fmt: skip
        for seed, history in found:
            for one in history:
                yield make_row(FIELDS, table="epoch", **named, seed=seed, epoch=one.epoch, accuracy=one.accuracy, loss=one.loss)
            for layer, zeros in history[-1].zeros.items():
                yield make_row(FIELDS, table="zeros", **named, seed=seed, layer=layer, zeros=zeros)


def _printed(cell: Cell) -> float | None:
    """Top-1 that the paper prints for AlexNet, less that of float32 at 1x, as a share; None where it prints nothing."""
    own, float_one = paper.accuracy("alexnet", *cell), paper.accuracy("alexnet", *_FLOAT)
    return None if own is None or float_one is None else (own - float_one) / 100


# ---- showing -----------------------------------------------------------------------------------------------


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _points(share: float | None, digits: int) -> str:
    """A difference in percentage points."""
    return NONE if share is None else f"{100 * share:+.{digits}f}"


def _bits(rows: list[dict[str, Any]], key: str) -> list[int]:
    return sorted({row[key] for row in rows}, reverse=True)


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, cells = results["options"], select(results, "cell")
    first = cells[0]
    epochs = "1 epoch" if o["epochs"] == 1 else f"{o['epochs']} epochs"
    about = f"{o['architecture']}, {first['m']:,} images of {o['data']}, {epochs}"
    made = []
    for width in o["widths"]:
        mine = {(row["weight_bits"], row["activation_bits"]): row for row in cells if row["widen"] == width}
        columns = _bits(list(mine.values()), "activation_bits")
        table = Table(f"Test accuracy, percent, {width:g}x wide: {about}", ["<", *(f"{a}A" for a in columns)])
        for w in _bits(list(mine.values()), "weight_bits"):
            table.add(f"{w}W", *(_cell(mine.get((w, a))) for a in columns))
        if any(row["seeds"] > 1 for row in mine.values()):
            table.notes.append("Of several seeds: their mean, ± half of what lies between the lowest and the highest.")
        made.append(table)
    beside = Table(
        "The same bits, by width",
        ["<bits", "<width", "seeds", "accuracy", "from-to", "to 1x float32", "paper *", "FMAs", "cost"],
        strong=(5,),
    )
    for bits in o["same_bits"]:
        beside.rule()
        for row in (row for row in cells if row["weight_bits"] == row["activation_bits"] == bits):
            lowest_to_highest = f"{_percent(row['accuracy_low'])}-{_percent(row['accuracy_high'])}"
            beside.add(
                f"{bits}W/{bits}A", f"{row['widen']:g}x", str(row["seeds"]), _percent(row["accuracy"]), lowest_to_highest,
                _points(row["to_float"], 2), _points(row["paper_to_float"], 1), f"{row['fmas']:,}", f"{row['cost']:.3f}",
            )  # fmt: skip
    beside.notes.append("*: Tables 1 and 2 of the paper, AlexNet on ILSVRC-12, top-1, to float32 at 1x.")
    beside.notes.append("cost: FMAs times the sum of the bits, over that of float32 at 1x; every layer counts alike.")
    made += [beside, _zeros(results), _choices(o, first)]
    return made


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return NONE
    half = 50 * (row["accuracy_high"] - row["accuracy_low"])
    return _percent(row["accuracy"]) + (f" ± {half:.2f}" if row["seeds"] > 1 else "")


def _zeros(results: dict[str, Any]) -> Table:
    rows = [row for row in select(results, "zeros") if row["weight_bits"] > 1]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    table = Table("Weights that round to zero, percent, mean over the seeds", ["<width", "<bits", *layers])
    for key in dict.fromkeys((row["widen"], row["weight_bits"], row["activation_bits"]) for row in rows):
        mine = [row for row in rows if (row["widen"], row["weight_bits"], row["activation_bits"]) == key]
        shares = [np.mean([row["zeros"] for row in mine if row["layer"] == layer]) for layer in layers]
        table.add(f"{key[0]:g}x", f"{key[1]}W/{key[2]}A", *(f"{100 * value:.0f}" for value in shares))
    return table


def _choices(o: dict[str, Any], first: dict[str, Any]) -> Table:
    return choices(
        [
            ("optimizer", f"Adam in batches of {o['batch_size']}, rate {o['learning_rate']:g}, falling to 0 along half a cosine"),
            ("images", "pixels divided by 255; no shifts, no flips; every epoch in another order"),
            ("first weights", "quantized layers: uniform in [-1, 1], the quantizer's range, since batch normalization follows; "
             "float layers: PyTorch's own"),
            ("weight decay", "none: it would pull weights to where they round to zero"),
            ("gradient of the quantizers", "straight through inside the range, its ends included; zero outside"),
            ("weights of 1 bit", "sign times the mean of |w| of each output channel"),
            ("accuracy", f"on the {first['m_test']:,} test images after the last epoch"),
        ]
    )  # fmt: skip


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o, cells = results["options"], select(results, "cell")
    lines = []
    for width in o["widths"]:
        mine = [row for row in cells if row["widen"] == width and row["weight_bits"] == row["activation_bits"]]
        points = [(row["weight_bits"], 100 * row["accuracy"]) for row in mine]
        band = [(row["weight_bits"], 100 * row["accuracy_low"], 100 * row["accuracy_high"]) for row in mine]
        lines.append(plots.Line(f"{width:g}x wide", points, band=sorted(band)))
    ticks = sorted({row["weight_bits"] for row in cells if row["weight_bits"] == row["activation_bits"]})
    title = f"{o['architecture']} on {o['data']}: accuracy by bits of weights and activations"
    heading = f"mean over seeds, {o['epochs']} epochs"
    made = plots.lines(title, {heading: lines}, x="bits", y=["test accuracy, percent"], x_ticks=ticks, log_x=True, width=6.0)
    return {"wrpn": made}
