"""``lowprec compare``: beside scikit-learn, LIBLINEAR, Vowpal Wabbit, tick, NumKong and pi-quant, on the same data."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lowprec.cli.shared import progress_bar, say_written


@click.command()
@click.argument("data", nargs=-1, metavar="[DATASET]...")
@click.option("--quick", is_flag=True, help="Less than a minute: small data, one thread.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for compare.json, .csv, .md and the plots.",
)
@click.option("--features", type=int, help="Random Fourier features of the MNIST sets. [default: 4096; quick: 512]")
@click.option(
    "--limit", type=float, help="Seconds after which a fit is given up, and no more settings are tried. [default: 60; quick: 6]"
)
@click.option("--peers", metavar="NAME,...", help="Of scikit-learn, LIBLINEAR, Vowpal Wabbit, tick. [default: all]")
@click.option("--turns", type=int, help="Runs that the medians are of, at most. [default: 5; quick: 3]")
@click.option("--kernels/--no-kernels", default=True, show_default=True, help="Compare single kernels too.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the data.")
def compare(
    data: tuple[str, ...],
    quick: bool,
    out: Path,
    features: int | None,
    limit: float | None,
    peers: str | None,
    turns: int | None,
    kernels: bool,
    seed: int,
) -> None:
    """Time to the same validation loss, memory and accuracy, beside those who are installed.

    DATASET is generative, or a file that `lowprec train` reads, or, with LOWPREC_DATA naming the folder of data sets,
    mnist-rff-2, mnist-rff-10 (random Fourier features), a9a, ijcnn1 or reuters. Without one: the two MNIST sets if
    LOWPREC_DATA is set, else generative. Who is not installed is named with the command that installs it.
    """
    from lowprec.checks import need_extra
    from lowprec.report import compare as report
    from lowprec.report import files, tables

    need_extra("matplotlib", "report", "plotting")
    usual = ("mnist-rff-2", "mnist-rff-10") if os.environ.get("LOWPREC_DATA") and not quick else ("generative",)
    given = {"features": features, "limit": limit, "turns": turns}
    chosen = {key: value for key, value in given.items() if value is not None}
    chosen |= {"data": tuple(dict.fromkeys(data or usual)), "kernels": kernels, "seed": seed}
    if limit is not None and not quick:
        chosen["search_seconds"] = limit
    if peers is not None:
        chosen["peers"] = tuple(dict.fromkeys(name.strip() for name in peers.split(",")))
    options = report.Options.short(**chosen) if quick else report.Options(**chosen)
    folder = files.prepare_out(out)
    with progress_bar() as progress:
        results = report.measure(options, progress)
    shown = report.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "compare", results, shown, report.figures(results))
    say_written(console, written, results["seconds"])
