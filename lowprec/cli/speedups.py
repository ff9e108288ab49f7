"""``lowprec speedups``: the paper's tables, measured on this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from lowprec.checks import need_extra
from lowprec.cli.shared import chosen, progress_bar, say_written


@click.command()
@click.option(
    "--quick",
    is_flag=True,
    help="About 20 seconds, on a data set that is smaller than it should be; with --full about a minute.",
)
@click.option(
    "--full", is_flag=True, help="Every figure that is a speed of training; stopped, it goes on where it was."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for speedups.json, .csv, .md and the plots; --full: speedups-full.",
)
@click.option(
    "--sizes",
    metavar="N,...",
    help="Model sizes of the second table, also as 2^8..2^20; full: of every figure. "
    "[default: 2^8,2^11,...,2^20; full: 2^8,2^10,...,2^20; quick: 2^8,2^14,2^20]",
)
@click.option(
    "--seconds",
    type=float,
    help="Time for measuring; making the data comes on top. [default: 100; quick: 9; full: 780; full and quick: 36]",
)
@click.option("--data-mib", type=int, help="Size of the data set. [default: 256; quick: 64]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data and of the rounding.")
def speedups(
    quick: bool, full: bool, out: Path, sizes: str | None, seconds: float | None, data_mib: int | None, seed: int
) -> None:
    """Measure how fast each precision is here, beside the paper's figures.

    Prints the paper's tables (base throughput, sizes, hand-written against the compiler, the rounding ladder)
    with this machine in them, in less than 3 minutes. With --full, Table 2 and Figs 3, 4, 5b, 5c, 6a, 6b and 6d,
    dense and sparse, in less than 25 minutes.
    """
    from lowprec.report import catalogue, files, tables
    from lowprec.report import speedups as report

    options: Any = (
        (catalogue.QUICK if quick else catalogue.FULL) if full else (report.QUICK if quick else report.DEFAULT)
    )
    options = chosen(options, seed=seed, sizes=sizes, seconds=seconds, data_mib=data_mib)
    if data_mib is not None and not full:
        options = replace(options, peer_bytes=min(options.n_bytes, options.peer_bytes))
    need_extra("matplotlib", "report", "plotting")
    folder = files.prepare_out(out)
    if full:
        results, shown, figures = _measure_all(options, folder)
    else:
        with progress_bar() as progress:
            results = report.measure(options, progress)
        shown, figures = report.tables(results), report.figures(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "speedups-full" if full else "speedups", results, shown, figures)
    if full:
        (folder / _JOURNAL).unlink()
    say_written(console, written, results["seconds"])


_JOURNAL = "speedups-full.journal"


def _measure_all(options: Any, folder: Path) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The catalogue: its results, tables and plots; whatever stops it, what was measured is kept."""
    from lowprec.report import catalogue

    options = options.resolved()
    with catalogue.Journal(folder / _JOURNAL, catalogue.identity(asdict(options))) as journal:
        for note in journal.notes:
            print(note, file=sys.stderr)
        if len(journal):
            print(f"Going on after {len(journal)} pieces that {folder / _JOURNAL} has.", file=sys.stderr)
        try:
            with progress_bar() as progress:
                results = catalogue.measure(options, journal, progress)
        except KeyboardInterrupt:
            print(f"{len(journal)} pieces are kept; the same command goes on from there.", file=sys.stderr)
            raise
    return results, catalogue.tables(results), catalogue.figures(results)
