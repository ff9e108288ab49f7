"""``lowprec wrpn tables`` and ``describe``: every printed number beside the counted one, what differs, and the files."""

from __future__ import annotations

import csv
import json
from fractions import Fraction

import pytest

pytest.importorskip("rich", reason="needs rich: pip install 'lowprec[report]'")
pytest.importorskip("click", reason="needs click: pip install 'lowprec[report]'")

from lowprec.cli import main
from lowprec.report import wrpn as report
from lowprec.report.files import to_json
from lowprec.report.rows import select
from lowprec.report.wrpn.describing import DESCRIBE_FIELDS
from lowprec.report.wrpn.paper import accuracy, agrees, published
from lowprec.report.wrpn.run import FIELDS
from lowprec.wrpn import ARCHITECTURES, CONVENTIONS


@pytest.fixture(scope="module")
def results():
    return report.recompute()


def rounded(value, decimals):
    """As printed: the nearest, ties away from zero."""
    scaled = Fraction(value) * 10**decimals
    return float(Fraction(int(scaled + Fraction(1, 2)), 10**decimals))


def test_table3_every_cell(results):
    rows = select(results, "table3")
    assert len(rows) == 25
    for row in rows:
        assert row["agrees"]
        printed = published()["table3_alexnet_2x_compute_cost"][str(row["weight_bits"])][str(row["activation_bits"])]
        assert rounded(row["value"], 1) == printed == row["printed"]
    # Counted by hand: the first layer, conv0, and the last, fct, have twice the FMAs, all others four times.
    first, inner, last = 120_932_352, (1_791_590_400, 644_972_544, 260_112_384, 173_408_256, 37_748_736, 16_777_216), 4_096_000
    total, wide = first + sum(inner) + last, 2 * first + 4 * sum(inner) + 2 * last
    for row in rows:
        assert row["value"] == wide * (row["weight_bits"] + row["activation_bits"]) / (64 * total)


def test_which_alexnet(results):
    rows = [row for row in select(results, "alexnets") if row["convention"] == "uniform"]
    cells = {row["network"]: row["cells"] for row in rows}
    assert cells == {
        "alexnet": 25, "alexnet-dorefa": 23, "alexnet-grouped": 11, "alexnet-ungrouped": 18, "alexnet-torchvision": 17,
    }  # fmt: skip
    assert all(row["cells"] < 25 for row in select(results, "alexnets") if row["convention"] != "uniform")


def test_table5_every_cell(results):
    rows = select(results, "table5")
    assert len(rows) == 5
    assert all(row["agrees"] and rounded(row["quantized"], 2) == row["printed"] for row in rows)
    assert [row["quantized"] for row in rows] == [1.0, 0.5, 0.375, 0.25, 0.125]
    # Over all layers four of them would not come out.
    assert sum(agrees(row["uniform"], row["printed"], 2) for row in rows) == 1


def test_table4_names_what_differs(results):
    rows = select(results, "table4")
    differ = {(row["widen"], row["activation_bits"], row["weight_bits"]) for row in rows if not row["agrees"]}
    assert differ == {(2, 4, 4), (2, 4, 2), (2, 2, 4), (2, 2, 2), (2, 1, 1), (3, 1, 1)}
    assert all(bool(row["why"]) == (not row["agrees"]) for row in rows)
    counted = [rounded(row["uniform"], 3) for row in rows]
    assert counted == [1.0, 0.031, 0.738, 0.492, 0.369, 0.369, 0.246, 0.123, 0.275]
    # Neither of the other conventions has all of them.
    assert all(not all(agrees(row[convention], row["printed"], 2) for row in rows) for convention in CONVENTIONS)


def test_memory_shares(results):
    rows = {(row["network"], row["name"], row["batch"]): row for row in select(results, "fig1")}
    assert len(rows) == 16
    for network in ("resnet-50", "resnet-101"):
        for key, row in rows.items():
            if key[0] == network:
                assert row["agrees"]
                assert rounded(row["value"], 1) == row["printed"]
    assert not any(row["agrees"] for key, row in rows.items() if key[0] == "alexnet")
    assert {row["value"] for key, row in rows.items() if key[0] == "Inception-ResNet-v2"} == {None}


def test_first_order_speedups(results):
    rows = select(results, "fig3b")
    assert [row["value"] for row in rows] == [1.0, 4.0, 8.0, 64 / 6, 32.0]
    assert all(row["agrees"] for row in rows)


def test_sentences(results):
    rows = select(results, "text")
    assert [(row["printed"], row["agrees"]) for row in rows] == [(49, True), (40, False), (98, True), (98, False)]


def test_accuracies_are_as_printed(results):
    for table, key in (("table1", "table1_alexnet_1x_top1"), ("table2", "table2_alexnet_2x_top1")):
        shown = {(row["weight_bits"], row["activation_bits"]): row["top1"] for row in select(results, table)}
        printed = {(int(w), int(a)): top1 for w, line in published()[key].items() for a, top1 in line.items()}
        assert shown == printed
    assert accuracy("alexnet", 2, 4, 4) == 58.6
    assert accuracy("resnet-34", 3, 1, 1) == 72.38
    assert accuracy("bn-inception", 2, 2, 4) == 71.61
    assert accuracy("alexnet", 1.3, 4, 4) is accuracy("lenet", 1, 32, 32) is accuracy("alexnet", 1, 32, 1) is None


