"""What a simulated core does: the accesses of SGD, counted by formula, and recorded addresses as files."""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.cachesim import (
    Instructions,
    Machine,
    MachineConfig,
    Stream,
    _simulator,
    as_stream,
    instructions,
    read_trace,
    sgd_streams,
    write_trace,
)

LINE = 64
COST = Instructions(example=100.25, dot=0.3, axpy=0.7, fused=0.9)
NAMES = {
    _simulator.LOAD: "load", _simulator.STORE: "store", _simulator.LOAD_OWN: "load_own", _simulator.PREFETCH: "prefetch",
    _simulator.PREFETCH_FIRST: "prefetch_first", _simulator.WAIT: "wait",
}  # fmt: skip
FORMATS = ("4", "8", "16", "32f")
BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
ABSOLUTE = _simulator.ABSOLUTE


def listed(stream):
    """(kind, address, row) of every access; the row is None where the address is one."""
    return [(NAMES[int(a["kind"])], int(a["address"]), None if a["row"] == ABSOLUTE else int(a["row"])) for a in stream.accesses]


def kinds(stream):
    """How many of each kind, apart by whether they are to a row of data."""
    return Counter((kind, row is not None) for kind, _, row in listed(stream))


def lines(n, bits):
    return -(-n * bits // (8 * LINE))


def rounded(x):
    return math.floor(x + 0.5)


def in_model(stream):
    first, last = stream.region
    return [
        (kind, address) for kind, address, row in listed(stream) if row is None and kind != "wait" and first <= address < last
    ]


# ---- dense data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", FORMATS)
@pytest.mark.parametrize("M", FORMATS)
@pytest.mark.parametrize(("n", "update"), [(1, "own"), (513, "own"), (513, "load")])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"prefetch": False}, {"model_prefetch": 2}, {"batch_size": 3}, {"batch_size": 100},
        {"loop": "fused"}, {"loop": "fused", "model_prefetch": 3}, {"loop": "fused", "prefetch": False},
    ],
)  # fmt: skip
def test_accesses_of_a_dense_pass_by_formula(D, M, n, update, options):
    fused, batch = options.get("loop") == "fused", options.get("batch_size", 1)
    (stream,) = sgd_streams(f"D{D}M{M}", n, 1, update=update, cost=COST, **options)
    x, w = lines(n, BITS[D]), lines(n, BITS[M])
    ahead = max(0, w - options["model_prefetch"]) if "model_prefetch" in options else 0
    # A product reads row and model; an update reads the batch's rows again, reads each line of the model and writes it.
    expected = Counter({("load", True): 2 * x * batch, ("store", False): w, ("wait", True): batch})
    expected["load", False] = 0 if fused else w * batch
    expected["load_own" if update == "own" else "load", False] += w
    expected["prefetch", True] = x * batch if options.get("prefetch", True) else 0
    expected["prefetch_first", False] = ahead if fused else ahead * (batch + 1)
    assert kinds(stream) == +expected
    example, whole = (
        rounded(COST.example),
        {True: [COST.fused * n], False: [COST.dot * n] * batch + [COST.axpy * n * batch]}[fused],
    )
    assert stream.accesses["instructions"].sum() == example * batch + sum(map(rounded, whole))
    assert (stream.batch, stream.numbers, stream.stride) == (batch, n * batch, x * LINE)
    assert stream.rows % batch == 0
    assert stream.region[1] - stream.region[0] == w * LINE
    assert (stream.accesses["size"][stream.accesses["kind"] != _simulator.WAIT] == LINE).all()


@pytest.mark.parametrize("signature", ["D8M8", "D4M32f", "D32fM4", "D16M8"])
@pytest.mark.parametrize("options", [{}, {"loop": "fused"}, {"batch_size": 3}, {"update": "load"}, {"model_prefetch": 2}])
def test_addresses_lie_in_the_model_and_in_the_rows(signature, options):
    (stream,) = sgd_streams(signature, 300, 1, cost=COST, **options)
    for kind, address, row in listed(stream):
        if kind == "wait":
            continue
        assert address % LINE == 0
        if row is None:
            assert stream.region[0] <= address < stream.region[1]
        elif kind == "prefetch":
            assert 8192 <= address < 8192 + stream.stride  # 8 KiB ahead
        else:
            assert address < stream.stride
            assert -1 <= row < stream.batch


