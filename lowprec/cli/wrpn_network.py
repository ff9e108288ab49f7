"""``lowprec wrpn export`` and ``lowprec wrpn evaluate``: integer networks."""

from __future__ import annotations

from pathlib import Path

import click

from lowprec.checks import check_int, check_n_threads, need_extra
from lowprec.cli.shared import progress_bar, say_written
from lowprec.wrpn.images import DATA_SETS, VARIABLE


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export_command(checkpoint: Path, out: Path) -> None:
    """Write the network of CHECKPOINT to OUT as an integer network.

    CHECKPOINT is what `lowprec wrpn train --checkpoint` wrote. OUT is safetensors, weights packed at their bits; it runs without
    PyTorch, by `lowprec wrpn evaluate` or `lowprec.wrpn.IntegerNetwork`.
    """
    need_extra("torch", "wrpn", "lowprec wrpn export")
    from dataclasses import asdict

    from lowprec.report import tables
    from lowprec.report.wrpn.networks import layer_table
    from lowprec.wrpn.architectures import get_architecture
    from lowprec.wrpn.exporting import export
    from lowprec.wrpn.training import load_network

    model, recipe = load_network(checkpoint)
    network = export(model, get_architecture(recipe.architecture).input_shape, {"recipe": asdict(recipe)})
    network.save(out)
    console = tables.console(widest=140)
    console.print()
    console.print(tables.to_rich(layer_table(network, f"{out}: {out.stat().st_size:,} bytes")))


@click.command("evaluate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Choice(list(DATA_SETS)), default="fashion-mnist", show_default=True, help="The images.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Where their files are, or a folder with their name in it. [default: what {VARIABLE} names]",
)
@click.option("--images", "m", type=int, metavar="N", help="The first N test images. [default: all]")
@click.option("--threads", type=int, help="[default: as many as this process may use]")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare with the network that FILE was exported from, in PyTorch, and trace each difference to its rounding.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for wrpn-evaluate.json, .csv and .md. [default: nothing is written]",
)
def evaluate_command(
    file: Path, data: str, folder: Path | None, m: int | None, threads: int | None, checkpoint: Path | None, out: Path | None
) -> None:
    """Run the integer network FILE on test images.

    For example: lowprec wrpn evaluate network.safetensors --data fashion-mnist
    """
    from dataclasses import replace

    from lowprec.report import files, tables
    from lowprec.report.wrpn import networks
    from lowprec.wrpn.images import load_images
    from lowprec.wrpn.integer import IntegerNetwork

    network = IntegerNetwork.load(file)
    threads = check_n_threads(threads, "threads")
    model = None
    if checkpoint is not None:
        need_extra("torch", "wrpn", "--checkpoint")
        from lowprec.wrpn.training import load_network

        model = load_network(checkpoint)[0]
    where = None if out is None else files.prepare_out(out)
    with progress_bar() as progress:
        progress("Reading", data, 0.0)
        images = load_images(data, folder)
        if m is not None:
            m = check_int("images", m, minimum=1)
            images = replace(images, test_x=images.test_x[:m], test_y=images.test_y[:m])
        results = networks.evaluate(network, images, model, file=file.name, threads=threads, progress=progress)
    shown = networks.evaluation_tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    if where is not None:
        say_written(console, files.write_results(where, "wrpn-evaluate", results, shown, {}), results["seconds"])
