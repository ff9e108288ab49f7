"""Stores: what is written is what `quantize` gives; killed anywhere, the old store or the new one is there; damage is refused."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SEED

import lowprec as lp
from lowprec import atomic, datasets, store, store_writer, streaming
from lowprec.store import MANIFEST, UNFINISHED

#: How many random kills; 60 and more are for a thorough look.
KILLS = int(os.environ.get("LOWPREC_KILLS", "12"))

linux = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def svmlight(rng, rows=40, n=700, first=1):
    """Lines of svmlight, some rows without any feature."""
    lines = []
    for i in range(rows):
        at = np.sort(rng.choice(n, rng.integers(0, 9), replace=False)) + first
        values = rng.normal(size=len(at)).astype(np.float32)
        lines.append(" ".join([str(i % 3 - 1), *(f"{j}:{v!s}" for j, v in zip(at, values, strict=True))]))
    lines[0] = f"1 {first}:0.5 {n + first - 1}:-2"
    return ("\n".join(lines) + "\n").encode()


def table(rng, rows=50, n=5, words=None, header=True):
    """Lines of CSV."""
    X = rng.normal(size=(rows, n))
    y = rng.normal(size=rows).tolist() if words is None else [words[k] for k in rng.integers(0, len(words), rows)]
    lines = [",".join([f"f{j}" for j in range(n)] + ["label"])] if header else []
    lines += [",".join([*(repr(v) for v in row), str(label)]) for row, label in zip(X.tolist(), y, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def files_of(folder):
    """Everything in a folder, by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def put(tmp_path):
    def put(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content)
        return path

    return put


# ---- contents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
@pytest.mark.parametrize("rows_per_block", [None, 1, 7])
@pytest.mark.parametrize("first", [0, 1])
def test_sparse_stores_hold_what_quantize_gives(fmt, rows_per_block, first, rng, put, tmp_path):
    pytest.importorskip("sklearn")
    text = svmlight(rng, first=first)
    X, y = datasets.load(put("a.svm", text), sparse=True)
    q = lp.quantize(X, fmt, rounding="nearest", scale=1.0 if fmt == "32f" else None)
    lp.write_store(put("a.svm.bz2", bz2.compress(text)), tmp_path / "s", fmt=fmt, rows_per_block=rows_per_block)
    s = lp.open_store(tmp_path / "s")
    for name in ("codes", "index", "indptr"):
        np.testing.assert_array_equal(getattr(s.X, name), getattr(q, name))
    assert (s.scale, s.shape, s.format, s.clipped) == (q.scale, q.shape, q.format, q.clipped)
    assert s.signature == f"D{fmt}i{q.index_format}"
    np.testing.assert_array_equal(s.y, y)
    # all said beforehand: one pass, the same store
    bits = str(q.index_format)
    once = lp.write_store(
        tmp_path / "a.svm.bz2", tmp_path / "once", fmt=fmt, scale=q.scale, index=bits, features=q.shape[1], first_index=first
    )
    np.testing.assert_array_equal(once.X.codes, q.codes)
    np.testing.assert_array_equal(once.X.index, q.index)


@pytest.mark.parametrize("index", [8, 16, 32])
def test_the_width_of_an_index_can_be_chosen(index, rng, put, tmp_path):
    pytest.importorskip("sklearn")
    X, _ = datasets.load(put("a.svm", svmlight(rng)), sparse=True)
    q = lp.quantize(X, "8", rounding="nearest", index=index)
    s = lp.write_store(tmp_path / "a.svm", tmp_path / "s", index=index, rows_per_block=3)
    np.testing.assert_array_equal(s.X.index, q.index)
    assert s.X.differences == q.differences == (index == 8)


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
@pytest.mark.parametrize("scale", [None, 0.01, "feature"])
def test_dense_stores_hold_what_train_makes(fmt, scale, rng, put, tmp_path):
    a = rng.normal(size=(100, 33)).astype(np.float32)
    a[:, 3] = 0.0
    q = lp.sgd.prepare_data(np.ascontiguousarray(a[:, :-1]), lp.Format(int(fmt.rstrip("f")), fmt[-1] == "f"), scale)
    s = lp.write_store(put("a.npy", a), tmp_path / "s", fmt=fmt, scale=scale, rows_per_block=9)
    np.testing.assert_array_equal(s.X.codes, q.codes)
    np.testing.assert_array_equal(s.scale, q.scale)
    np.testing.assert_array_equal(s.y, a[:, -1].astype(np.float64))
    assert s.clipped == q.clipped
    assert not s.X.buffer.flags.writeable
    assert not s.y.flags.writeable


