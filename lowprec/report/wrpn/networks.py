"""The reports of ``lowprec wrpn export`` and ``evaluate``: an integer network's layers, and what it does with images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lowprec.checks import wrong_value
from lowprec.report.files import header
from lowprec.report.rows import select
from lowprec.report.tables import Table, n_threads
from lowprec.report.wrpn.threads import torch_threads
from lowprec.runtime import effective_n_threads
from lowprec.wrpn.images import Images, as_floats
from lowprec.wrpn.integer import IntegerNetwork

__all__ = ["FIELDS", "evaluate", "evaluation_tables", "layer_table"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "table", "network", "images", "accuracy", "seconds", "image", "layer", "torch_class", "class", "codes", "distance", "bound",
)  # fmt: skip

# Images at a time: between two calls there is progress, and Ctrl-C.
_MANY = 1000


def layer_table(network: IntegerNetwork, title: str) -> Table:
    """The layers: what each gives, its bits, and its bytes beside those of float32."""
    table = Table(title, ["<layer", "<op", "<gives", "bits", "<weights", "bits", "bytes", "float32 bytes", "times"])
    packed = floats = 0
    for layer in network.layers:
        shape, w = network.shapes[layer.name], layer.weights
        gives = f"{shape.channels} x {shape.height} x {shape.width}"
        cells = ["", "", f"{layer.nbytes:,}" if layer.nbytes else "", "", ""]
        if w is not None:
            whole = 4 * w.size
            cells = [" x ".join(map(str, w.shape)), _bits(layer.weight_bits), f"{layer.nbytes:,}"]
            cells += [f"{whole:,}", f"{whole / layer.nbytes:.2f}"]
            if layer.weight_bits is not None:
                packed, floats = packed + layer.nbytes, floats + whole
        table.add(layer.name, layer.op, gives, _bits(layer.bits), *cells)
    if packed:
        table.notes.append(
            f"Quantized layers take {packed:,} bytes with their scales and shifts, {floats / packed:.2f} times less than their "
            f"{floats:,} bytes of float32 weights."
        )
    return table


def _bits(bits: int | None) -> str:
    return "float32" if bits is None else str(bits)


def evaluate(
    network: IntegerNetwork, images: Images, model: Any = None, *, file: str, threads: int | None = None,
    progress: Callable[[str, str, float], None] = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Run a network on the test images.

    Parameters
    ----------
    network : IntegerNetwork
    images : Images
    model : torch.nn.Module, optional
        What `network` was exported from; its classes are compared, and every difference is traced to where it begins.
    file : str
        The network's name.
    threads : int, optional
        By default as many as this process may use.
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.

    Raises
    ------
    ValueError
        If the images are not such as the network takes.
    """
    if images.shape != network.input_shape:
        raise wrong_value("data", f"must have images of shape {network.input_shape}, which the network takes", f"{images.shape}")
    begin = time.perf_counter()
    x, y = as_floats(images.test_x), images.test_y
    found, seconds = [], 0.0
    for i in range(0, len(x), _MANY):
        progress("Running", "the integer network", i / len(x) / (2 if model is not None else 1))
        start = time.perf_counter()
        found.append(network.predict(x[i : i + _MANY], threads))
        seconds += time.perf_counter() - start
    accuracy = float(np.mean(np.concatenate(found) == y))
    rows = [_row(table="accuracy", network="integer", images=len(x), accuracy=accuracy, seconds=seconds)]
    if model is not None:
        rows += _compared(model, network, x, y, threads, progress)
    progress("Done", "", 1.0)
    about = {"file": file, "data": images.name, "threads": effective_n_threads(threads), "compared": model is not None}
    return header("wrpn evaluate", about, time.perf_counter() - begin) | {"rows": rows}


def _compared(
    model: Any, network: IntegerNetwork, x: np.ndarray, y: np.ndarray, threads: int | None,
    progress: Callable[[str, str, float], None],
) -> list[dict[str, Any]]:  # fmt: skip
    from lowprec.wrpn.agreement import compare

    rows, same_classes, same_codes, right = [], 0, 0, 0
    for i in range(0, len(x), _MANY):
        progress("Comparing", "with torch", 0.5 + i / len(x) / 2)
        with torch_threads(threads):
            part = compare(model, network, x[i : i + _MANY])
        same_classes, same_codes = same_classes + part.same_classes, same_codes + part.same_codes
        right += int(np.sum(part.classes == y[i : i + _MANY]))
        rows += [
            _row(table="difference", image=i + d.image, layer=d.layer, codes=d.codes, distance=d.distance, bound=d.bound)
            | {"torch_class": d.classes[0], "class": d.classes[1]}
            for d in part.differences
        ]
    return [
        _row(table="accuracy", network="torch", images=len(x), accuracy=right / len(x)),
        _row(table="same", network="classes", images=same_classes),
        _row(table="same", network="codes", images=same_codes),
        *rows,
    ]


def _row(**given: Any) -> dict[str, Any]:
    return dict.fromkeys(FIELDS) | given


def evaluation_tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, rows = results["options"], select(results, "accuracy")
    table = Table(f"{o['file']}: {rows[0]['images']:,} test images of {o['data']}", ["<network", "accuracy"], strong=(1,))
    for row in rows:
        table.add(row["network"], f"{100 * row['accuracy']:.2f} %")
    seconds = rows[0]["seconds"]
    table.notes.append(f"{rows[0]['images'] / seconds:,.0f} images a second, {n_threads(o['threads'])}.")
    same, differences = {row["network"]: row["images"] for row in select(results, "same")}, select(results, "difference")
    made = [table]
    if same:
        table.notes.append(
            f"Both give the same class to {same['classes']:,} images, and the same codes in every layer to {same['codes']:,}."
        )
    if differences:
        ties = sum(row["distance"] <= row["bound"] for row in differences)
        table.notes.append(f"Of {len(differences)} differing classes {ties} begin at a rounding tie.")
        shown = Table("Where classes differ", ["image", "torch", "integer", "<first layer", "codes", "from the tie", "bound"])
        for row in differences:
            cells = (row["image"], row["torch_class"], row["class"], row["layer"], row["codes"])
            shown.add(*map(str, cells), f"{row['distance']:.2g}", f"{row['bound']:.2g}")
        shown.notes.append("In codes: how far torch's number is from the tie, and how far roundings may have moved it.")
        made.append(shown)
    return made
