"""The table of accuracies of ``choosing.md``: ``LOWPREC_DATA=DIR python docs/accuracy.py``; takes two minutes.

DIR holds mnist/, svmlight/ and tabular/. For each data set and signature the estimator is trained with nothing else set (the
classifier with loss="log_loss"). Shown is the mean score on the test rows of five seeds of the order and the rounding:
accuracy in percent, or R^2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lowprec.datasets import load
from lowprec.linear_model import LowPrecisionSGDClassifier, LowPrecisionSGDRegressor

SEEDS = 5
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "D32fM32f": ("D32fM32f", {}),
    "D16M16": ("D16M16", {}),
    "D8M16": ("D8M16", {}),
    "D8M8": ("D8M8", {}),
    "D8M8, `average=True`": ("D8M8", {"average": True}),
    'D8M8, `solver="svrg"`': ("D8M8", {"solver": "svrg"}),
    "D8M8, `batch_size=1`": ("D8M8", {"batch_size": 1}),
    'D8M8, `rounding="nearest"`': ("D8M8", {"rounding": "nearest"}),
    "D4M4": ("D4M4", {}),
    "D4M4, `average=True`": ("D4M4", {"average": True}),
}


def data_sets(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name, and training and test data and labels as `train_test_split` orders them."""
    X, y = load_digits(return_X_y=True)
    yield "digits", train_test_split(X, y, random_state=0, stratify=y, test_size=0.3)
    X, y = load(folder / "tabular" / "covtype.20k.csv.gz")
    yield "covtype", train_test_split(X, y, random_state=0, test_size=0.3)
    for name, files in (("a9a", ("a9a", "a9a.t")), ("Reuters money-fx", ("reuters_moneyfx.trn", "reuters_moneyfx.tst"))):
        (X, y), (X_test, y_test) = (load(folder / "svmlight" / f"{file}.bz2", sparse=True) for file in files)
        width = max(X.shape[1], X_test.shape[1])
        for part in (X, X_test):
            part.resize((part.shape[0], width))
        yield name, (X, X_test, y, y_test)
    parts = (load(folder / "mnist" / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    (X, y), (X_test, y_test) = parts
    yield "MNIST", (X, X_test, y, y_test)


def regressions(folder: Path) -> Iterator[tuple[str, Any]]:
    """The same of data sets whose labels are quantities."""
    for name, (X, y) in (("diabetes", load("sklearn:diabetes")), ("houses", load(folder / "tabular" / "cal_housing.csv.gz"))):
        yield name, train_test_split(X, y, random_state=0, test_size=0.3)


def column(made: Any, name: str, parts: Any, digits: int, factor: float, **fixed: Any) -> list[str]:
    """The head of a column and its cells: for each variant the mean score of the seeds."""
    X, X_test, y, y_test = parts
    cells = [f"{name}, {X.shape[0]:,} x {X.shape[1]:,}"]
    for signature, options in VARIANTS.values():
        runs = (made(signature, random_state=seed, **fixed, **options) for seed in range(SEEDS))
        cells.append(f"{factor * np.mean([run.fit(X, y).score(X_test, y_test) for run in runs]):.{digits}f}")
    return cells


def main() -> None:
    if "LOWPREC_DATA" not in os.environ:
        sys.exit("LOWPREC_DATA: must name the folder of the data")
    folder = Path(os.environ["LOWPREC_DATA"])
    columns = [["", *VARIANTS]]
    for name, parts in data_sets(folder):
        columns.append(column(LowPrecisionSGDClassifier, name, parts, 1, 100.0, loss="log_loss"))
    for name, parts in regressions(folder):
        columns.append(column(LowPrecisionSGDRegressor, f"R², {name}", parts, 3, 1.0))
    head, *rows = zip(*columns, strict=True)
    for cells in (head, ["---", *["--:"] * (len(head) - 1)], *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
