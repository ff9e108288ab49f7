"""``lowprec train FILE``: train on a file, beside float32 and scikit-learn; or on a store, in place."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
from click.core import ParameterSource

from lowprec.cli.shared import progress_bar, say_written

_QUICK_ROWS = 10_000


@click.command()
@click.argument("file")
@click.option(
    "--target", metavar="COLUMN", help="CSV: the column to predict, by name or number. [default: the last]"
)
@click.option("--labels", metavar="FILE", help="idx and npy: the file of the labels.")
@click.option("--signature", default="D8M8", show_default=True, help="Formats of data and model; by default D is a store's own.")
@click.option(
    "--loss",
    type=click.Choice(("logistic", "hinge", "squared")),
    help="[default: logistic; squared for a target that is a quantity]",
)
@click.option("--step-size", type=float, help="[default: from the data's norms]")
@click.option("--epochs", type=int, default=5, show_default=True, help="Passes over the training data.")
@click.option(
    "--threads", type=int, default=1, show_default=True, help="Of lowprec; scikit-learn has one. Of ranks each has one."
)
@click.option(
    "--batch-size", type=int, default=1, show_default=True, help="Examples whose gradients make one write of the model."
)
@click.option(
    "--sync-every",
    type=int,
    metavar="N",
    help="Give each worker a model of its own, merged after N of its examples. [default: with a C term, by the rows' length, "
    "but no more than the data's curvature and the number of workers allow]",
)
@click.option(
    "--error-feedback/--no-error-feedback",
    default=True,
    show_default=True,
    help="With a C term: send what coding left out with the next message.",
)
@click.option(
    "--staleness",
    type=int,
    metavar="N",
    help="With an asynchronous C term: begin a round with what the others did N rounds before the last one. [default: 2]",
)
@click.option(
    "--timeout", type=float, default=120.0, show_default=True, metavar="SECONDS",
    help="How long a rank waits for another before it gives up.",
)
@click.option(
    "--checkpoint", metavar="FILE", help="On a store: write the run to FILE now and then, and go on from what it holds."
)
@click.option(
    "--test-size", type=float, default=0.2, show_default=True, help="Share of the examples to hold out."
)
@click.option(
    "--scale",
    "scaling",
    type=click.Choice(["auto", "maxabs", "standard", "none"]),
    default="auto",
    show_default=True,
    help="What is done to each feature first.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and of the rounding.")
@click.option("--quick", is_flag=True, help="At most 10,000 examples, trained on once.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for train.json, .csv, .md and a plot. [default: write nothing]",
)
def train(
    file: str, target: str | None, labels: str | None, quick: bool, out: Path | None, **options
) -> None:
    """Train on FILE, hold out a test split, and compare with float32 and scikit-learn.

    FILE is svmlight, .npy or .npz, CSV, or idx, also compressed; or sklearn:digits and the like, data that
    come with scikit-learn. Or it is a store, which lowprec quantize makes: then training is in place, on its codes,
    without comparisons; the rows at its end are held out.

    With a C term in the signature, such as D8M8G32fC8s, workers send each other coded changes of their models. Workers are the
    threads, or, on a store, the ranks that mpiexec -n RANKS lowprec train STORE starts.
    """
    import lowprec
    from lowprec.checks import need_extra, wrong_value
    from lowprec.communication.group import ranks
    from lowprec.communication.launch import world
    from lowprec.report import files, store_training, tables, training
    from lowprec.store import is_store

    stored = is_store(file)
    if stored:
        _refuse_idle_options()
        if click.get_current_context().get_parameter_source("signature") is not ParameterSource.COMMANDLINE:
            options["signature"] = None
    elif options["checkpoint"] is not None:
        raise click.UsageError("--checkpoint: is for stores; a file is trained on several times, for the medians")
    chosen = training.Options(**options, **({"seconds": 0.0} if quick else {}))
    with ranks(world(), chosen.timeout) as group:
        if group is not None and not stored:
            raise wrong_value("FILE", "must be a store, which lowprec quantize makes, where several ranks train", file)
        # Only rank 0 writes, prints, and shows how far it is.
        first = group is None or group.rank == 0
        folder = None
        if out is not None and first:
            need_extra("matplotlib", "report", "plotting")
            folder = files.prepare_out(out)
        with progress_bar() if first else contextlib.nullcontext(lambda *_: None) as progress:
            progress("Reading", file, 0.0)
            rows = _QUICK_ROWS if quick else None
            if stored:
                results = store_training.train_store(lowprec.open_store(file), chosen, progress, rows=rows, group=group)
            else:
                X, y = read(file, target, labels)
                results = training.compare(X[:rows], y[:rows], chosen, progress)
    if results is None:
        return
    shown = (store_training if stored else training).tables(results, Path(file).name)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    if folder is not None:
        written = files.write_results(folder, "train", results, shown, training.figures(results))
        say_written(console, written, results["seconds"])


def _refuse_idle_options() -> None:
    """Refuse an option that says how a file is read: a store has been."""
    context = click.get_current_context()
    for name, option in (("target", "--target"), ("labels", "--labels"), ("scaling", "--scale")):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option}: is for files; of a store it was settled when lowprec quantize made it")


def read(file: str, target: str | None, labels: str | None):
    """Data and labels of a file."""
    from lowprec import datasets

    return datasets.load(file, target=target, labels=labels)
