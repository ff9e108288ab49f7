"""``lowprec wrpn speed``: whole integer networks beside float32 in torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from lowprec.checks import check_choice, check_int
from lowprec.cli.shared import progress_bar, say_written


@click.command("speed")
@click.option("--architecture", "architectures", metavar="NAME,...", help="[default: convnet,resnet-20; quick: convnet]")
@click.option("--batch", "batches", metavar="N,...", help="Images at a time. [default: 1,64]")
@click.option("--threads", type=int, help="[default: as many as this process may use]")
@click.option(
    "--isa",
    default="avx2",
    show_default=True,
    metavar="[avx2|native]",
    help="What torch may use: avx2, as our kernels do, or native: what it likes.",
)
@click.option("--quick", is_flag=True, help="A few seconds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for wrpn-speed.json, .csv and .md.",
)
def speed_command(architectures: str | None, batches: str | None, threads: int | None, isa: str, quick: bool, out: Path) -> None:
    """Time integer networks of few bits, 1x and 2x wide, beside the float32 network at 1x in torch.

    They take turns, and ratios are within a turn. torch has three chances (as it is, frozen, channels last), of which
    the fastest counts. About a minute.
    """
    from lowprec.report import files, tables
    from lowprec.report.wrpn import speed

    options = speed.QUICK if quick else speed.FULL
    options = replace(options, isa=check_choice("isa", isa, ("avx2", "native")))
    if threads is not None:
        options = replace(options, n_threads=check_int("threads", threads, minimum=1))
    if architectures is not None:
        options = replace(options, networks=tuple(name.strip() for name in architectures.split(",")))
    if batches is not None:
        sizes = tuple(check_int("batch", int(b) if b.strip().isdecimal() else b, minimum=1) for b in batches.split(","))
        options = replace(options, batches=sizes)
    folder = files.prepare_out(out)
    console = tables.console(widest=110)
    with progress_bar() as progress:
        results = speed.measure(options, progress)
    made = speed.speed_tables(results)
    console.print()
    for table in made:
        console.print(tables.to_rich(table))
    say_written(console, files.write_results(folder, "wrpn-speed", results, made, {}), results["seconds"])