@pytest.mark.parametrize("options", [{}, {"loop": "fused"}, {"batch_size": 3}, {"update": "load"}, {"model_prefetch": 2}])
@pytest.mark.parametrize("signature", ["D8M8", "D4M16", "D16M4"])
def test_each_line_of_the_model_is_read_and_then_written_once(signature, options):
    (stream,) = sgd_streams(signature, 700, 1, cost=COST, **options)
    accesses = in_model(stream)
    model = list(range(*stream.region, LINE))
    stores = [k for k, (kind, _) in enumerate(accesses) if kind == "store"]
    assert [accesses[k][1] for k in stores] == model
    reads = "load" if options.get("update") == "load" else "load_own"
    for k in stores:
        assert accesses[k - 1] == (reads, accesses[k][1])
    ahead = [address for kind, address in accesses if kind == "prefetch_first"]
    assert ahead == (model[2:] * 2 if options.get("model_prefetch") else [])


@pytest.mark.parametrize("loop", ["two-pass", "fused"])
@pytest.mark.parametrize(("D", "M"), [("8", "8"), ("4", "16"), ("16", "4"), ("32f", "8")])
def test_a_line_of_the_model_comes_with_the_data_that_it_is_multiplied_with(loop, D, M):
    """No line of the model is touched before all of the row's that have its numbers, nor before the line before it."""
    n = 700
    (stream,) = sgd_streams(f"D{D}M{M}", n, 1, loop=loop, cost=COST)
    read, before = {}, -1
    for kind, address, row in listed(stream):
        if kind == "wait":
            read, before = {}, -1
        elif row is not None and kind == "load":
            read.setdefault(row, set()).add(address // LINE)
        elif row is None:
            line = (address - stream.region[0]) // LINE
            last = min(n, (line + 1) * 8 * LINE // BITS[M]) - 1
            for has in read.values():
                assert set(range(last * BITS[D] // (8 * LINE) + 1)) <= has
            assert set(read) == ({-1, 0} if loop == "fused" else {0})
            assert before <= line
            before = line


def test_a_batch_reads_its_rows_one_by_one_and_then_together():
    (stream,) = sgd_streams("D8M8", 128, 1, batch_size=3, prefetch=False, cost=COST)
    rows = [row for kind, _, row in listed(stream) if row is not None]
    assert rows == [0] * 3 + [1] * 3 + [2] * 3 + [0, 1, 2] * 2  # two lines and a wait of each, and then line by line


def test_what_is_done_with_numbers_is_said_of_the_model_and_of_the_waits():
    s = _simulator
    (two,) = sgd_streams("D8M8", 64, 1, batch_size=2, prefetch=False, cost=COST)
    assert two.accesses["actions"].tolist() == [0, s.SEE, s.MULTIPLY, 0, s.SEE, s.MULTIPLY | s.DECIDE, 0, 0, s.TAKE, s.UPDATE]
    (one,) = sgd_streams("D8M8", 64, 1, loop="fused", prefetch=False, cost=COST)
    assert one.accesses["actions"].tolist() == [0, 0, s.TAKE, s.UPDATE | s.SEE, s.MULTIPLY | s.DECIDE]


@pytest.mark.parametrize("signature", ["D8M8", "D8i8M8"])
def test_models_are_one_or_apart_and_data_are_apart(signature):
    one = sgd_streams(signature, 3000, 8)
    assert len(one) == 8
    assert len({stream.region for stream in one}) == 1
    many = sgd_streams(signature, 3000, 8, shared=False)
    regions = sorted(stream.region for stream in many)
    assert all(a[1] <= b[0] for a, b in pairwise(regions))
    assert all({a for _, a in in_model(stream)} <= set(range(*stream.region)) for stream in many)
    data = sorted((stream.base, stream.base + stream.stride * 2**16) for stream in one)
    assert all(a[1] <= b[0] for a, b in pairwise(data))
    assert data[0][0] > max(region[1] for region in regions)
    assert [len(in_model(a)) for a in one] == [len(in_model(b)) for b in many]


def test_counted_instructions_are_the_cost_that_is_not_given():
    for signature in ("D8M8", "D8M16", "D16M16", "D32fM32f"):
        cost = instructions(signature)
        assert min(cost.example, cost.dot, cost.axpy, cost.fused) > 0
        (a,), (b,) = sgd_streams(signature, 1000, 1), sgd_streams(signature, 1000, 1, cost=cost)
        assert a.accesses.tobytes() == b.accesses.tobytes()
        assert a.accesses["instructions"].sum() == rounded(cost.example) + rounded(cost.dot * 1000) + rounded(cost.axpy * 1000)


# ---- sparse data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", ["D8i8M8", "D8i16M8", "D16i16M16", "D32fi32M32f", "D4i8M4"])
@pytest.mark.parametrize("density", [0.003, 0.1, 1.0])
@pytest.mark.parametrize("update", ["own", "load"])
@pytest.mark.parametrize("prefetch", [True, False])
def test_sparse_rows_read_and_write_what_their_columns_touch(signature, density, update, prefetch):
    n = 1000
    (stream,) = sgd_streams(signature, n, 1, density=density, update=update, prefetch=prefetch, cost=COST)
    D, i = (BITS.get(b) or int(b) for b in re.match(r"D(\w+)i(\w+)M", signature).groups())
    entries = max(1, round(n * density))
    assert stream.numbers == stream.batch * entries
    assert stream.stride == -(-entries * (D + i) // 8)
    assert stream.rows % stream.batch == 0
    product, written, waits, data, ahead = {}, {}, 0, {}, {}  # by row
    for kind, address, row in listed(stream):
        if kind == "wait":
            assert row == waits
            waits += 1
        elif row is not None:
            begin = stream.base + stream.stride * row
            line = (begin + address) % 2**64
            where = ahead if kind == "prefetch" else data
            where.setdefault(row, []).append(line - 8192 if kind == "prefetch" else line)
        elif kind == "store":
            written.setdefault(waits - 1, []).append(address)
        elif kind == "load_own":
            assert update == "own"
        else:
            product.setdefault(waits, []).append(address)
    assert waits == stream.batch
    assert product == written
    for row in range(stream.batch):
        begin = stream.base + stream.stride * row
        covers = list(range(begin // LINE * LINE, begin + stream.stride, LINE))
        assert data[row] == covers * 2
        assert ahead.get(row, []) == (covers if prefetch else [])
        touched = product[row]
        assert touched == sorted(set(touched))
        assert len(touched) <= entries
        assert all(stream.region[0] <= a < stream.region[1] and a % LINE == 0 for a in touched)
        if density == 1.0:
            assert touched == list(range(*stream.region, LINE))
    cost = rounded(COST.dot * entries) + rounded(COST.example) + rounded(COST.axpy * entries)
    assert stream.accesses["instructions"].sum() == stream.batch * cost
    accesses = in_model(stream)
    owned = [k for k, (kind, _) in enumerate(accesses) if kind == "load_own"]
    assert len(owned) == (sum(map(len, written.values())) if update == "own" else 0)
    assert all(accesses[k + 1] == ("store", accesses[k][1]) for k in owned)


def test_columns_are_the_seeds():
    streams = [sgd_streams("D8i8M8", 4000, 2, seed=seed) for seed in (0, 0, 1)]
    same = [
        [a.accesses.tobytes() == b.accesses.tobytes() for a, b in zip(streams[0], other, strict=True)] for other in streams[1:]
    ]
    assert same == [[True, True], [False, False]]
    assert streams[0][0].accesses.tobytes() != streams[0][1].accesses.tobytes()


BAD = [
    (("D8", 10, 1), {}, ValueError, "signature: must have D and M, and no G or C"),
    (("M8", 10, 1), {}, ValueError, "signature: must have D and M"),
    (("D8M8G8", 10, 1), {}, ValueError, "signature: must have D and M, and no G or C"),
    (("D8M8C32f", 10, 1), {}, ValueError, "signature: must have D and M, and no G or C"),
    (
        ("D8M4", 10, 1),
        {"cost": None},
        ValueError,
        "signature: its instructions were not counted .in Python, `cost` says them.; choose from {.*D8M8",
    ),
    (("D8M8", 0, 1), {}, ValueError, "n: "),
    (("D8M8", 2.5, 1), {}, TypeError, "n: "),
    (("D8M8", 10, 0), {}, ValueError, "cores: "),
    (("D8M8", 10, 65), {}, ValueError, "cores: "),
    (("D8M8", 10, 1), {"loop": "one"}, ValueError, "loop: .*two-pass, fused"),
    (("D8M8", 10, 1), {"update": "x"}, ValueError, "update: .*own, load"),
    (("D8M8", 10, 1), {"shared": 1}, TypeError, "shared: "),
    (("D8M8", 10, 1), {"prefetch": 1}, TypeError, "prefetch: "),
    (("D8M8", 10, 1), {"model_prefetch": -1}, ValueError, "model_prefetch: "),
    (("D8M8", 10, 1), {"batch_size": 0}, ValueError, "batch_size: "),
    (("D8M8", 10, 1), {"batch_size": 101}, ValueError, "batch_size: "),
    (
        ("D8M8", 10, 1),
        {"batch_size": 2, "loop": "fused"},
        ValueError,
        "batch_size: must be 1 with sparse data, and with loop='fused'",
    ),
    (("D8i8M8", 10, 1), {"batch_size": 2}, ValueError, "batch_size: must be 1 with sparse data"),
    (("D8i8M8", 10, 1), {"loop": "fused"}, ValueError, "loop: must be two-pass with sparse data; got fused"),
    (("D8i8M8", 10, 1), {"density": 0.0}, ValueError, "density: "),
    (("D8i8M8", 10, 1), {"density": 1.5}, ValueError, "density: must be at most 1; got 1.5"),
    (("D8i8M8", 10, 1), {"density": math.nan}, ValueError, "density: "),
    (("D8M8", 10, 1), {"seed": -1}, ValueError, "seed: "),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), BAD)
def test_bad_input_is_refused_with_a_reason(arguments, options, error, text):
    with pytest.raises(error, match=text) as caught:
        sgd_streams(*arguments, **({"cost": COST} | options))
    assert type(caught.value) is error


def test_what_was_not_counted_is_said():
    with pytest.raises(ValueError, match=r"signature: its instructions were not counted.*D8i8M8.*got D8M4"):
        instructions("D8M4")


# ---- traces ---------------------------------------------------------------------------------------------------------------

GOOD = """lowprec-trace 1
# CORE KIND ADDRESS [SIZE [INSTRUCTIONS]]
0 r 0x7f0010 32 3
1 w 0x7f0030

2 P 4096 # a comment
0 r 0X7f003c 8 5
0 w 130 200
end 5
"""


def written(tmp_path, text, name="t.trace"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def rows_of(streams):
    return [
        [(NAMES[int(a["kind"])], int(a["address"]), int(a["size"]), int(a["instructions"])) for a in s.accesses] for s in streams
    ]


@pytest.mark.parametrize("name", ["t.trace", "t.gz"])
def test_a_trace_is_read(tmp_path, name):
    """An access over several lines becomes one for each; the first has its instructions."""
    streams = read_trace(written(tmp_path, GOOD, name))
    assert rows_of(streams) == [
        [
            ("load", 0x7F0010, 32, 3),
            ("load", 0x7F003C, 4, 5),
            ("load", 0x7F0040, 4, 0),
            ("store", 130, 62, 1),
            ("store", 192, 64, 0),
            ("store", 256, 64, 0),
            ("store", 320, 10, 0),
        ],
        [("store", 0x7F0030, 1, 1)],
        [("prefetch", 4096, 1, 1)],
    ]
    m = Machine(MachineConfig(cores=3))
    for core, stream in enumerate(streams):
        m.feed(core, stream)
    m.run()
    assert (m.counters(0).loads, m.counters(0).stores, m.counters(0).instructions, m.counters(2).prefetches) == (3, 4, 9, 1)


ACCESSES = st.tuples(
    st.integers(0, 3), st.sampled_from("rwp"), st.integers(0, 2**62), st.integers(1, 300), st.integers(0, 2**32 - 1)
)


@pytest.mark.parametrize("name", ["t.trace", "t.gz"])
@given(accesses=st.lists(ACCESSES, max_size=30))
@settings(max_examples=60)
def test_what_was_read_is_written_and_read_again(tmp_path_factory, name, accesses):
    folder = tmp_path_factory.mktemp("traces")
    text = "".join(f"{core} {kind} {address:#x} {size} {count}\n" for core, kind, address, size, count in accesses)
    streams = read_trace(written(folder, f"lowprec-trace 1\n{text}end {len(accesses)}\n"))
    assert len(streams) == max((core for core, *_ in accesses), default=-1) + 1
    assert sum(int(a["size"]) for s in streams for a in s.accesses) == sum(size for _, _, _, size, _ in accesses)
    assert all((s.accesses["address"] % LINE + s.accesses["size"] <= LINE).all() for s in streams)
    write_trace(folder / name, streams)
    again = read_trace(folder / name)
    assert [s.accesses.tobytes() for s in again] == [s.accesses.tobytes() for s in streams]


def test_streams_of_sgd_are_written_with_addresses(tmp_path):
    streams = sgd_streams("D8M8", 200, 3, batch_size=2, model_prefetch=1)
    write_trace(tmp_path / "sgd.gz", streams)
    for stream, read in zip(streams, read_trace(tmp_path / "sgd.gz"), strict=True):
        expected, waiting = [], 0
        for a, (kind, address, row) in zip(stream.accesses, listed(stream), strict=True):
            waiting += int(a["instructions"])
            if kind != "wait":
                kind = {"load_own": "store", "prefetch_first": "prefetch"}.get(kind, kind)
                expected.append((kind, address if row is None else stream.base + stream.stride * row + address, LINE, waiting))
                waiting = 0
        assert rows_of([read]) == [expected]


def test_the_last_row_comes_before_the_first(tmp_path):
    stream = as_stream("load", [8])
    stream.accesses["row"] = -1
    write_trace(tmp_path / "t", [Stream(stream.accesses, 1, 10, 4096, 128)])
    assert rows_of(read_trace(tmp_path / "t")) == [[("load", 4096 + 9 * 128 + 8, 1, 1)]]


WRONG_LINES = [
    ("0 r", "2 fields"),
    ("0 r 0x10 8 1 1", "6 fields"),
    ("64 r 0x10", "'64' is no core from 0 to 63"),
    ("-1 r 0x10", "'-1' is no core"),
    ("x r 0x10", "'x' is no core"),
    ("0 x 0x10", "'x' is neither r, w nor p"),
    ("0 r 0xg", "'0xg' is no address"),
    ("0 r -5", "'-5' is no address"),
    ("0 r 1.5", "'1.5' is no address"),
    ("0 r 0x8000000000000000", "'0x8000000000000000' is no address"),
    ("0 r 0x10 0", "'0' is no size from 1 to 4096"),
    ("0 r 0x10 4097", "'4097' is no size"),
    ("0 r 0x10 x", "'x' is no size"),
    ("0 r 0x10 8 -1", "'-1' is no number of instructions"),
    ("0 r 0x10 8 4294967296", "'4294967296' is no number of instructions"),
    ("end", "malformed or missing accesses: 'end'; expected end"),
    ("end x", "malformed or missing accesses: 'end x'"),
    ("end 1 1", "malformed or missing accesses"),
    ("end 7", "malformed or missing accesses: 'end 7'"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG_LINES)
@pytest.mark.parametrize("at", [2, 5, 7])
@pytest.mark.parametrize("name", ["t.trace", "t.gz"])
def test_a_malformed_line_is_named(tmp_path, wrong, text, at, name):
    whole = GOOD.splitlines()
    path = written(tmp_path, "\n".join([*whole[: at - 1], wrong, *whole[at - 1 :]]) + "\n", name)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {at}: .*{re.escape(text)}") as caught:
        read_trace(path)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "is empty; expected lowprec-trace 1"),
        ("\n" + GOOD, 1, "is no trace: begins with ''; expected lowprec-trace 1"),
        ("lowprec-trace 2\nend 0\n", 1, "is no trace: begins with 'lowprec-trace 2'"),
        (GOOD.replace("lowprec-trace 1\n", ""), 1, "is no trace"),
        (GOOD + "0 r 0x10\n", 10, "goes on after its end"),
        (GOOD + "\n\nend 5\n", 12, "goes on after its end"),
        (b"lowprec-trace 1\n0 r \xff\nend 1\n", 2, ""),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, text, line, what):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {line}: {re.escape(what)}"):
        read_trace(path)


def test_comments_and_empty_lines_after_the_end_are_nothing(tmp_path):
    assert rows_of(read_trace(written(tmp_path, GOOD + "\n# done\n"))) == rows_of(read_trace(written(tmp_path, GOOD)))


@pytest.mark.parametrize("name", ["t.trace", "t.gz"])
def test_a_trace_that_was_cut_off_is_refused_wherever_it_was(tmp_path, name):
    whole = GOOD.splitlines(keepends=True)
    for kept in range(len(whole)):
        with pytest.raises(
            ValueError, match=rf"line {max(kept, 1)}: (is empty|is cut off after \d accesses: there is no line 'end N')"
        ):
            read_trace(written(tmp_path, "".join(whole[:kept]), name))


def test_a_trace_cut_off_within_a_line_is_refused(tmp_path):
    for kept in range(len(GOOD) - 1):
        with pytest.raises(ValueError, match=r"t\.trace, line \d+: "):
            read_trace(written(tmp_path, GOOD[:kept]))
    assert len(read_trace(written(tmp_path, GOOD[:-1]))) == 3  # without the last newline nothing is missing


def test_a_compressed_trace_cut_off_is_refused(tmp_path):
    data = gzip.compress(GOOD.encode())
    for kept in range(len(data)):
        path = tmp_path / "t.gz"
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r"t\.gz, line \d+: (cannot be read on|is empty)"):
            read_trace(path)


@pytest.mark.parametrize("at", [0, 2, -8, -4])
def test_a_compressed_trace_with_a_wrong_head_or_sum_is_refused(tmp_path, at):
    data = bytearray(gzip.compress(GOOD.encode()))
    data[at] ^= 0xFF
    (tmp_path / "t.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"t\.gz, line \d+: cannot be read on"):
        read_trace(tmp_path / "t.gz")


def test_a_compressed_trace_with_wrong_bytes_is_refused(tmp_path):
    whole = gzip.compress(GOOD.encode() * 50)
    for at in range(10, len(whole) - 8):
        data = bytearray(whole)
        data[at] ^= 0xFF
        (tmp_path / "t.gz").write_bytes(data)
        with pytest.raises(ValueError, match=r"t\.gz, line \d+: "):
            read_trace(tmp_path / "t.gz")


@pytest.mark.parametrize("text", ["1_0", "+1", "0x_1"])
def test_python_spellings_of_numbers_are_none(tmp_path, text):
    with pytest.raises(ValueError, match=f"line 2: {re.escape(repr(text))} is no address"):
        read_trace(written(tmp_path, f"lowprec-trace 1\n0 r {text}\nend 1\n"))


def test_bad_streams_are_not_written(tmp_path):
    path = tmp_path / "t"
    with pytest.raises(TypeError, match="streams: expected a sequence of Streams; got int 3"):
        write_trace(tmp_path / "t", 3)
    with pytest.raises(TypeError, match="streams: expected Streams"):
        write_trace(path, [np.zeros(3)])
    with pytest.raises(ValueError, match="streams: must be at most 64; got 65"):
        write_trace(path, [as_stream("load", [0])] * 65)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        read_trace(path)
