"""``lowprec wrpn train``: train a network of few bits on images."""

from __future__ import annotations

from pathlib import Path

import click

from lowprec.checks import check_int, check_n_threads, need_extra
from lowprec.cli.shared import progress_bar, say_written
from lowprec.wrpn.images import DATA_SETS, VARIABLE


@click.command("train")
@click.option("--data", type=click.Choice(list(DATA_SETS)), default="fashion-mnist", show_default=True, help="The images.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Where their files are, or a folder with their name in it. [default: what {VARIABLE} names]",
)
@click.option(
    "--architecture", default="convnet", show_default=True, metavar="NAME",
    help="convnet or lenet for 28 x 28 pixels, resnet-20 for CIFAR-10; lowprec wrpn describe --list names all.",
)
@click.option("--widen", type=float, default=1.0, show_default=True, help="How many times as many channels, such as 1.3.")
@click.option("--weight-bits", type=int, default=32, show_default=True, help="1 to 8, or 32: float32.")
@click.option("--activation-bits", type=int, default=32, show_default=True, help="1 to 8, or 32: float32.")
@click.option("--epochs", type=int, default=6, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--learning-rate", type=float, default=0.01, show_default=True, help="Of the first step; it falls to 0.")
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Of layers in full precision.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first weights, the orders, and dropout.")
@click.option("--images", "m", type=int, metavar="N", help="Train on the first N images. [default: all]")
@click.option("--threads", type=int, help="Of PyTorch. [default: as many as it takes; on 1, runs repeat to the bit]")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the network to FILE after every epoch, and go on from what it holds.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for wrpn-train.json, .csv, .md and a plot. [default: nothing is written]",
)
def train_command(
    data: str, folder: Path | None, architecture: str, widen: float, weight_bits: int, activation_bits: int, epochs: int,
    batch_size: int, learning_rate: float, weight_decay: float, seed: int, m: int | None, threads: int | None,
    checkpoint: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Train a network of few bits on images.

    The first and the last layer stay in float32. After every epoch the accuracy on the test images is taken, and how many weights
    round to zero. A run that was stopped goes on from its checkpoint, and ends as if it had not been.

    For example: lowprec wrpn train --widen 2 --weight-bits 4 --activation-bits 4 --checkpoint net.safetensors
    """
    need_extra("torch", "wrpn", "lowprec wrpn train")
    from lowprec.report import files, tables
    from lowprec.report.wrpn import training as report
    from lowprec.wrpn.images import load_images
    from lowprec.wrpn.training import Options, Recipe

    recipe = Recipe(architecture, weight_bits, activation_bits, widen)
    options = Options(epochs, batch_size, learning_rate, weight_decay, seed)
    threads = check_n_threads(threads, "threads")
    if checkpoint is not None:
        need_extra("safetensors", "wrpn", "--checkpoint")
    where = None
    if out is not None:
        need_extra("matplotlib", "report", "plotting")
        where = files.prepare_out(out)
    with progress_bar() as progress:
        progress("Reading", data, 0.0)
        images = load_images(data, folder)
        if m is not None:
            images = images.first(check_int("images", m, minimum=2))
        results = report.train(recipe, images, options, checkpoint=checkpoint, threads=threads, progress=progress)
    shown = report.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    if where is not None:
        written = files.write_results(where, "wrpn-train", results, shown, report.figures(results))
        say_written(console, written, results["seconds"])
