"""``lowprec wrpn``: wide networks of few bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lowprec.checks import need_extra
from lowprec.cli.shared import say_written
from lowprec.cli.wrpn_network import evaluate_command, export_command
from lowprec.cli.wrpn_speed import speed_command
from lowprec.cli.wrpn_train import train_command


@click.group()
def wrpn() -> None:
    """Wide networks of few bits (WRPN): costs, training, use, speed."""


def _show(shown: Sequence[Any], widest: int = 100) -> Any:
    """Print tables; returns the console."""
    from lowprec.report import tables

    console = tables.console(widest=widest)
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    return console


@click.command("tables")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for wrpn-tables.json, .csv, .md and the plots. [default: nothing is written]",
)
def tables_command(out: Path | None) -> None:
    """Count the paper's Tables 3 to 5, Fig 1 and Fig 3b again.

    Compute cost, FMAs, first-order speedup and shares of memory, from the architectures alone, beside the printed numbers; what
    does not come out is named, with the reason. The accuracies of Tables 1, 2, 4 and 5 are shown as printed. A few seconds.
    """
    from lowprec.report import files
    from lowprec.report import wrpn as report

    folder = None
    if out is not None:
        need_extra("matplotlib", "report", "plotting")
        folder = files.prepare_out(out)
    results = report.recompute()
    shown = report.tables(results)
    console = _show(shown)
    if folder is not None:
        written = files.write_results(folder, "wrpn-tables", results, shown, report.figures(results))
        say_written(console, written, results["seconds"])


@click.command("describe")
@click.argument("architecture", required=False)
@click.option("--widen", type=float, default=1.0, show_default=True, help="Channels of each layer over those at 1x, such as 1.3.")
@click.option("--weight-bits", type=int, default=32, show_default=True, help="1 to 8, or 32: float32.")
@click.option("--activation-bits", type=int, default=32, show_default=True, help="1 to 8, or 32: float32.")
@click.option("--list", "list_them", is_flag=True, help="List the architectures that there are, and do no more.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for wrpn-NAME-WwAa.json, .csv and .md, with the name and the bits. [default: nothing is written]",
)
def describe_command(
    architecture: str | None, widen: float, weight_bits: int, activation_bits: int, list_them: bool, as_json: bool,
    out: Path | None,
) -> None:  # fmt: skip
    """Describe a network after the treatment, layer by layer.

    Shapes, filters, bits, parameters, FMAs, bytes, and cost against float32 at 1x. The first and the last layer stay float32.
    For example: lowprec wrpn describe alexnet --widen 2 --weight-bits 4 --activation-bits 4
    """
    from lowprec.report import files
    from lowprec.report import wrpn as report

    if list_them:
        _show([report.list_table()])
        return
    if architecture is None:
        raise click.UsageError("which architecture? lowprec wrpn describe --list names them")
    results = report.describe(architecture, widen, weight_bits, activation_bits)
    shown = report.description_tables(results)
    if as_json:
        click.echo(files.to_json(results), nl=False)
        console = None
    else:
        console = _show(shown, widest=140)
    if out is not None:
        stem = f"wrpn-{results['summary']['name']}-{weight_bits}w{activation_bits}a"
        written = files.write_results(files.prepare_out(out), stem, results, shown, {})
        if console is not None:
            say_written(console, written, results["seconds"])


for command in (tables_command, describe_command, speed_command, train_command, export_command, evaluate_command):
    wrpn.add_command(command)
