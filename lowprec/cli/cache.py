"""``lowprec cache``: the obstinate cache on simulated machines."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import click
from click.core import ParameterSource

from lowprec.checks import check_int, need_extra, wrong_value
from lowprec.cli.shared import parse_sizes, progress_bar, say_written

_JOURNAL = "cache.journal"

#: Options that do something with a trace alone, or without one alone.
_TRACE, _SIMULATING = {"region"}, {"quick", "signatures", "sizes", "hardware", "out"}


@click.command()
@click.option("--quick", is_flag=True, help="Less than half a minute: fewer sizes, one signature, a smaller problem to learn.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for cache.json, .csv, .md and the plots.",
)
@click.option("--signatures", metavar="S,...", help="Signatures of Fig 6c. [default: D8M8,D16M16,D32fM32f,D8i8M8; quick: D8M8]")
@click.option("--sizes", metavar="N,...", help="Model sizes of Fig 6c. [default: 2^8..2^17; quick: 2^8,2^10,2^12,2^13,2^14]")
@click.option(
    "--q",
    "q",
    metavar="Q,...",
    help="Obstinacies of Fig 6c, 0 to 1. [default: 0,0.25,0.5,0.75,0.95; quick: 0,0.5,0.95; with --trace: 0]",
)
@click.option(
    "--hardware/--no-hardware", default=True, show_default=True, help="Also measure two real cores, beside their simulation."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of data, rounding, and the caches' coins.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Simulate recorded accesses instead, on as many cores as they are of, and count. docs/cache.md has the format.",
)
@click.option("--region", metavar="A:B", help="With --trace: the addresses from A up to B that --q is for. [default: all]")
def cache(
    quick: bool,
    out: Path,
    signatures: str | None,
    sizes: str | None,
    q: str | None,
    hardware: bool,
    seed: int,
    trace: Path | None,
    region: str | None,
) -> None:
    """Simulate caches that ignore some invalidations: the paper's Figs 6c and 6f.

    Throughput over model size and obstinacy q on 18 simulated cores, with the paper's points beside; what the
    gain depends on; what is learned from stale lines; and two real cores beside their simulation. Less than five
    minutes; stopped, it goes on where it was.
    """
    _refuse_idle_options(trace is not None)
    seed = check_int("seed", seed, minimum=0, maximum=2**32 - 1)
    obstinacies = _probabilities(q)
    if trace is not None:
        _simulate_trace(trace, obstinacies, region, seed)
        return
    from lowprec.report import cache as report
    from lowprec.report import files, tables
    from lowprec.report.catalogue import Journal, identity

    options = replace(report.QUICK if quick else report.DEFAULT, seed=seed)
    if signatures is not None:
        options = replace(options, signatures=tuple(dict.fromkeys(s.strip() for s in signatures.split(","))))
    if sizes is not None:
        options = replace(options, sizes=parse_sizes(sizes, maximum=2**22))
    if obstinacies is not None:
        options = replace(options, q=obstinacies)
    if not hardware:
        options = replace(options, hardware_seconds=0.0)
    options = options.checked()
    need_extra("matplotlib", "report", "plotting")
    folder = files.prepare_out(out)
    with Journal(folder / _JOURNAL, identity(asdict(options))) as journal:
        for note in journal.notes:
            print(note, file=sys.stderr)
        if len(journal):
            print(f"Going on after {len(journal)} pieces that {folder / _JOURNAL} has.", file=sys.stderr)
        try:
            with progress_bar() as progress:
                results = report.measure(options, journal, progress)
        except KeyboardInterrupt:
            print(f"{len(journal)} pieces are kept; the same command goes on from there.", file=sys.stderr)
            raise
    shown = report.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "cache", results, shown, report.figures(results))
    (folder / _JOURNAL).unlink()
    say_written(console, written, results["seconds"])


def _refuse_idle_options(traced: bool) -> None:
    """Refuse an option that would do nothing."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if idle := sorted(given & (_SIMULATING if traced else _TRACE)):
        names = ", ".join(f"--{name}" for name in idle)
        raise click.UsageError(f"{names}: {'does nothing with --trace' if traced else 'goes with --trace FILE'}")


def _probabilities(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    found = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError:
            raise wrong_value("q", "must be numbers from 0 to 1, with commas between", text) from None
        if not 0.0 <= found[-1] <= 1.0:
            raise wrong_value("q", "must lie in [0, 1]: it is a probability", found[-1])
    return tuple(found)


def _region(text: str | None) -> tuple[int, int]:
    """``0x1000:0x2000`` as two addresses, of whole lines."""
    if text is None:
        return 0, 2**62
    first, _, last = text.partition(":")
    try:
        found = int(first, 0), int(last, 0)
    except ValueError:
        raise wrong_value("region", "must be two addresses with a colon between, such as 0x1000:0x2000", text) from None
    return found[0] // 64 * 64, -(-found[1] // 64) * 64


def _simulate_trace(path: Path, q: tuple[float, ...] | None, region: str | None, seed: int) -> None:
    from lowprec.cachesim import Machine, MachineConfig, Obstinate, read_trace
    from lowprec.report import cache as report
    from lowprec.report import tables

    if not path.exists():
        raise ValueError(f"trace: there is no {path}")
    if path.is_dir():
        raise ValueError(f"trace: must be a file; {path} is a folder")
    where = _region(region)
    streams = read_trace(path)
    if not streams:
        raise ValueError(f"trace: {path} has no accesses")
    console = tables.console()
    for each in q or (0.0,):
        machine = Machine(MachineConfig(cores=max(len(streams), 1)), Obstinate(each, [where]), seed)
        for core, stream in enumerate(streams):
            machine.feed(core, stream)
        machine.run()
        console.print()
        console.print(tables.to_rich(report.trace_table(machine, len(streams))))
