"""Simulating the plan, on all cores of this machine, and making the rows."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np

from lowprec.cachesim import Instructions, Level, Machine, MachineConfig, Stream, instructions, sgd_streams, train
from lowprec.report import paper
from lowprec.report.cache import hardware
from lowprec.report.cache.plan import Here, Options, Point, Training, plan, protocol
from lowprec.report.catalogue import Journal
from lowprec.report.experiments.common import Distances, best_step, distances, make_row, model_scale
from lowprec.report.files import header
from lowprec.report.machine import usable_cpus
from lowprec.report.rows import FLOAT

__all__ = ["FIELDS", "measure", "simulate"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "figure",
    "core",
    "signature",
    "n",
    "q",
    "gnps",
    "speedup",
    "distance",
    "paper_gnps",
    "paper_speedup",
    "paper_distance",
    "passes",
    "cores",
    "variant",
    "value",
    "loop",
    "update",
    "coin",
    "directory",
    "batch_size",
    "overlap",
    "store_buffer",
    "model_prefetch",
    "remote",
    "compute",
    "step_size",
    "stale",
    "kept",
    "accesses",
    "accesses_per_second",
    "example_ns",
    "line_ns",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "runs",
)

#: What the codes of Fig 6f's model cover, and the step sizes that are tried, times n.
_LIMIT, _FACTORS = 1.25, (2.0, 4.0, 8.0, 16.0)

Progress = Callable[[str, str, float], None]


class _Stopped(Exception):
    """The measurement was interrupted elsewhere."""


def here_config(here: Here, point: Point) -> tuple[MachineConfig, Instructions]:
    """Two cores like this machine's, in nanoseconds: all that a core does alone is in what computing costs, as measured."""
    counted = instructions("D8M8")
    per_instruction = here.example_ns / (counted.example + counted.fused * hardware.N)
    first, second, third = (Level(*level, latency=0.0) for level in (here.first, here.second, here.third))
    core = replace(point.model, cpi=per_instruction, hidden=0.0)
    return MachineConfig(2, first, second, third, memory=0.0, remote=here.line_ns, ghz=1.0, core=core), instructions(
        point.signature
    )


@functools.lru_cache(maxsize=8)
def _streams(*of: Any) -> list[Stream]:
    """The same for every q; of sparse data they take as long to make as to simulate."""
    signature, n, cores, loop, update, model_prefetch, cost, seed = of
    return sgd_streams(
        signature, n, cores, loop=loop, update=update, model_prefetch=model_prefetch, cost=cost, seed=seed
    )  # fmt: skip


def simulate(point: Point, accesses: int, seed: int, here: Here | None = None, check: Callable[[int], None] | None = None) -> Any:
    """Simulate one point.

    Parameters
    ----------
    point : Point
    accesses : int
        About so many, after as many to warm up.
    seed : int
    here : Here, optional
        For "6c-here".
    check : callable, optional
        As `Machine.run` has it.

    Returns
    -------
    dict
        Fields of a row.
    """
    cost = instructions(point.signature)
    if point.figure == "6c-here":
        assert here is not None
        config, cost = here_config(here, point)
    else:
        config = MachineConfig(core=point.model, remote=point.remote)
    if point.compute != 1.0:
        cost = Instructions(*(point.compute * value for value in vars(cost).values()))
    streams = _streams(point.signature, point.n, config.cores, point.loop, point.update, point.model_prefetch, cost, seed)
    machine = Machine(config, protocol(point), seed)
    passes = max(2, round(accesses / (config.cores * len(streams[0].accesses))))
    made, begin = 0, time.perf_counter()
    starts = np.random.default_rng(seed)
    for core, stream in enumerate(streams):  # anywhere within an example: in step, they would all meet at the same lines
        machine.delay(core, starts.uniform(0.0, config.core.cpi * int(stream.accesses["instructions"].sum())))
    for part in range(2):
        machine.clear()
        for core, stream in enumerate(streams):
            machine.feed(core, stream, passes, row=part * passes * stream.batch)
        made += machine.run(check)
    gnps = sum(passes * s.numbers / machine.cycles(k) for k, s in enumerate(streams)) * config.ghz
    c = machine.counters()
    told = sum(c.received_region[level][1] for level in (0, 1))
    seconds = time.perf_counter() - begin
    return {
        "gnps": gnps,
        "cores": config.cores,
        "remote": config.remote,
        "overlap": config.core.overlap,
        "store_buffer": config.core.store_buffer,
        "stale": c.stale_loads / c.region_loads if c.region_loads else None,
        "kept": sum(c.kept) / told if told else None,
        "accesses": made,
        "accesses_per_second": made / seconds,
    }