def test_rows_are_whole(results):
    assert all(tuple(row) == FIELDS for row in results["rows"])
    assert all(row["why"] for row in results["rows"] if row["agrees"] is False)
    assert {row["network"] for row in select(results, "networks")} == set(ARCHITECTURES)
    # What does not come out is named, each once, in the last table.
    *_, differences = report.tables(results)
    named = [row for row in differences.rows if row is not None]
    assert len(named) == sum(1 for row in results["rows"] if row["why"])


def test_agreement():
    assert agrees(0.125, 0.13, 2)  # a tie goes either way
    assert agrees(0.125, 0.12, 2)
    assert not agrees(0.1251, 0.12, 2)
    assert not agrees(0.1249, 0.13, 2)
    assert agrees(3.918, 3.9, 1)


# ---- the commands -------------------------------------------------------------------------------------------


def test_tables_command(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'lowprec[report]'")
    assert main(["wrpn", "tables", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "25 of 25 cells come out as printed" in printed
    assert "0.369 ≠" in printed
    assert "What does not come out as printed" in printed
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["wrpn-accuracy.png", "wrpn-memory.png", "wrpn-tables.csv", "wrpn-tables.json", "wrpn-tables.md"]
    read = json.loads((tmp_path / "out" / "wrpn-tables.json").read_text())
    assert read["command"] == "wrpn tables"
    with (tmp_path / "out" / "wrpn-tables.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(read["rows"])
    assert main(["wrpn", "tables", "--out", str(tmp_path / "out" / "wrpn-tables.csv")]) == 2
    assert "out: must be a folder" in capsys.readouterr().err


def test_description(capsys):
    results = report.describe("alexnet", 2, 4, 4)
    rows = results["rows"]
    assert all(tuple(row) == DESCRIBE_FIELDS for row in rows)
    assert [row["layer"] for row in rows] == ["conv0", "conv1", "conv2", "conv3", "conv4", "fc0", "fc1", "fct"]
    conv1 = rows[1]
    assert conv1["input"] == "192x54x54"
    assert (conv1["filters"], conv1["weight_bits"], conv1["activation_bits"]) == (512, 4, 4)
    assert (conv1["fma_ratio"], conv1["cost"]) == (4.0, 0.5)
    assert conv1["weight_bytes"] == 512 * 192 * 25 // 2
    assert conv1["then"] == "bn relu max 3/2"
    # The first layer is float32, and twice as large.
    assert (rows[0]["weight_bits"], rows[0]["cost"], rows[-1]["cost"]) == (32, 2.0, 2.0)
    summary = results["summary"]
    assert summary["bytes_1x"] == 4 * 62_398_440
    # All bytes: packed weights, and in float32 the first, the last, biases (8192 of fc0, 1000 of fct) and batch normalization.
    ends = 4 * (192 * 3 * 144 + 8192 * 1000)
    others = 4 * (8192 + 1000 + 2 * (512 + 768 + 768 + 512 + 8192 + 8192))
    assert summary["bytes"] == sum(row["weight_bytes"] for row in rows[1:-1]) + ends + others
    assert (summary["top1_printed"], summary["top1_printed_1x"]) == (58.6, 57.2)
    assert main(["wrpn", "describe", "alexnet", "--widen", "2", "--weight-bits", "4", "--activation-bits", "4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for sentence in ("8 layers, 6 of them quantized", "241.27 M parameters", "0.490 with all layers charged the same", "58.6 %"):
        assert sentence in said


def test_description_at_1x_is_the_network_itself():
    results = report.describe("resnet-34")
    assert {row["cost"] for row in results["rows"]} == {1.0}
    assert results["summary"]["bytes"] == results["summary"]["bytes_1x"] == 4 * 21_797_672
    assert results["summary"]["cost"] == {"uniform": 1.0, "quantized": 1.0, "float_ends": 1.0}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_described(name):
    results = report.describe(name, 2, 2, 3)
    (table,) = report.description_tables(results)
    assert len([row for row in table.rows if row is not None]) == len(results["rows"]) + 1
    assert json.loads(to_json(results))["rows"][0]["layer"] == results["summary"]["first"]


def test_describe_options(tmp_path, capsys):
    given = ["wrpn", "describe", "convnet", "--widen", "1.3", "--weight-bits", "2"]
    assert main([*given, "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["name"] == "convnet-1.3x"
    assert sorted(path.suffix for path in tmp_path.glob("wrpn-convnet-1.3x-2w32a.*")) == [".csv", ".json", ".md"]
    assert main(["wrpn", "describe", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "which architecture?"),
        (["vgg"], "choose one of {alexnet, alexnet-dorefa"),
        (["lenet", "--widen", "0"], "widen: must be finite and positive; got 0"),
        (["lenet", "--widen", "-1"], "widen: must be finite and positive; got -1"),
        (["lenet", "--widen", "nan"], "widen: must be finite and positive; got nan"),
        (["lenet", "--weight-bits", "0"], "weight_bits: must lie in [1, 8], or be 32 for float32; got 0"),
        (["lenet", "--activation-bits", "16"], "activation_bits: must lie in [1, 8], or be 32 for float32; got 16"),
        (["alexnet-dorefa", "--widen", "1.3"], "conv1 works in 2 groups"),
    ],
)
def test_describe_bad_input(options, text, capsys):
    assert main(["wrpn", "describe", *options]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.out == ""
