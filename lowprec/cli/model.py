"""``lowprec model``: predict throughput, and measure how well."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from lowprec.checks import check_finite_scalar, check_int, need_extra
from lowprec.cli.shared import progress_bar, say_written
from lowprec.cli.speedups import parse_sizes

_OUT = Path("lowprec-results")


@click.command()
@click.option("--quick", is_flag=True, help="Less than 30 seconds: six signatures, seven sizes, a small data set.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=_OUT,
    show_default=True,
    metavar="DIR",
    help="Folder for model.json, .csv, .md and the plots.",
)
@click.option("--resume", is_flag=True, help="Keep what DIR/model.json has measured here before, measure what it lacks.")
@click.option("--signatures", metavar="S,...", help="Signatures to measure. [default: 16 dense, 9 sparse; quick: 6]")
@click.option("--sizes", metavar="N,...", help="Model sizes; every other one is predicted. [default: 2^8,2^9,...,2^20]")
@click.option("--seconds", type=float, help="Time for measuring the default's signatures and sizes. [default: 130; quick: 80]")
@click.option("--data-mib", type=int, help="Size of the data set. [default: 128; quick: 64]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the data and of the rounding.")
@click.option("--predict", metavar="SIGNATURE", help="Measure nothing, predict: for example D8M16.")
@click.option("--load", metavar="FILE", help="With --predict: the calibration. [default: DIR/model.json]")
@click.option("--n", "n", metavar="N,...", help="With --predict: model sizes. [default: 2^8,2^9,...,2^20]")
@click.option("--threads", type=int, default=1, show_default=True, help="With --predict.")
@click.option("--density", type=float, default=0.03, show_default=True, help="With --predict: of sparse data.")
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
    load: str | None,
    n: str | None,
    threads: int,
    density: float,
) -> None:
    """Calibrate two models of throughput here, and show how well they predict.

    Eq. 2 of the paper, and a model from bytes and measured roofs. Both are fitted to one half of the model sizes and
    predict the other. About four minutes; interrupted, it goes on with --resume.
    """
    from lowprec.report import files, model_tables, tables
    from lowprec.report import model as report

    if predict is None and (load is not None or n is not None):
        raise click.UsageError("--load and --n go with --predict SIGNATURE")
    if predict is not None:
        _predict(predict, Path(load) if load is not None else out / "model.json", n, threads, density)
        return
    options = replace(report.QUICK if quick else report.DEFAULT, seed=check_int("seed", seed, minimum=0, maximum=2**32 - 1))
    if signatures is not None:
        options = replace(options, signatures=tuple(dict.fromkeys(s.strip() for s in signatures.split(","))))
    if sizes is not None:
        options = replace(options, sizes=parse_sizes(sizes))
    if seconds is not None:
        options = replace(options, seconds=check_finite_scalar("seconds", seconds, positive=True))
    if data_mib is not None:
        options = replace(options, n_bytes=check_int("data-mib", data_mib, minimum=16, maximum=2**16) * 2**20)
    need_extra("matplotlib", "report", "plotting")
    if any("i" in s for s in options.signatures):
        need_extra("scipy.sparse", "learn", "sparse data")
    kept = None
    if resume:
        kept = report.read_results(out / "model.json")
    folder = files.prepare_out(out)
    path, saved = folder / "model.json", [kept is not None]

    def save(part: dict) -> None:
        _write(path, files.to_json(part))
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


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _predict(signature: str, path: Path, sizes: str | None, threads: int, density: float) -> None:
    from lowprec import perfmodel
    from lowprec.report import model as report
    from lowprec.report import model_tables, tables

    calibration = perfmodel.load(path)
    found = parse_predicted(sizes) if sizes is not None else report.DEFAULT.sizes
    table = model_tables.prediction_table(calibration, signature, found, threads, density)
    console = tables.console()
    console.print()
    console.print(tables.to_rich(table))


def parse_predicted(text: str) -> tuple[int, ...]:
    """``"2^8,1000"`` as ``(256, 1000)``: any size from 1 on."""
    from lowprec.checks import wrong_value

    found = []
    for part in text.split(","):
        base, _, exponent = part.strip().partition("^")
        try:
            n = int(base) ** int(exponent) if exponent and int(exponent) < 64 else int(part)
        except ValueError:
            raise wrong_value("n", "must be numbers like 2^14 or 16384, with commas between", text) from None
        found.append(check_int("n", n, minimum=1, maximum=2**62))
    return tuple(found)
