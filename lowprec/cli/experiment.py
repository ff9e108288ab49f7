"""``lowprec experiment NAME``: a statistical result of the paper, found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from lowprec.cli.shared import progress_bar, say_written
from lowprec.report.experiments import EXPERIMENTS


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)), required=False, metavar="[NAME]")
@click.option("--list", "listed", is_flag=True, help="Say what experiments there are, as without NAME.")
@click.option("--quick", is_flag=True, help="Less than a minute: a smaller problem, or a part of it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for NAME.json, .csv, .md and the plot.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of data that are made, of splits, and of the rounding.")
def experiment(name: str | None, listed: bool, quick: bool, out: Path, seed: int) -> None:
    """Find a statistical result of the paper again, beside the paper's own figures.

    Minutes on one core; every choice that the paper leaves open is named in the output. Experiments on real data read
    them from the folder that LOWPREC_DATA names.
    """
    from lowprec.checks import check_int, need_extra
    from lowprec.report import experiments, files, tables

    console = tables.console()
    if name is None or listed:
        shown = tables.Table("Experiments", ["<", "<"])
        for key, line in EXPERIMENTS.items():
            shown.add(key, line)
        console.print(tables.to_rich(shown))
        return
    module = experiments.load(name)
    options = replace(module.QUICK if quick else module.FULL, seed=check_int("seed", seed, minimum=0, maximum=2**32 - 1))
    need_extra("matplotlib", "report", "plotting")
    folder = files.prepare_out(out)
    keeping = {"folder": folder / f"{name}-runs"} if getattr(module, "KEEPS", False) else {}
    with progress_bar() as progress:
        results = module.measure(options, progress, **keeping)
    made = module.tables(results)
    console.print()
    for table in made:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, name, results, made, module.figures(results))
    say_written(console, written, results["seconds"])