def test_codes_stay_codes(rng, put, tmp_path):
    """int8 for 8 and int16 for 16 are not looked at: the smallest code, which quantize never writes, is kept."""
    for dtype, fmt in ((np.int8, "8"), (np.int16, "16")):
        X = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (30, 4), dtype, endpoint=True)
        X[0, 0] = np.iinfo(dtype).min
        s = lp.write_store(put("x.npy", X), tmp_path / "s", fmt=fmt, labels=put("y.npy", np.arange(30) % 2))
        np.testing.assert_array_equal(s.X.codes, X)
        assert s.scale == 1.0


@pytest.mark.parametrize("rows_per_block", [None, 1, 7])
@pytest.mark.parametrize("compress", [lambda b: b, gzip.compress], ids=["plain", "gz"])
def test_tables_are_read_as_load_reads_them(rows_per_block, compress, rng, put, tmp_path):
    unusual = b'\xef\xbb\xbf"a ""1""";b;\r\n\r\n1;2;3\n"-4\n";5;"6"\n;;\n7;8;9'
    for k, (text, words) in enumerate([(table(rng), False), (table(rng, header=False), False), (unusual, False),
                                       (table(rng, words=["no", "yes", "maybe so"]), True)]):  # fmt: skip
        path = put(f"{k}.csv" + (".gz" if compress is gzip.compress else ""), compress(text))
        X, y = datasets.load(path)
        s = lp.write_store(path, tmp_path / "s", fmt="16", rows_per_block=rows_per_block)
        np.testing.assert_array_equal(s.X.codes, lp.quantize(X, "16", rounding="nearest").codes)
        if words:
            assert [s.classes[int(v)] for v in s.y] == y.tolist()
        else:
            np.testing.assert_array_equal(s.y, y)
            assert s.classes is None


def test_a_column_is_chosen_and_named(rng, put, tmp_path):
    path = put("a.csv", table(rng))
    X, y = datasets.load(path, target="f1")
    s = lp.write_store(path, tmp_path / "s", target="f1", scale="feature")
    np.testing.assert_array_equal(s.y, y)
    assert s.feature_names == ["f0", "f2", "f3", "f4", "label"]
    np.testing.assert_array_equal(s.X.codes, lp.quantize(X, "8", rounding="nearest", scale="feature").codes)


