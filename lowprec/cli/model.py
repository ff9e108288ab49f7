"""``lowprec model``: predict throughput, and measure how well."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from lowprec.checks import need_extra
from lowprec.cli.shared import chosen, parse_sizes, progress_bar, say_written

#: Options that do something only where there is a measurement, or only with --predict.
_MEASURING = {"quick", "resume", "signatures", "sizes", "seconds", "data_mib", "seed"}
_PREDICTING = {"load", "n", "threads", "density"}


@click.command()
@click.option("--quick", is_flag=True, help="Less than 30 seconds: six signatures, seven sizes, a small data set.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for model.json, .csv, .md and the plots.",
)
@click.option("--resume", is_flag=True, help="Keep what DIR/model.json has measured here before, measure what it lacks.")
@click.option("--signatures", metavar="S,...", help="Signatures to measure. [default: 16 dense, 9 sparse; quick: 6]")
@click.option(
    "--sizes", metavar="N,...", help="Model sizes; every other one is predicted. [default: 2^8..2^20; quick: 2^8,2^10,...,2^20]"
)
@click.option("--seconds", type=float, help="Time for measuring the default's signatures and sizes. [default: 130; quick: 80]")
@click.option("--data-mib", type=int, help="Size of the data set. [default: 128; quick: 64]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data and of the rounding.")
@click.option("--predict", metavar="SIGNATURE", help="Measure nothing, predict: for example D8M16.")
@click.option(
    "--load", type=click.Path(path_type=Path), metavar="FILE", help="With --predict: the calibration. [default: DIR/model.json]"
)
@click.option("--n", "n", metavar="N,...", help="With --predict: model sizes, also as 2^8..2^20. [default: 2^8..2^20]")
@click.option("--threads", type=int, default=1, show_default=True, help="With --predict: how many.")
@click.option("--density", type=float, default=0.03, show_default=True, help="With --predict: share of nonzeros in sparse data.")
def model(
    quick: bool,
    out: Path,
    resume: bool,
    signatures: str | None,
    sizes: str | None,
    seconds: float | None,
    data_mib: int | None,
    seed: int,
    predict: str | None,
    load: Path | None,
    n: str | None,
    threads: int,
    density: float,
) -> None:
    """Calibrate two models of throughput here, and show how well they predict.

    Eq. 2 of the paper, and a model from bytes and measured roofs. Both are fitted to one half of the model sizes and
    predict the other. About three minutes; interrupted, it goes on with --resume.
    """
    from lowprec.report import files, machine, model_tables, tables
    from lowprec.report import model as report

    _refuse_idle_options(predicting=predict is not None)
    path = out / "model.json"
    if predict is not None:
        _predict(predict, path if load is None else load, n, threads, density)
        return
    options = report.QUICK if quick else report.DEFAULT
    if signatures is not None:
        options = replace(options, signatures=tuple(dict.fromkeys(s.strip() for s in signatures.split(","))))
    options = chosen(options, seed=seed, sizes=sizes, seconds=seconds, data_mib=data_mib)
    need_extra("matplotlib", "report", "plotting")
    if machine.baseline() is None:
        raise click.ClickException("model: the roofs cannot be measured: this CPU lacks what the plain C loops were compiled for")
    if any("i" in s for s in options.signatures):
        need_extra("scipy.sparse", "learn", "sparse data")
    if resume and not path.exists():
        raise ValueError(f"resume: there is no {path}; begin without --resume, or name the folder that has one with --out")
    kept = report.read_results(path) if resume else None
    folder = files.prepare_out(out)
    saved = [kept is not None]

    def save(part: dict) -> None:
        files.write_whole(path, files.to_json(part))
        saved[0] = True

    try:
        with progress_bar() as progress:
            results = report.measure(options, progress, kept=kept, save=save)
    except KeyboardInterrupt:
        if saved[0]:
            print(f"{path} has what was measured so far; --resume goes on from there.", file=sys.stderr)
        raise
    shown = model_tables.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "model", results, shown, model_tables.figures(results))
    say_written(console, written, results["seconds"])


def _refuse_idle_options(*, predicting: bool) -> None:
    """Refuse an option that would do nothing: those of measuring beside --predict, and the other way round."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    idle = sorted(given & (_MEASURING if predicting else _PREDICTING))
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        why = "is for measuring, and --predict measures nothing" if predicting else "goes with --predict SIGNATURE"
        raise click.UsageError(f"{names}: {why}")


def _predict(signature: str, path: Path, sizes: str | None, threads: int, density: float) -> None:
    from lowprec import perfmodel
    from lowprec.report import model as report
    from lowprec.report import model_tables, tables

    if not path.exists():
        raise ValueError(f"load: there is no {path}; lowprec model writes one, and --load or --out names another")
    calibration = perfmodel.load(path)
    found = parse_sizes(sizes, "n", multiple=1, maximum=2**62) if sizes is not None else report.DEFAULT.sizes
    table = model_tables.prediction_table(calibration, signature, found, threads, density)
    console = tables.console()
    console.print()
    console.print(tables.to_rich(table))