def _point_rows(point: Point, o: Options, here: Here | None, check: Callable[[int], None]) -> list[dict[str, Any]]:
    fields = vars(point) | simulate(point, o.accesses, o.seed, here, check)
    return [make_row(FIELDS, **fields | {"paper_gnps": _paper_gnps(point)})]


def _paper_gnps(point: Point) -> float | None:
    if point.figure != "6c" or point.signature != "D8M8":
        return None
    return paper.series("fig6c", f"{100 * point.q:g}").get(point.n)


def _training_rows(t: Training, data: Any, seed: int, check: Callable[[int], None]) -> list[dict[str, Any]]:
    from lowprec.signature import Signature

    begin = time.perf_counter()
    found = Distances(data.w)

    def after(epoch: Any) -> None:
        check(0)
        found.add(epoch.coef)

    M = str(Signature(t.signature).model)
    point = Point(t.figure, "in-order", t.signature, t.n, t.q, update=t.update)
    result = train(
        data.X, data.y, signature=t.signature, step_size=t.step_factor / t.n, model_scale=model_scale(M, _LIMIT),
        protocol=protocol(point), epochs=t.passes, batch_size=t.batch_size, update=t.update, seed=seed, callback=after,
    )  # fmt: skip
    c = result.counters
    accesses = c.loads + c.stores
    published = paper.series("fig6f", f"{100 * t.q:g}") if t.figure == "6f" else {}
    common = {
        "figure": t.figure, "core": "in-order", "signature": t.signature, "n": t.n, "q": t.q, "gnps": result.gnps,
        "cores": MachineConfig.cores, "update": t.update, "batch_size": t.batch_size, "step_size": t.step_factor / t.n,
        "loop": point.loop, "coin": point.coin, "directory": point.directory, "remote": MachineConfig.remote,
        "stale": c.stale_loads / c.region_loads, "accesses": accesses,
        "accesses_per_second": accesses / (time.perf_counter() - begin),
    }  # fmt: skip
    return [
        make_row(FIELDS, passes=k, distance=distance, paper_distance=published.get(k), **common)
        for k, distance in enumerate(found.distance)
    ]


def _chosen_step(o: Options, tell: Callable[[float], None]) -> float:
    """The step size, times n, with which float32 on one core ends nearest to the true model."""
    from lowprec.datasets import generative

    data = generative(o.learn_n, o.learn_m, o.seed, fmt="32f")
    tried = {}
    for k, factor in enumerate(_FACTORS):
        tell(k / len(_FACTORS))
        tried[factor] = distances(data, FLOAT, step_factor=factor, limit=_LIMIT, passes=o.learn_passes, seed=o.seed)
    return best_step(tried)


def _work(piece: Point | Training, o: Options) -> float:
    """How long it takes, about, in accesses."""
    if isinstance(piece, Point):
        return 2.0 * o.accesses
    lines = piece.n * {"D16M16": 16, "D8M8": 8}[piece.signature] / 512
    return piece.m * piece.passes * 5.0 * lines * 1.6


