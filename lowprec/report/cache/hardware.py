"""Two real cores on one small model, and on one each: what sharing costs, measured, and simulated from what private models cost.

The simulation is told three things of this machine, none of them from training on a shared model: how long an example takes
where nothing is shared, how long a cache line takes from one core to the other, and how large the caches are. All that a core
does alone (instructions, the caches' latencies, memory) is in the first. That its loads overlap is an assumption about large
cores: ten line fill buffers, 48 stores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowprec.report.machine import caches, usable_cpus

__all__ = ["Measured", "N", "geometry", "measure", "simulated"]

#: Numbers of the model: four cache lines of 8 bits.
N = 256

#: Rows, few enough that each core's second-level cache holds its half: memory would hide what the caches cost. Epochs of a run.
_ROWS, _EPOCHS = 2**12, 100


@dataclass(frozen=True)
class Measured:
    """Two threads of `lowprec.train`, D8M8, n = 256.

    Parameters
    ----------
    private_gnps, shared_gnps : float
        Of both together: each on a replica that meets the other at the end of an epoch, and both on one model.
    ratio, ratio_q1, ratio_q3 : float
        Private over shared, within a turn: median and quartiles.
    line_ns : float
        A cache line from one core to the other.
    runs : int
    """

    private_gnps: float
    shared_gnps: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    line_ns: float
    runs: int


def measure(seconds: float, seed: int, tell: Callable[[float], None] = lambda part: None) -> Measured | None:
    """Measure two cores; None where there are no two, or no OpenMP.

    Parameters
    ----------
    seconds : float
        About how long to take.
    seed : int
    tell : callable
        Told the share that is done.
    """
    import lowprec as lp
    from lowprec.datasets import generative
    from lowprec.report.roofs import Line
    from lowprec.report.timing import ratios, spread

    line = Line()
    if usable_cpus() < 2 or line.ns() is None:
        return None
    data = generative(N, _ROWS, seed, fmt="8")

    def gnps(**how: Any) -> float:
        return lp.train(
            data.X, data.y, signature="D8M8", step_size=0.05 / N, epochs=_EPOCHS, n_threads=2, model_scale=1.25 / 127,
            seed=seed, **how
        ).gnps  # fmt: skip

    begin = time.perf_counter()
    private: list[float] = []
    shared: list[float] = []
    lines: list[float] = []
    while len(private) < 5 or time.perf_counter() - begin < seconds:
        private.append(gnps(sync_every=_ROWS))
        shared.append(gnps())
        lines.append(line.ns() or 0.0)
        tell(min((time.perf_counter() - begin) / seconds, 1.0))
    s = ratios(private, shared)
    return Measured(
        spread(private).median, spread(shared).median, s.median, s.q1, s.q3, statistics.median(lines), len(private)
    )  # fmt: skip


def geometry() -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Bytes and ways of this machine's three levels, as the simulator takes them; common ones where the system does not say."""
    sizes, ways = caches(), _ways()
    found = []
    for name, usual, usual_ways in (("L1d", 32 * 2**10, 8), ("L2", 2**20, 8), ("L3", 2**25, 16)):
        size, w = sizes.get(name, usual), ways.get(name, usual_ways)
        sets = size // (64 * w)
        if sets < 1 or sets & (sets - 1) or sets * 64 * w != size:
            size, w = usual, usual_ways
        found.append((size, w))
    return found[0], found[1], found[2]


def _ways() -> dict[str, int]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, ways = ((index / name).read_text().strip() for name in ("level", "type", "ways_of_associativity"))
        except OSError:
            continue
        if kind in ("Data", "Unified") and ways.isdigit() and int(ways) > 0:
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(ways)
    return found


def simulated(config: Any, cost: Any, *, shared: bool, passes: int = 20_000) -> float:
    """GNPS of both cores together in the simulation, running the loop that `lowprec.train` runs."""
    from lowprec.cachesim import Machine, sgd_streams

    machine = Machine(config)
    streams = sgd_streams("D8M8", N, 2, loop="fused", update="load", shared=shared, cost=cost)
    for part in range(2):
        machine.clear()
        for core, stream in enumerate(streams):
            machine.feed(core, stream, passes, row=part * passes)
        machine.run()
    return sum(passes * N / machine.cycles(core) for core in range(2)) * config.ghz
