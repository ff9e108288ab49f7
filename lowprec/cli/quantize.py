"""``lowprec quantize IN OUT``: a data file as a store, codes on disk that are trained on in place."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lowprec.cli.shared import progress_bar
from lowprec.report import tables


@click.command()
@click.argument("source", metavar="IN", required=False)
@click.argument("out", metavar="OUT", required=False, type=click.Path(path_type=Path))
@click.option("--format", "fmt", default="8", show_default=True, help="Format of the codes: 4, 8, 16 or 32f.")
@click.option("--scale", metavar="S", help="Value of one code, or 'feature': one for each column. [default: from the largest]")
@click.option("--index", metavar="BITS", help="svmlight: width of an index, 8, 16 or 32. [default: the smallest store]")
@click.option("--target", metavar="COLUMN", help="CSV, Parquet: the column to predict, by name or number. [default: the last]")
@click.option("--labels", metavar="FILE", help="npy: the file of the labels. [default: they are the last column]")
@click.option("--features", type=int, metavar="N", help="svmlight: how many there are. [default: up to the largest]")
@click.option("--first-index", type=int, metavar="0|1", help="svmlight: number of the first feature. [default: 0 if it occurs]")
@click.option("--rows-per-block", type=int, metavar="N", help="Rows held at a time. [default: 4 MiB of text, a million numbers]")
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped or killed had come to.")
@click.option("--check", type=click.Path(path_type=Path), metavar="STORE", help="Write nothing: read a store and verify it.")
def quantize(source: str | None, out: Path | None, scale: str | None, check: Path | None, **options) -> None:
    """Write the data file IN as codes into the folder OUT, a store.

    IN is svmlight (a sparse store), CSV, both also compressed, .npy or .parquet. It is read a block at a time, so that it may
    be larger than the memory. lowprec train OUT and lowprec.open_store(OUT) use the store where it lies. A store in OUT is
    replaced at once, at the end.
    """
    import lowprec

    begin = time.perf_counter()
    if check is not None:
        if source is not None:
            raise click.UsageError("--check: takes the store alone, without IN and OUT")
        store = lowprec.open_store(check)
        _say(store, "Verified", time.perf_counter() - begin)
        return
    if source is None or out is None:
        raise click.UsageError("Missing argument 'IN' or 'OUT': the data file and the folder for the store.")
    with progress_bar() as progress:
        store = lowprec.write_store(source, out, scale=_scale(scale), progress=progress, **options)
    _say(store, "Written", time.perf_counter() - begin)


def _scale(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _say(store, what: str, seconds: float) -> None:
    """What is in the store, as a table."""
    import numpy as np

    rows, n = store.shape
    table = tables.Table(f"{store.path}: {rows:,} examples of {n:,} features", ["<", "<"])
    table.add("format", f"{store.signature}, {store.format.describe()}")
    table.add("scale", f"{store.scale:.6g}" if np.ndim(store.scale) == 0 else "one for each feature")
    table.add("clipped", f"{store.clipped:,} numbers")
    words = "" if store.classes is None else f"; {len(store.classes)} classes: {', '.join(store.classes[:5])}"
    table.add("labels", f"{'x'.join(f'{k:,}' for k in store.y.shape)}{words}{', ...' if len(store.classes or []) > 5 else ''}")
    table.add("size", f"{tables.n_bytes(store.nbytes)}, {store.nbytes / rows:,.4g} bytes an example")
    table.notes.append(f"{what} in {tables.duration(seconds)}. Train on it: lowprec train {store.path}")
    console = tables.console()
    console.print()
    console.print(tables.to_rich(table))
