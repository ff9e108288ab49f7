"""A circuit in Amaranth's own simulator: every signal can be looked at, some thousand clocks a second."""

from __future__ import annotations

import numpy as np
from amaranth.sim import Simulator

from .circuit import Sgd
from .design import Design

__all__ = ["simulate"]

_STUCK = 10_000


def simulate(design, x, labels, model=None, passes=1, stall=0.0, seed=0):
    circuit = Sgd(design)
    d = design
    rng = np.random.default_rng(seed)
    m = len(x)
    rows = np.zeros((-(-m // d.batch_size) * d.batch_size, d.columns), np.int64)
    rows[:m, : d.n] = x
    targets = np.zeros(len(rows), np.int64)
    targets[:m] = labels
    start = np.zeros(d.columns, np.int64)
    if model is not None:
        start[: d.n] = model

    def packed(codes, bits):
        return sum((int(c) & (1 << bits) - 1) << k * bits for k, c in enumerate(codes))

    beats = [[packed(b, d.D) for b in row.reshape(d.beats, d.lanes)] for row in rows]
    out = np.zeros(d.columns, np.int64)
    info = {}

    async def bench(ctx):
        ctx.set(circuit.step, d.step.multiplier)
        for j in range(d.beats):
            ctx.set(circuit.model_address, j)
            ctx.set(circuit.model_data_in, packed(start[j * d.lanes :][: d.lanes], d.M))
            ctx.set(circuit.model_write, 1)
            await ctx.tick()
        ctx.set(circuit.model_write, 0)
        await ctx.tick().repeat(3)
        clocks = 0
        for _ in range(passes):
            for row, target in zip(beats, targets):
                for beat in row:
                    while stall and rng.random() < stall:
                        await ctx.tick()
                        clocks += 1
                    ctx.set(circuit.x_valid, 1)
                    ctx.set(circuit.x_data, beat)
                    ctx.set(circuit.x_label, int(target))
                    waited = 0
                    while True:
                        ready = ctx.get(circuit.x_ready)
                        await ctx.tick()
                        clocks += 1
                        if ready:
                            break
                        waited += 1
                        if waited > _STUCK:
                            raise RuntimeError("stuck")
                    ctx.set(circuit.x_valid, 0)
        ctx.set(circuit.flush, 1)
        await ctx.tick()
        waited = 0
        while not ctx.get(circuit.idle):
            await ctx.tick()
            clocks += 1
            waited += 1
            if waited > _STUCK:
                raise RuntimeError("never idle")
        info["clocks"] = clocks
        for j in range(d.beats):
            ctx.set(circuit.model_address, j)
            await ctx.tick().repeat(5)
            word = ctx.get(circuit.model_data_out)
            for k in range(d.lanes):
                c = word >> k * d.M & (1 << d.M) - 1
                out[j * d.lanes + k] = c - (1 << d.M) if c >> d.M - 1 else c

    sim = Simulator(circuit)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return out[: d.n], info["clocks"]
