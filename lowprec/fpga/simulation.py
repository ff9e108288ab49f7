"""Circuits run clock by clock, from a start model to the model that they leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from .design import Design, as_design
from .reference import check_codes
from .verilator import PATIENCE, PATIENCE_PER_BEAT, NoProgressError, Verilated, feeding
from .verilog import to_verilog

__all__ = ["SIMULATORS", "Simulation", "simulate"]

#: amaranth: Amaranth's own, some thousand clocks a second. verilator: compiled, in seconds, for millions.
SIMULATORS = ("amaranth", "verilator")


@dataclass(frozen=True)
class Simulation:
    """What a circuit left.

    Attributes
    ----------
    model : ndarray of int64, shape (n,)
        Codes of the model, read back from the circuit's memory.
    clocks : int
        From the first beat that was taken until the circuit was idle again.
    """

    model: np.ndarray
    clocks: int


def simulate(
    design: Design,
    x: Any,
    labels: Any,
    model: Any = None,
    *,
    simulator: str = "verilator",
    passes: int = 1,
    stall: float = 0.0,
    stall_seed: int = 0,
) -> Simulation:
    """Reset a circuit, write a model, feed it rows, and read the model.

    Parameters
    ----------
    design : Design
    x : array_like of int, shape (m, n)
        Codes of the data, in D bits. The rows of an incomplete last batch are made up for by zeros, which move nothing.
    labels : array_like of int, shape (m,)
        Codes of the labels, as `IntegerStep.labels` makes them.
    model : array_like of int, shape (n,), optional
        Codes to start from. None: zeros.
    simulator : {"verilator", "amaranth"}
        See `SIMULATORS`.
    passes : int
        Over the rows.
    stall : float
        Fraction of the clocks, in [0, 1), in which the data's memory pauses, at random.
    stall_seed : int
        Of the pauses.

    Returns
    -------
    Simulation

    Raises
    ------
    ImportError
        If the simulator is not installed; the text has the pip command.
    TypeError, ValueError
        If there are codes that D, M or G bits do not have, or shapes that do not match.
    NoProgressError
        If the circuit stops.
    """
    d = as_design(design)
    checks.check_choice("simulator", simulator, SIMULATORS)
    x, labels, start = check_codes(d, x, labels, model)
    if d.loss == "logistic" and len(x) % d.batch_size:  # rows that are none; with the squared loss zeros are
        rows = -len(x) % d.batch_size
        x, labels = np.pad(x, ((0, rows), (0, 0))), np.pad(labels, (0, rows), constant_values=-1)
    passes, stall, stall_seed = feeding(passes, stall, stall_seed)
    arguments = {"start_model": start, "passes": passes, "stall": stall, "stall_seed": stall_seed}
    if simulator == "verilator":
        run = Verilated(to_verilog(d)).run(
            x, labels, D=d.D, M=d.M, G=d.G, lanes=d.lanes, beats=d.beats, batch=d.batch_size, step=d.step.multiplier, **arguments
        )  # fmt: skip
        return Simulation(run.model[: d.n], run.cycles)
    return _amaranth(d, x, labels, **arguments)


def _packed(codes: np.ndarray, bits: int) -> int:
    return sum((int(code) & (1 << bits) - 1) << k * bits for k, code in enumerate(codes))


def _amaranth(
    d: Design, x: np.ndarray, labels: np.ndarray, start_model: np.ndarray, passes: int, stall: float, stall_seed: int
) -> Simulation:
    sim = checks.need_extra("amaranth.sim", "fpga", "simulating a circuit")
    from .circuit import Sgd

    circuit, rng = Sgd(d), np.random.default_rng(stall_seed)
    rows = np.zeros((-(-len(x) // d.batch_size) * d.batch_size, d.columns), np.int64)
    rows[: len(x), : d.n] = x
    targets = np.zeros(len(rows), np.int64)
    targets[: len(x)] = labels
    start = np.zeros(d.columns, np.int64)
    start[: d.n] = start_model
    beats = [
        (_packed(beat, d.D), int(target))
        for row, target in zip(rows, targets, strict=True)
        for beat in row.reshape(d.beats, d.lanes)
    ]
    found: list[int] = []
    clocks = 0
    patience = PATIENCE + PATIENCE_PER_BEAT * d.tile

    async def wait(ctx: Any, ready: Any, what: str) -> None:
        nonlocal clocks
        for _ in range(patience):
            now = ctx.get(ready)
            if what == "idle" and now:
                return
            await ctx.tick()
            clocks += 1
            if now:
                return
        raise NoProgressError(f"the circuit did not become {what} within {patience} clocks")

    async def bench(ctx: Any) -> None:
        nonlocal clocks
        ctx.set(circuit.step, d.step.multiplier)
        for j, word in enumerate(start.reshape(d.beats, d.lanes)):
            ctx.set(circuit.model_address, j)
            ctx.set(circuit.model_data_in, _packed(word, d.M))
            ctx.set(circuit.model_write, 1)
            await ctx.tick()
        ctx.set(circuit.model_write, 0)
        await ctx.tick().repeat(3)
        for k, (beat, target) in enumerate(beats * passes):
            while stall and rng.random() < stall:
                # A clock in which nothing is valid shows another beat, so that a circuit which takes it comes to other results.
                for port, other in zip((circuit.x_data, circuit.x_label), beats[rng.integers(len(beats))], strict=True):
                    ctx.set(port, other)
                await ctx.tick()
                clocks += k > 0
            ctx.set(circuit.x_valid, 1)
            ctx.set(circuit.x_data, beat)
            ctx.set(circuit.x_label, target)
            await wait(ctx, circuit.x_ready, "ready")
            ctx.set(circuit.x_valid, 0)
        ctx.set(circuit.flush, 1)
        await wait(ctx, circuit.idle, "idle")
        for j in range(d.beats):
            ctx.set(circuit.model_address, j)
            await ctx.tick().repeat(3)
            word = ctx.get(circuit.model_data_out)
            for lane in range(d.lanes):
                code = word >> lane * d.M & (1 << d.M) - 1
                found.append(code - (code >> d.M - 1 << d.M))

    simulator = sim.Simulator(circuit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return Simulation(np.array(found[: d.n], np.int64), clocks)