@pytest.mark.parametrize("rows_per_block", [None, 3])
def test_parquet(rows_per_block, rng, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": rng.normal(size=20).astype(np.float32), "b": rng.integers(0, 9, 20).astype(np.int8)}
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table(columns | {"kind": ["x", "y", "y", "z"] * 5}), path, row_group_size=6)
    s = lp.write_store(path, tmp_path / "s", rows_per_block=rows_per_block)
    X = np.stack(list(columns.values()), axis=1)
    np.testing.assert_array_equal(s.X.codes, lp.quantize(X, "8", rounding="nearest").codes)
    assert s.classes == ["x", "y", "z"]
    np.testing.assert_array_equal(s.y, [0, 1, 1, 2] * 5)
    for at in range(20):  # from any row on
        rest = [block.X for block in streaming.open_source(str(path), rows_per_block=3).blocks({"row": at})]
        np.testing.assert_array_equal(np.concatenate(rest), X[at:])
    parquet.write_table(arrow.table({"a": [1.0, None], "y": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"a.parquet: row 1 has nothing in column 'a'"):
        lp.write_store(path, tmp_path / "s")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a.parquet: truncated or not a Parquet file"):
        lp.write_store(path, tmp_path / "s")


def test_one_row_one_column_and_labels_for_several_models(put, tmp_path):
    y = np.array([[1, 0, 1]])
    s = lp.write_store(put("x.npy", np.array([[0.5]])), tmp_path / "s", labels=put("y.npy", y))
    assert (s.shape, s.X.codes.tolist(), s.y.tolist(), s.y.shape) == ((1, 1), [[127]], y.tolist(), (1, 3))


@pytest.mark.parametrize("sparse", [False, True])
def test_training_in_place_gives_the_bits_of_training_in_memory(sparse, rng, put, tmp_path):
    if sparse:
        pytest.importorskip("sklearn")
        X, y = datasets.load(put("a.svm", svmlight(rng, rows=300)), sparse=True)
    else:
        a = rng.normal(size=(300, 50)).astype(np.float32)
        a[:, -1] = a[:, 0] > 0
        X, y = a[:, :-1], a[:, -1]
        put("a.npy", a)
    s = lp.write_store(tmp_path / ("a.svm" if sparse else "a.npy"), tmp_path / "s")
    how = {"signature": "D8M8", "step_size": 0.05, "epochs": 3, "n_threads": 1, "shuffle": "blocks", "fit_intercept": True}
    here, there = lp.train(X, y > 0, **how), lp.train(s.X, s.y > 0, **how)
    np.testing.assert_array_equal(here.coef, there.coef)
    np.testing.assert_array_equal(here.model.codes, there.model.codes)
    assert here.intercept == there.intercept


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_neither_writing_nor_training_holds_the_data(tmp_path):
    """96 MB of float32, 24 MB of codes, written and trained on: a process's own memory grows by less than half the codes."""
    m, n = 24_000, 1000
    a = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (m, n))
    for i in range(0, m, 4000):
        a[i : i + 4000] = np.random.default_rng(i).uniform(-1, 1, (4000, n))
    np.save(tmp_path / "y.npy", np.where(a[:, 0] > 0, 1, -1))
    del a
    code = f"""
import threading, numpy as np, lowprec as lp
def own():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024
lp.train(np.ones((2, 2), np.float32), [0, 1], step_size=0.1, n_threads=1)
before, most = own(), []
look = lambda *_: most.append(own() - before)
s = lp.write_store({str(tmp_path / "a.npy")!r}, {str(tmp_path / "s")!r}, labels={str(tmp_path / "y.npy")!r},
                   rows_per_block=500, progress=look)
s = lp.open_store({str(tmp_path / "s")!r})
look()
lp.train(s.X, s.y, signature="D8M8", step_size=0.001, epochs=2, n_threads=1, shuffle="blocks", callback=look)
print(max(most), s.X.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, data = map(int, done.stdout.split())
    assert data >= m * n
    assert grown < data // 2


# ---- input that is refused -----------------------------------------------------------------------------------------

BAD = [
    ("a.svm", b"", "the file is empty"),
    ("a.svm", b"1 1:1\n\n# three\n-1 2:0.5 2:1\n", "line 4: index 2 does not rise"),
    ("a.svm", b"1 1:1\n\n-1 2:nan\n", "line 3: every value must be finite; got nan in column 2"),
    ("a.svm", b"1 1:1\n# a line\nnan 2:1\n", "line 3: every label must be finite; got nan"),
    ("a.svm", b"1\n-1\n", "no row has a feature"),
    ("a.svm", b"# nothing\n", "no examples"),
    ("a.csv", b"", "the file is empty"),
    ("a.csv", b"\n \n", "the file is empty"),
    ("a.csv", b"a,b,c\n", "no examples"),
    ("a.csv", b"a,b,c\n1,2,3\n4,5\n", "line 3: 2 columns; expected 3"),
    ("a.csv", b"a,b,c\n1,2,3\n4,5,6,7\n", "line 3: 4 columns; expected 3"),
    ("a.csv", b"a,b,c\n1,2,3\n\n4,x,6\n", "line 4: 'x' in column 1 (b) is not a number"),
    ("a.csv", b"a,b,c\n1,2,3\n\n4,inf,6\n", "line 4: every value must be finite; got inf in column b"),
    ("a.csv", b"a,b,c\n1,2,3\n\n4,5,nan\n", "line 4: every label must be finite; got nan"),
    ("a.csv", b"a,b,c\n1,2,3\n\n4,5,yes\n", "line 4: the label 'yes' after '3'; expected all numbers or all words"),
    ("a.csv", b"a,b,c\n1,2,\n", "line 2: the label is missing"),
    ("a.csv", b"a,b,c\n1,2,\xff\n", "not text in UTF-8"),
    ("a.csv.gz", gzip.compress(b"a,b,c\n1,2,3\n" * 99)[:-9], "truncated: the compressed data end too early"),
    ("a.npy", np.array([[1.0, 2, 0], [3, np.inf, 1]]), "row 1: every value must be finite; got inf in column 1"),
    ("a.npy", np.array([[1.0, 2, 0], [3, 4, np.nan]]), "row 1: every label must be finite; got nan"),
    ("a.npy", np.array([["a", "b"]]), "expected float16, float32, float64, bool, or an integer type; got an array of <U1"),
    ("a.npy", np.zeros(5), "the array has shape (5,); expected rows of features with the label last"),
    ("a.npy", np.zeros((0, 5)), "no examples: the data have shape (0, 4)"),
    ("a.npy", b"\x93NUMPY\x01\x00 and no more", "truncated or not a NumPy file"),
    ("a.npy.gz", gzip.compress(b"\x93NUMPY"), "a compressed array cannot be read a block at a time"),
    ("a.npz", b"PK", "is read as npz, which cannot be read a block at a time"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[f"{name}: {message[:40]}" for name, _, message in BAD])
@pytest.mark.parametrize("rows_per_block", [None, 1])
def test_input_that_is_refused(name, content, message, rows_per_block, put, tmp_path):
    if name.endswith(".svm"):
        pytest.importorskip("sklearn")
    if message.endswith("after '3'; expected all numbers or all words") and rows_per_block:
        message = "line 4: the label 'yes' after other ones"
    path, out = put(name, content), tmp_path / "out"
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        lp.write_store(path, out, rows_per_block=rows_per_block)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert not out.exists()  # nothing is left of it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "column"}, "scale: choose one of {feature}; got 'column'"),
        ({"scale": -1.0}, "scale: must be finite and positive; got -1.0"),
        ({"fmt": "5"}, "fmt: choose one of {4, 8, 16, 32f}; got '5'"),
        ({"index": 8}, "index: only for sparse data"),
        ({"features": 3}, "features: only for sparse data"),
        ({"first_index": 1}, "first_index: only for sparse data"),
        ({"first_index": 2}, "first_index: must lie in [0, 1]; got 2"),
        ({"target": "y"}, "target: only CSV and Parquet files have columns to choose from"),
        ({"rows_per_block": 0}, "rows_per_block: must be at least 1; got 0"),
        ({"out": "a.npy"}, "out: must be a folder; there is a file"),
        ({"out": "."}, "out: must be a store, to be replaced, or an empty folder"),
    ],
)
def test_arguments_that_are_refused(arguments, message, put, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put("a.npy", np.eye(3))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        lp.write_store("a.npy", **{"out": "s"} | arguments)
    assert message in str(caught.value)


def test_columns_outside_of_what_was_said(put, tmp_path):
    pytest.importorskip("sklearn")
    path = put("a.svm", b"1 1:1\n-1 3:1\n")
    with pytest.raises(ValueError, match=r"a.svm, line 2: index 3; expected one in \[1, 3\)"):
        lp.write_store(path, tmp_path / "s", features=2)
    with pytest.raises(ValueError, match="scale: sparse data have one scale for all columns"):
        lp.write_store(path, tmp_path / "s", scale="feature")


# ---- stores that are refused ---------------------------------------------------------------------------------------


def damaged_manifest(change):
    def damage(folder):
        path = folder / MANIFEST
        path.write_text(change(path.read_text()))

    return damage


def edit(name, at):
    def damage(folder):
        path = next(folder.glob(f"{name}-*"))
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return damage


def cut(folder):
    path = next(folder.glob("codes-*"))
    path.write_bytes(path.read_bytes()[:-1])


def lose(folder):
    next(folder.glob("labels-*")).unlink()


def newer(text):
    return json.dumps(json.loads(text) | {"lowprec_store": 2})


def resealed(text):
    manifest = json.loads(text)
    manifest["files"]["codes"]["file"] = "../a.npy"
    return json.dumps(store.sealed(manifest))


DAMAGE = {
    "codes": (edit("codes", 0), ValueError, "must be as it was written; got other bytes between 0 and", "codes-"),
    "last code": (edit("codes", -1), ValueError, "must be as it was written; got other bytes between 0 and", "codes-"),
    "label": (edit("labels", 5), ValueError, "must be as it was written; got other bytes between 0 and 1600", "labels-"),
    "scale": (damaged_manifest(lambda t: t.replace('e": 0', 'e": 1')), ValueError, "differs from its checksum", MANIFEST),
    "shape": (damaged_manifest(lambda t: t.replace("200", "100")), ValueError, "differs from its checksum", MANIFEST),
    "garbage": (damaged_manifest(lambda t: t[:100]), ValueError, "must be the manifest of a store", MANIFEST),
    "no JSON object": (damaged_manifest(lambda t: "[]"), ValueError, "must be the manifest of a store", MANIFEST),
    "empty": (damaged_manifest(lambda t: ""), ValueError, "must be the manifest of a store", MANIFEST),
    "newer": (damaged_manifest(newer), ValueError, "must be a store of version 1; got version 2; update lowprec", MANIFEST),
    "other files": (damaged_manifest(resealed), ValueError, "must name files of the store; got '../a.npy'", MANIFEST),
    "cut": (cut, ValueError, "must have 2000 bytes; got 1999", "codes-"),
    "lost": (lose, FileNotFoundError, "a file of the store is missing", "labels-"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), FileNotFoundError, "is no store, there is no manifest.json", "s:"),
    "no folder": (shutil.rmtree, FileNotFoundError, "is no store, there is no manifest.json", "s:"),
}


@pytest.fixture
def small(rng, put, tmp_path):
    """A store of 200 rows of 10 features."""
    path = put("a.npy", rng.normal(size=(200, 11)))
    return lp.write_store(path, tmp_path / "s")


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused(what, small):
    damage, exception, message, name = DAMAGE[what]
    damage(small.path)
    with pytest.raises(exception) as caught:
        lp.open_store(small.path)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "write" in str(caught.value) or "make" in str(caught.value)  # what to do


def test_only_verifying_reads_the_data(small):
    edit("codes", 7)(small.path)
    found = lp.open_store(small.path, verify=False)
    with pytest.raises(ValueError, match="got other bytes between 0 and 2000"):
        found.verify()


def test_the_damaged_block_is_named(rng, put, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHECKED_BYTES", 512)
    s = lp.write_store(put("a.npy", rng.normal(size=(200, 11))), tmp_path / "s", rows_per_block=17)
    lp.open_store(s.path)
    assert [len(entry["crc32"]) for entry in s.manifest["files"].values()] == [4, 4]
    edit("codes", 1024)(s.path)
    with pytest.raises(ValueError, match="got other bytes between 1024 and 1536"):
        lp.open_store(s.path)


def test_an_index_outside_of_the_shape_is_refused_whatever_its_checksum(put, tmp_path):
    pytest.importorskip("sklearn")
    s = lp.write_store(put("a.svm", b"1 1:1 5:1\n"), tmp_path / "s")
    manifest = json.loads((s.path / MANIFEST).read_text())
    manifest["shape"][1] = 4
    (s.path / MANIFEST).write_text(json.dumps(store.sealed(manifest)))
    with pytest.raises(ValueError, match=r"stay within \[0, 4\); fails in row 0"):
        lp.open_store(s.path)


# ---- whoever is killed ---------------------------------------------------------------------------------------------


def forked(work, kill_after=None):
    """Run `work` in a child process, which may be killed; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


class Replacement:
    """A store, another input to replace it by, and what should come out."""

    def __init__(self, folder, old, new, **how):
        self.out, self.new, self.how = folder / "s", new, how
        lp.write_store(old, folder / "old")
        lp.write_store(new, folder / "new", **how)
        self.before, self.after = files_of(folder / "old"), files_of(folder / "new")

    def reset(self, *, empty):
        shutil.rmtree(self.out, ignore_errors=True)
        if not empty:
            shutil.copytree(self.out.parent / "old", self.out)

    def write(self, *, resume=False):
        lp.write_store(self.new, self.out, resume=resume, **self.how)

    def check(self, *, empty):
        """The old store or the new one is there, and resuming ends in the new one, to the byte. Returns whether it was there."""
        found = None
        if not empty or (self.out / MANIFEST).exists():
            found = lp.open_store(self.out).manifest
            assert found["checksum"] in {json.loads(files[MANIFEST])["checksum"] for files in (self.before, self.after)}
            assert not (empty and found["shape"] == json.loads(self.before[MANIFEST])["shape"])
        self.write(resume=True)
        assert files_of(self.out) == self.after
        return found is not None and found["checksum"] == json.loads(self.after[MANIFEST])["checksum"]


@pytest.fixture
def replacement(rng, put, tmp_path, monkeypatch):
    """Dense by sparse, blocks of a few rows, a journal after each."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(store_writer, "_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and against the loss of power, not of the process
    return Replacement(tmp_path, put("a.npy", rng.normal(size=(50, 4))), put("a.svm.gz", gzip.compress(svmlight(rng, rows=24))),
                       fmt="4", rows_per_block=9)  # fmt: skip


@linux
@pytest.mark.parametrize("empty", [True, False])
def test_killed_before_any_step(empty, replacement):
    """The process ends at its k-th call that changes a file or a folder, for every k (every third where nothing is replaced)."""
    names = ["fsync", "replace", "unlink", "mkdir", "rmdir", "ftruncate"]

    def work(k):
        left = [k]

        def counted(call):
            def wrapper(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return call(*args, **kwargs)

            return wrapper

        for name in names:
            setattr(os, name, counted(getattr(os, name)))
        write = store.Growing.write
        store.Growing.write = counted(write)
        replacement.write()

    seen = []
    for k in range(0, 1000, 3 if empty else 1):
        replacement.reset(empty=empty)
        ended = forked(lambda k=k: work(k))
        seen.append(replacement.check(empty=empty))
        if ended:
            break
    assert k > 30
    assert seen == sorted(seen)  # once the new store is there, it stays
    assert not seen[0]
    assert seen[-2]


@linux
def test_random_kills(replacement):
    """`LOWPREC_KILLS` kills at random moments, with an old store to be replaced and without, and again while resuming."""
    rng = random.Random(SEED)
    replacement.reset(empty=False)
    begin = time.perf_counter()
    assert forked(replacement.write)
    took = time.perf_counter() - begin
    killed = 0
    for k in range(4 * KILLS):
        empty = k % 2 == 0
        replacement.reset(empty=empty)
        killed += not forked(replacement.write, kill_after=rng.uniform(0.0, took))
        if k % 3 == 0:
            killed += not forked(lambda: replacement.write(resume=True), kill_after=rng.uniform(0.0, took / 2))
        replacement.check(empty=empty)
        if killed >= KILLS:
            break
    assert killed >= KILLS, f"{killed} of {k + 1} runs were killed before they ended, each of {took:.3f} s"


def test_resuming_goes_on_and_does_not_begin_again(replacement, monkeypatch):
    replacement.reset(empty=True)
    blocks = streaming._Svmlight.blocks
    starts = []

    def broken(self, position=None):
        starts.append(position and position["row"])
        for k, block in enumerate(blocks(self, position)):
            if len(starts) == 2 and k == 2:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(streaming._Svmlight, "blocks", broken)
    with pytest.raises(KeyboardInterrupt):
        replacement.write()
    with pytest.raises(FileNotFoundError, match=r"s: the store is unfinished.*--resume"):
        lp.open_store(replacement.out)
    replacement.write(resume=True)
    assert starts == [None, None, 18]
    assert files_of(replacement.out) == replacement.after


def test_resuming_with_another_input_is_refused(replacement, monkeypatch):
    replacement.reset(empty=False)
    monkeypatch.setattr(store_writer._Writing, "_commit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replacement.write()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"journal.json: must be of the same input .*fmt was '4', is '8'; leave out resume"):
        lp.write_store(replacement.new, replacement.out, fmt="8", resume=True)
    content = gzip.decompress(replacement.new.read_bytes())
    replacement.new.write_bytes(gzip.compress(content.replace(b"0.5", b"0.7")))
    with pytest.raises(ValueError, match=r"journal.json: must be of the same input .*ends was"):
        replacement.write(resume=True)
    assert files_of(replacement.out / UNFINISHED)  # left for the input that it is of
    assert lp.open_store(replacement.out).shape == (50, 3)
    replacement.write()
    assert lp.open_store(replacement.out).shape[0] == 24


def test_a_store_that_is_open_stays_when_it_is_replaced(replacement):
    replacement.reset(empty=False)
    s = lp.open_store(replacement.out)
    codes = s.X.codes.copy()
    replacement.write()
    np.testing.assert_array_equal(s.X.codes, codes)


def test_two_writers_do_not_mix(small, put):
    def progress(*_):
        with pytest.raises(ValueError, match="out: another process is writing this store"):
            lp.write_store(path, small.path)

    path = put("b.npy", np.eye(4))
    assert lp.write_store(path, small.path, progress=progress).shape == (4, 3)


@linux
def test_a_full_disk_leaves_the_old_store(replacement):
    import resource

    replacement.reset(empty=False)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        with pytest.raises(OSError, match="s: File too large; what was there before is unchanged; resume=True") as caught:
            replacement.write()
        assert caught.value.errno == errno.EFBIG

    assert forked(work)
    assert not replacement.check(empty=False)


def test_an_input_that_is_bad_leaves_the_old_store(small, put):
    before = files_of(small.path)
    with pytest.raises(ValueError, match="row 1: every value must be finite"):
        lp.write_store(put("b.npy", np.array([[1.0, 2], [np.nan, 4]])), small.path)
    assert files_of(small.path) == before


def test_replace_leaves_the_old_file_where_writing_fails(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(f):
        f.write(b"new")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        atomic.replace(path, full)
    assert files_of(tmp_path) == {"a": b"old"}


# ---- the commands --------------------------------------------------------------------------------------------------


def command(capsys, *args):
    """Status, stdout and stderr of a command."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from lowprec.cli import main

    capsys.readouterr()
    status = main(list(map(str, args)))
    return status, *capsys.readouterr()


def test_a_store_is_made_checked_and_trained_on(capsys, rng, put, tmp_path):
    X = rng.normal(size=(500, 20))
    y = np.where(X @ rng.normal(size=20) > 0, 3, 1)
    path, out = put("a.npy", np.column_stack([X, y])), tmp_path / "s"
    status, shown, err = command(capsys, "quantize", path, out, "--scale", "feature", "--format", "16")
    assert status == 0, err
    assert "500 examples of 20 features" in " ".join(shown.split())
    assert "D16, 16-bit fixed point" in shown
    assert max(map(len, shown.splitlines())) <= 100 + len(str(out)) * 2
    assert command(capsys, "quantize", "--check", out)[0] == 0
    before = files_of(out)
    status, shown, err = command(capsys, "train", out, "--epochs", "10", "--out", tmp_path / "results")
    assert status == 0, err
    assert "s: a model of 20 features; 400 examples, 100 held out" in shown
    row = json.loads((tmp_path / "results" / "train.json").read_text())["rows"][0]
    assert (row["signature"], row["n_train"], row["n_test"], row["epochs"], row["n_models"]) == ("D16M16", 400, 100, 10, 1)
    assert row["score"] > 0.9
    assert files_of(out) == before
    edit("codes", 3)(out)
    assert "must be as it was written" in command(capsys, "quantize", "--check", out)[2]
    assert "must be as it was written" in command(capsys, "train", out)[2]


@pytest.mark.parametrize("fmt", ["4", "8"])
def test_several_classes_of_words_and_sparse_rows(fmt, capsys, rng, put, tmp_path):
    pytest.importorskip("sklearn")
    X = rng.random((300, 6))
    lines = [",".join([*map(repr, row), f"c{row.index(max(row))}"]) for row in X.tolist()]
    path, out = put("a.csv", "\n".join(lines).encode()), tmp_path / "s"
    assert command(capsys, "quantize", path, out, "--format", fmt)[0] == 0
    status, shown, err = command(capsys, "train", out, "--epochs", "30", "--step-size", "0.1")
    assert status == 0, err
    assert "s: 6 models, one a class, of 6 features; 240 examples, 60 held out" in shown
    line = next(line for line in shown.splitlines() if "lowprec D" in line)
    assert float(line.split()[2]) > 0.5  # of six classes
    text = "\n".join(f"{1 if row[0] > row[1] else -1} 1:{row[0]:.4f} 2:{row[1]:.4f} 200:1" for row in X)
    assert command(capsys, "quantize", put("a.svm", text.encode()), out, "--format", fmt)[0] == 0
    status, shown, err = command(capsys, "train", out, "--epochs", "30", "--step-size", "0.1")
    assert status == 0, err
    line = next(line for line in shown.splitlines() if f"lowprec D{fmt}i8M8" in line)
    assert float(line.split()[2]) > 0.8


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (["quantize"], "IN"),
        (["quantize", "a.npy"], "OUT"),
        (["quantize", "absent.csv", "s"], "absent.csv: no such file"),
        (["quantize", "a.npy", "s", "--format", "5"], "fmt: choose one of {4, 8, 16, 32f}"),
        (["quantize", "a.npy", "s", "--scale", "column"], "scale: choose one of {feature}"),
        (["quantize", "a.npy", "s", "--index", "8"], "index: only for sparse data"),
        (["quantize", "a.npy", "s", "--check", "s"], "--check: takes the store alone"),
        (["quantize", "--check", "absent"], "absent: is no store"),
        (["train", "store", "--target", "1"], "--target: is for files"),
        (["train", "store", "--scale", "none"], "--scale: is for files"),
        (["train", "store", "--signature", "D16M8"], "X: the signature asks for data of format 16"),
        (["train", "store", "--test-size", "0.001"], "test-size: must leave rows"),
    ],
)
def test_commands_that_are_refused(args, fragment, capsys, small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    small.path.rename("store")
    status, _, err = command(capsys, *args)
    assert status == 2
    assert len(err.strip().splitlines()) <= 4  # with what was begun before
    assert fragment in err
    assert not os.path.exists("s")


def test_slices_of_packed_sparse_rows_begin_anywhere(rng, put, tmp_path):
    pytest.importorskip("sklearn")
    s = lp.write_store(put("a.svm", svmlight(rng)), tmp_path / "s", fmt="4")
    codes, indptr = s.X.unpacked(), s.X.indptr
    for first in range(40):
        for last in (first + 1, first + 2, 40):
            if last <= 40:
                np.testing.assert_array_equal(s.X[first:last].unpacked(), codes[indptr[first] : indptr[last]])
