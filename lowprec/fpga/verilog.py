"""Circuits as Verilog: the text, and a folder of it for a board."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import atomic
from ..checks import need_extra
from .design import Design, as_design

__all__ = ["export", "ports", "to_verilog"]

_ZERO = re.compile(r"^ +\S+ ?\[\d+\] = \d+'h0+;\n", re.MULTILINE)
_NOTHING = re.compile(r"^ +initial begin\n +end\n", re.MULTILINE)


def to_verilog(design: Design) -> str:
    """The Verilog of a circuit, module ``sgd``; `ports` says what it looks like from outside.

    Raises
    ------
    ImportError
        If the extra ``fpga`` is not installed.
    """
    verilog = need_extra("amaranth.back.verilog", "fpga", "writing a circuit")
    from .circuit import Sgd

    circuit = Sgd(as_design(design))
    text = verilog.convert(circuit, name="sgd", ports=circuit.ports, emit_src=False)
    # A memory's zeros are written out one by one, megabytes that take Yosys minutes. Nothing is read that was not written before.
    return _NOTHING.sub("", _ZERO.sub("", text))


def ports(design: Design) -> list[tuple[str, str, int, str]]:
    """Name, direction, bits, and meaning of each port.

    Returns
    -------
    list of (str, str, int, str)
    """
    d = design
    address = max(1, (d.beats - 1).bit_length())
    label = "0 or 1, negative: no row" if d.loss == "logistic" else "two's complement"
    return [
        ("clk", "in", 1, "everything happens at its rising edge"),
        ("rst", "in", 1, "synchronous: the random words begin anew, nothing is pending; the model stays"),
        ("step", "in", 8, "eta, 1 to 255; keep it while the circuit is busy"),
        ("x_valid", "in", 1, "a beat is offered"),
        ("x_ready", "out", 1, "a beat is taken at every edge where x_valid and x_ready are high"),
        ("x_data", "in", d.lanes * d.D, f"{d.lanes} codes of {d.D} bits, two's complement, the first column in the lowest bits"),
        ("x_label", "in", d.G, f"the row's label code, {label}; looked at in the row's first beat"),
        ("flush", "in", 1, "three stages: make the write that is pending; high only after the last row. Two stages: no effect"),
        ("idle", "out", 1, "nothing is under way or pending: the model may be read and written"),
        ("model_address", "in", address, f"a beat of the model, 0 to {d.beats - 1}"),
        ("model_write", "in", 1, "write model_data_in at model_address; no effect unless idle"),
        ("model_data_in", "in", d.lanes * d.M, f"{d.lanes} codes of {d.M} bits; -2^{d.M - 1} is not one"),
        ("model_data_out", "out", d.lanes * d.M, "what is at model_address, three clocks after the address, while idle"),
    ]


def export(design: Design, folder: Path | str, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a circuit to a folder: ``sgd.v``, ``design.json``, and a README.md that says how to use it on a board.

    Parameters
    ----------
    design : Design
    folder : path-like
        Made where it does not exist; files of these names are replaced.
    facts : mapping, optional
        What place and route said: device, speed, fmax_mhz, lut, ff, dsp, bram, gnps.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    text = to_verilog(design)
    folder.mkdir(parents=True, exist_ok=True)
    d = design
    about = {
        "signature": str(d.signature), "n": d.n, "lanes": d.lanes, "stages": d.stages, "batch_size": d.batch_size, "loss": d.loss,
        "random": d.source, "seed": d.seed, "beats": d.beats, "columns": d.columns, "clocks": d.clocks, "step": asdict(d.step),
        "placed": None if facts is None else dict(facts),
    }  # fmt: skip
    for name, content in (
        ("sgd.v", text), ("design.json", json.dumps(about, indent=1) + "\n"), ("README.md", _readme(d, facts)),
    ):  # fmt: skip
        atomic.replace(folder / name, lambda f, content=content: f.write(content.encode()))
    return folder


def _readme(d: Design, facts: Mapping[str, Any] | None) -> str:
    step, late = d.step, d.stages == 3
    label, index = f"y << {step.label_shift}", f"z >> {step.sigmoid_shift}"
    error = f"({label}) - z" if d.loss == "squared" else f"({label}) - S[clip({index}, -128, 127)]"
    kind = "linear" if d.loss == "squared" else "logistic"
    batch = "row" if d.batch_size == 1 else f"batch of {d.batch_size} rows"
    random = f"a random number of {d.G} bits ({d.source}, seed {d.seed})"
    if d.source == "nearest":
        random = f"one half, 2^{d.G - 1}"
    placed = "`lowprec fpga` places it and says how fast it is."
    if facts is not None:
        placed = (
            f"On an {facts['device']}, speed grade {facts['speed']}, it took {facts['lut']:,} look-up tables, {facts['ff']:,} "
            f"flip-flops, {facts['dsp']} multipliers and {facts['bram']} block memories, and ran at {facts['fmax_mhz']:.0f} MHz "
            "(placed out of context, after registers were moved into the block memories and multipliers, as vendors' tools do by "
            "themselves)."
        )
    when = (
        "The update is one batch late: the products of a batch are taken before the batch before it is written."
        if late
        else "A batch is written before the products of the next one are taken."
    )
    paragraphs = [
        f"# {d.signature}: SGD for {kind} regression, {d.lanes} lanes, {d.stages} stages",
        f"{d.n} columns; a row takes {d.beats} beats of {d.lanes} codes ({d.columns - d.n} columns of zeros at its end). "
        f"{placed} A "
        f"{batch} takes {d.clocks} clocks, so it trains on {d.numbers_per_clock:.2f} numbers a clock.",
        "## What it computes",
        f"""\
    z    = sum_j x_j w_j                                exact
    e    = {error}
    mu   = clip((e * eta) >> {step.shift})                      to +-(2^{d.G - 1} - 1)
    w_j <- sat(w_j + ((S_j * 2^{step.exponent} + r_j) >> {d.G}))     to +-(2^{d.M - 1} - 1)""",
        f"All in integers; >> rounds down; S_j is the sum of mu x_j over the rows of a batch, r_j {random}. {when}",
        f"`lowprec.train_integer(..., delay={int(late)})` computes the same in software, to the bit, for D and M of 4, 8 and "
        "16 bits. Its "
        "result has the codes (`result.data`, `result.model`) and the constants (`result.step`; `step.labels(y)` makes the "
        "codes of "
        "labels). The constants above are in this circuit; only eta is an input. Make the circuit for yours by "
        "`Design(..., step=result.step)`.",
        "## Ports",
        "\n".join(
            ["| port | | bits | |", "|---|---|--:|---|"]
            + [f"| `{name}` | {way} | {bits} | {what} |" for name, way, bits, what in ports(d)]
        ),
        "## On a board",
        "1. Hold `rst` for a clock or more, and `x_valid` low meanwhile. Set `step`.",
        f"2. While `idle` is high, write the start model: {d.beats} beats, one a clock, `model_write` high. (Memories hold "
        "nothing "
        "that can be relied on before.)",
        "3. Stream rows in: connect a DMA's AXI4-Stream to `x_data` (tdata), `x_valid` (tvalid), `x_ready` (tready), and the "
        "label to "
        "`x_label` (tuser, the same value during the whole row will do). Rows follow each other without a gap; the circuit "
        "loads one tile "
        "while it computes on another, and pauses of the memory change nothing but the time. At full speed it takes "
        f"{d.numbers_per_clock * d.D / 8:.2f} bytes a clock.",
        "4. "
        + (f"Fill up the last batch with rows of zeros with label {-int(d.loss == 'logistic')}. " if d.batch_size > 1 else "")
        + ("After the last row set `flush`, wait" if late else "After the last row wait")
        + " for `idle`, and read the model: an address a clock, the contents three clocks later.",
        "The open tool chain, for a chip of the ECP5 family and a top module of your own that holds this one:",
        """\
    yosys -p 'read_verilog top.v sgd.v; synth_ecp5 -top top -json top.json'
    nextpnr-ecp5 --25k --speed 6 --package CABGA381 --lpf board.lpf --json top.json --textcfg top.config
    ecppack top.config top.bit""",
        "These leave the registers of block memories and multipliers unused, which `lowprec` moves into them, and reach "
        "about two thirds "
        "of its clock.",
        "A program that streams data into the circuit, in C++ for Verilator, is `lowprec/fpga/harness.cpp` of the Python "
        "package; "
        "`lowprec.fpga.simulate` runs it.",
    ]
    wrapped = (p if p.startswith(("    ", "|")) else textwrap.fill(p, 120, break_on_hyphens=False) for p in paragraphs)
    return "\n\n".join(wrapped) + "\n"
