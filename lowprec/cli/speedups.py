"""``lowprec speedups``: the paper's tables, measured on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from lowprec.checks import check_finite_scalar, check_int, need_extra, wrong_value
from lowprec.cli.shared import progress_bar, say_written

_STEP = 128


def parse_sizes(text: str) -> tuple[int, ...]:
    """``"2^8,2048"`` as ``(256, 2048)``.

    Raises
    ------
    ValueError
        For what is no size, or not a multiple of 128: rows of every format then start at multiples of 64
        bytes.
    """
    found = []
    for part in text.split(","):
        base, _, exponent = part.strip().partition("^")
        try:
            n = int(base) ** int(exponent) if exponent and int(exponent) < 64 else int(part)
        except ValueError:
            raise wrong_value(
                "sizes", "must be numbers like 2^14 or 16384, with commas between", text
            ) from None
        check_int("sizes: n", n, minimum=_STEP, maximum=2**24)
        if n % _STEP:
            raise wrong_value("sizes: n", f"must be a multiple of {_STEP}", n)
        found.append(n)
    return tuple(sorted(set(found)))


@click.command()
@click.option(
    "--quick", is_flag=True, help="About 20 seconds, on a data set that is smaller than it should be."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for speedups.json, .csv, .md and the plots.",
)
@click.option(
    "--sizes", metavar="N,...", help="Model sizes of the second table. [default: 2^8,2^11,2^14,2^17,2^20]"
)
@click.option(
    "--seconds", type=float, help="Time for measuring; making the data comes on top. [default: 100; quick: 9]"
)
@click.option("--data-mib", type=int, help="Size of the data set. [default: 256; quick: 64]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data and of the rounding.")
def speedups(
    quick: bool, out: Path, sizes: str | None, seconds: float | None, data_mib: int | None, seed: int
) -> None:
    """Measure how fast each precision is here, beside the paper's figures.

    Prints the paper's tables (base throughput, sizes, hand-written against the compiler, the rounding ladder)
    with this machine in them, in less than 3 minutes.
    """
    from lowprec.report import files, tables
    from lowprec.report import speedups as report

    options = replace(
        report.QUICK if quick else report.DEFAULT, seed=check_int("seed", seed, minimum=0, maximum=2**32 - 1)
    )
    if sizes is not None:
        options = replace(options, sizes=parse_sizes(sizes))
    if seconds is not None:
        options = replace(options, seconds=check_finite_scalar("seconds", seconds, positive=True))
    if data_mib is not None:
        n_bytes = check_int("data-mib", data_mib, minimum=16, maximum=2**16) * 2**20
        options = replace(options, n_bytes=n_bytes, peer_bytes=min(n_bytes, options.peer_bytes))
    need_extra("matplotlib", "report", "plotting")
    folder = files.prepare_out(out)
    with progress_bar() as progress:
        results = report.measure(options, progress)
    shown = report.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "speedups", results, shown, report.figures(results))
    say_written(console, written, results["seconds"])