def measure(options: Options, journal: Journal, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Simulate everything that the journal does not have.

    Parameters
    ----------
    options : Options
    journal : Journal
        Of `lowprec.report.catalogue`; what is finished goes into it.
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    from lowprec.datasets import generative

    begin = time.perf_counter()
    o = options.checked()
    rows: list[dict[str, Any]] = []
    here = None
    if o.hardware_seconds > 0:
        progress("Two real cores", "", 0.0)
        measured = journal.get("two-core")
        if measured is None:
            measured = journal.add("two-core", _hardware_rows(o, lambda part: progress("Two real cores", "", 0.05 * part)))
        rows += measured
        here = _here_of(measured)
    chosen = journal.get("step")
    if chosen is None:
        factor = _chosen_step(o, lambda part: progress("Fig 6f: the step size", "", 0.05 + 0.01 * part))
        chosen = journal.add("step", [{"step_factor": factor}])
    pieces = plan(o, here, chosen[0]["step_factor"])
    found = {piece.key: journal.get(piece.key) for piece in pieces}
    missing = [piece for piece in pieces if found[piece.key] is None]
    formats = dict.fromkeys({"D16M16": "16", "D8M8": "8"}[p.signature] for p in missing if isinstance(p, Training))
    data = {fmt: generative(o.learn_n, o.learn_m, o.seed, fmt=fmt) for fmt in formats}
    total = sum(_work(piece, o) for piece in pieces) or 1.0
    done = sum(_work(piece, o) for piece in pieces if found[piece.key] is not None)
    stop = threading.Event()

    def check(_: int) -> None:
        if stop.is_set():
            raise _Stopped

    def one(piece: Point | Training) -> list[dict[str, Any]]:
        check(0)
        if isinstance(piece, Point):
            return _point_rows(piece, o, here, check)
        return _training_rows(piece, data[{"D16M16": "16", "D8M8": "8"}[piece.signature]], o.seed, check)

    with ThreadPoolExecutor(usable_cpus()) as pool:  # the compiled core holds no lock while it simulates
        waiting = {pool.submit(one, piece): piece for piece in missing}
        try:
            while waiting:
                finished, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    piece = waiting.pop(future)
                    found[piece.key] = journal.add(piece.key, future.result())
                    done += _work(piece, o)
                    progress(_STAGES[piece.figure], f"{piece.signature}, q = {100 * piece.q:g} %", 0.06 + 0.94 * done / total)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for piece in pieces:
        rows += found[piece.key] or []
    rows += _instruction_rows(o)
    progress("Done", "", 1.0)
    return header("cache", vars(o), time.perf_counter() - begin) | {"rows": _with_speedups(rows)}


_STAGES = {
    "6c": "Fig 6c",
    "6c-here": "Two cores like these",
    "sensitivity": "Sensitivity",
    "6f": "Fig 6f: learning",
    "6f-variants": "Fig 6f: variants",
}


def _with_speedups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the speedups over q = 0, and the paper's."""

    def same(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(
            row[name] for name in ("figure", "core", "signature", "n", "variant", "value", "update", "batch_size", "passes")
        )

    base = {same(row): row for row in rows if row["q"] == 0.0}
    for row in rows:
        zero = base.get(same(row))
        if row["gnps"] is None or zero is None or row["figure"] == "two-core":
            continue
        row["speedup"] = row["gnps"] / zero["gnps"]
        if row["paper_gnps"] is not None and zero["paper_gnps"] is not None:
            row["paper_speedup"] = row["paper_gnps"] / zero["paper_gnps"]
    return rows


# ---- two real cores, and the simulation of them ----------------------------------------------------------------------


def _hardware_rows(o: Options, tell: Callable[[float], None]) -> list[dict[str, Any]]:
    """What sharing a model costs two cores, measured and simulated; nothing where there are no two."""
    measured = hardware.measure(o.hardware_seconds, o.seed, tell)
    if measured is None:
        return []
    common = {"figure": "two-core", "signature": "D8M8", "n": hardware.N, "q": 0.0, "cores": 2, "loop": "fused", "update": "load"}
    m = measured
    rows = [
        make_row(
            FIELDS, **common, core="real", value=name, gnps=gnps, example_ns=2 * hardware.N / gnps, line_ns=m.line_ns,
            runs=m.runs, ratio=m.ratio if name == "shared" else None, ratio_q1=m.ratio_q1 if name == "shared" else None,
            ratio_q3=m.ratio_q3 if name == "shared" else None,
        )
        for name, gnps in (("private", m.private_gnps), ("shared", m.shared_gnps))
    ]  # fmt: skip
    here = _here_of(rows)
    assert here is not None
    gnps = {}
    for shared in (False, True):
        gnps[shared] = hardware.simulated(
            *here_config(here, Point("6c-here", "out-of-order", "D8M8", hardware.N, 0.0)), shared=shared
        )
    core = Point("6c-here", "out-of-order", "D8M8", hardware.N, 0.0).model
    for shared, name in ((False, "private"), (True, "shared")):
        rows.append(
            make_row(
                FIELDS, **common, core="out-of-order", value=name, gnps=gnps[shared], example_ns=2 * hardware.N / gnps[shared],
                line_ns=m.line_ns, remote=m.line_ns, overlap=core.overlap, store_buffer=core.store_buffer,
                ratio=gnps[False] / gnps[True] if shared else None,
            )
        )  # fmt: skip
    return rows


def _here_of(rows: list[dict[str, Any]]) -> Here | None:
    real = [row for row in rows if row["core"] == "real" and row["value"] == "private"]
    if not real:
        return None
    return Here(real[0]["example_ns"], real[0]["line_ns"], *hardware.geometry())


def _instruction_rows(o: Options) -> list[dict[str, Any]]:
    """What computing costs: the counted instructions of an example, n = 256."""
    rows = []
    for signature in o.signatures:
        cost = instructions(signature)
        for value, number in (("example", cost.example), ("dot", cost.dot), ("axpy", cost.axpy), ("fused", cost.fused)):
            rows.append(
                make_row(FIELDS, figure="instructions", signature=signature, variant="counted", value=value, ratio=number)
            )
    return rows
