"""SparseArray: from scipy.sparse and back, what is stored, what is refused; dot and axpy on it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import reference as R

import lowprec as lp
from lowprec.datasets import load

sp = pytest.importorskip("scipy.sparse")

FORMATS = ("4", "8", "16", "32f")
WIDTHS = ("8", "16", "32")


def random_csr(rng, rows=57, n=1000, density=0.05, dtype=np.float32):
    """CSR without small numbers, so that no code is zero; some rows empty."""
    a = sp.random_array((rows, n), density=density, rng=rng, format="csr", dtype=np.float64)
    a.data = rng.choice([-1.0, 1.0], a.nnz) * rng.uniform(0.2, 1.0, a.nnz)
    a = sp.csr_array(a * (rng.random(rows) < 0.9)[:, np.newaxis]).astype(dtype)
    a.eliminate_zeros()
    return a


def same(a, b):
    """Whether two CSR arrays have the same numbers at the same places, explicit zeros included."""
    return (a.shape == b.shape and np.array_equal(a.indptr, b.indptr) and np.array_equal(a.indices, b.indices)
            and np.array_equal(a.data, b.data))  # fmt: skip


# ---- there and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [*WIDTHS, None])
@pytest.mark.parametrize("fmt", FORMATS)
def test_there_and_back(fmt, index, rng):
    for n, density in ((1, 1.0), (7, 0.5), (255, 0.1), (256, 0.1), (257, 0.1), (5000, 0.01), (65_536, 1e-3), (65_537, 1e-3),
                       (2**20, 1e-5)):  # fmt: skip
        a = random_csr(rng, n=n, density=density)
        q = lp.quantize(a, fmt, index=index, rounding="nearest")
        flat = lp.quantize(a.data, fmt, rounding="nearest")  # the values, as one dense row
        expected = sp.csr_array((lp.dequantize(flat), a.indices, a.indptr), shape=a.shape)
        back = lp.dequantize(q)
        assert same(back, expected), n
        assert back.has_canonical_format
        assert (q.nnz, q.scale, q.shape, q.clipped) == (a.nnz, flat.scale, a.shape, flat.clipped)
        assert lp.dequantize(q, np.float64).dtype == np.float64
        if fmt == "32f":
            assert same(back, a)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_index_is_that_of_the_oracle(bits, rng):
    a = random_csr(rng, n=300_000 if bits == 16 else 3000, density=3e-5 if bits == 16 else 3e-3, rows=200)
    q = lp.quantize(a, "16", index=bits, rounding="nearest")
    assert q.differences
    codes = lp.quantize(a.data, "16", rounding="nearest").codes
    fillers = 0
    for i in range(a.shape[0]):
        part = slice(a.indptr[i], a.indptr[i + 1])
        index, row = R.sparse_encode(a.indices[part].tolist(), codes[part].tolist(), bits, True)
        got_codes, got_index = q.row(i)
        assert got_index.tolist() == index
        assert got_codes.tolist() == row
        assert q.columns()[q.indptr[i] : q.indptr[i + 1]].tolist() == R.sparse_positions(index, True)
        fillers += len(index) - (part.stop - part.start)
    assert q.stored - q.nnz == fillers > 0


@pytest.mark.parametrize("gap", [1, 2, 254, 255, 256, 257, 509, 510, 511, 512, 65_534, 65_535, 65_536, 131_070, 131_071])
def test_every_kind_of_gap(gap):
    columns = np.array([0, gap, 2 * gap], np.int64)
    for first in (0, gap - 1):
        a = sp.csr_array((np.ones(3, np.float32), columns + first, [0, 3]), shape=(1, 400_000))
        for index in ("8", "16"):
            q = lp.quantize(a, "8", index=index, rounding="nearest")
            assert lp.dequantize(q).indices.tolist() == a.indices.tolist()
            top = 2 ** int(index) - 1
            assert q.stored == 3 + first // top + 2 * ((gap - 1) // top)


def test_columns_or_differences(rng):
    for n, absolute in ((256, {"8", "16", "32"}), (257, {"16", "32"}), (65_536, {"16", "32"}), (65_537, {"32"})):
        a = random_csr(rng, n=n, density=0.02)
        for index in WIDTHS:
            q = lp.quantize(a, "8", index=index)
            assert q.differences == (index not in absolute), (n, index)
            assert q.index.dtype == np.dtype(f"u{int(index) // 8}")
            assert str(q.index_format) == index


def test_the_narrowest_index(rng):
    for n, density, fmt in ((200, 0.1, "8"), (5000, 0.03, "8"), (5000, 1e-3, "8"), (60_000, 1e-3, "4"), (10**6, 1e-5, "32f"),
                            (10**6, 0.03, "4")):  # fmt: skip
        a = random_csr(rng, n=n, density=density, rows=40)
        sizes = {int(i): q.codes.nbytes + q.index.nbytes for i in WIDTHS for q in [lp.quantize(a, fmt, index=i)]}
        chosen = lp.quantize(a, fmt)
        best = min(sizes.values())
        # 4-bit codes: that the rows start on bytes is not counted when the width is chosen
        assert chosen.codes.nbytes + chosen.index.nbytes <= best + (40 if fmt == "4" else 0)
        assert chosen.index_format.bits == next(i for i in sizes if sizes[i] <= best + (40 if fmt == "4" else 0))


def test_explicit_zeros(rng):
    a = random_csr(rng, n=700)
    a.data[::3] = 0.0
    q = lp.quantize(a, "8", index=16, rounding="nearest")
    assert q.nnz == a.nnz  # columns: a zero is an entry like others
    assert same(lp.dequantize(q), sp.csr_array((lp.dequantize(lp.quantize(a.data, "8", rounding="nearest")), a.indices, a.indptr),
                                               shape=a.shape))  # fmt: skip
    # at the largest difference it looks like a filler; the numbers are the same
    a = sp.csr_array((np.array([1.0, 0.0, 2.0], np.float32), [0, 255, 300], [0, 3]), shape=(1, 1000))
    q = lp.quantize(a, "8", index=8, rounding="nearest")
    assert (q.stored, q.nnz) == (3, 2)
    assert lp.dequantize(q).indices.tolist() == [0, 300]


def test_stochastic_rounding_and_scale(rng):
    a = random_csr(rng)
    q = lp.quantize(a, "8", scale=0.1, seed=7)
    flat = lp.quantize(a.data, "8", scale=0.1, seed=7)
    assert q.codes.tolist() == flat.codes.tolist()
    assert q.codes.tolist() != lp.quantize(a, "8", scale=0.1, seed=8).codes.tolist()
    q = lp.quantize(a, "4", scale=0.01, index=32)
    assert q.clipped == np.count_nonzero(np.abs(a.data) > 0.0701)
    assert q.scale == 0.01


# ---- what comes in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix", "csc_array", "csc_matrix", "coo_array", "coo_matrix", "lil_array"])
def test_kinds_of_sparse_data(kind, rng):
    a = random_csr(rng)
    expected = lp.quantize(a, "8", rounding="nearest")
    q = lp.quantize(getattr(sp, kind)(a), "8", rounding="nearest")
    assert isinstance(q, lp.SparseArray)
    assert same(lp.dequantize(q), lp.dequantize(expected))


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.uint8, np.int32, np.int64, bool])
def test_types_of_data(dtype, rng):
    a = random_csr(rng)
    a = (a * 100).astype(dtype)
    q = lp.quantize(a, "16", scale=1.0, rounding="nearest")
    assert q.unpacked().tolist() == lp.quantize(a.data, "16", scale=1.0, rounding="nearest").codes.tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_types_of_column_numbers(dtype, rng):
    a = random_csr(rng, n=100, density=0.2)
    expected = lp.quantize(a, "8", rounding="nearest")
    a.indices = a.indices.astype(dtype)
    a.indptr = a.indptr.astype(np.int64)
    q = lp.quantize(a, "8", rounding="nearest")
    assert (q.index == expected.index).all()
    assert (q.indptr == expected.indptr).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8])
def test_unsorted_rows_and_duplicates(dtype, rng):
    indptr = np.array([0, 4, 4, 7])
    columns = np.array([3, 1, 3, 0, 5, 5, 5], np.int32)
    values = np.array([100, 2, 100, 4, 60, 60, 60]).astype(dtype)
    a = sp.csr_array((values, columns, indptr), shape=(3, 6))
    before = values.copy(), columns.copy(), a.indptr.copy()
    back = lp.dequantize(lp.quantize(a, "16", scale=1.0, rounding="nearest"))
    assert back.toarray().tolist() == [[4, 2, 0, 200, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 180]]
    assert (a.data == before[0]).all()
    assert (a.indices == before[1]).all()
    assert (a.indptr == before[2]).all()


def test_rows_of_nothing():
    for shape in ((1, 1), (3, 5), (4, 10**6)):
        for fmt in FORMATS:
            q = lp.quantize(sp.csr_array(shape, dtype=np.float32), fmt)
            assert (q.nnz, q.stored, q.scale, q.shape) == (0, 0, 1.0, shape)
            assert lp.dequantize(q).nnz == 0
            assert q.bytes_per_nonzero == float("inf")
            assert "nnz=0" in repr(q)
            w = lp.from_codes(np.ones(shape[1], np.int8), "8")
            assert lp.dot(q, w).tolist() == [0.0] * shape[0]


def bad(**changes):
    parts = {"data": np.ones(5, np.float32), "indices": np.array([1, 3, 0, 2, 4]), "indptr": np.array([0, 2, 2, 5])} | changes
    a = sp.csr_array((3, 6), dtype=parts["data"].dtype)
    a.data, a.indices, a.indptr = parts["data"], parts["indices"], parts["indptr"]
    return a


def one(value, at):
    values = np.ones(5, np.float32)
    values[at] = value
    return values


@pytest.mark.parametrize(
    ("changes", "error", "fragment"),
    [
        ({"indices": np.array([1, 3, 0, 2, 6])}, ValueError, r"a: column numbers must lie in \[0, 6\); got 6 in row 2"),
        ({"indices": np.array([1, 3, 0, -2, 5])}, ValueError, r"a: column numbers must lie in \[0, 6\); got -2 in row 2"),
        ({"indices": np.array([-1, 3, 0, 2, 5])}, ValueError, r"got -1 in row 0"),
        ({"indices": np.array([3, 1, 0, 2, 9])}, ValueError, r"got 9 in row 2"),  # the unsorted row before is no fault
        ({"indices": np.array([1, 3, 0, 2, 2**64 - 1], np.uint64)}, ValueError, "in row 2"),
        ({"indices": np.array([1.0, 3, 0, 2, 4])}, TypeError, "column numbers: expected integers; got an array of float64"),
        ({"data": one(np.nan, 3)}, ValueError, "a: every value must be finite; got nan in row 2, column 2"),
        ({"data": one(np.inf, 0)}, ValueError, "a: every value must be finite; got inf in row 0, column 1"),
        ({"data": one(np.float32(1), 0).astype(complex)}, TypeError, "a: expected float16, float32"),
        ({"indptr": np.array([0, 3, 2, 5])}, ValueError, "not CSR; indptr must rise from 0, 4 numbers for 3 rows"),
        ({"indptr": np.array([1, 2, 2, 5])}, ValueError, "not CSR; indptr must rise from 0"),
        ({"indptr": np.array([0, 2, 2, 6])}, ValueError, "not CSR; indptr ends with 6, there are 5 entries"),
    ],
)
@pytest.mark.parametrize("fmt", ["8", "32f"])
def test_bad_data(changes, error, fragment, fmt):
    with pytest.raises(error, match=fragment):
        lp.quantize(bad(**changes), fmt)


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"index": 64}, ValueError, r"index: choose one of \{8, 16, 32\}; got 64"),
        ({"index": "8f"}, ValueError, "index: choose one of"),
        ({"index": 8.0}, TypeError, r"index: expected one of \{8, 16, 32\}, or None"),
        ({"index": True}, TypeError, "index: expected one of"),
        ({"scale": "feature"}, ValueError, "scale: sparse data have one scale for all columns; got 'feature'"),
        ({"scale": np.ones(6)}, ValueError, "scale: sparse data have one scale"),
        ({"scale": -1.0}, ValueError, "scale: must be finite and positive"),
        ({"rounding": "up"}, ValueError, "rounding: choose one of"),
        ({"out": lp.from_codes([1], "8")}, ValueError, "out: sparse data always make a new array"),
    ],
)
def test_bad_options(options, error, fragment):
    with pytest.raises(error, match=fragment):
        lp.quantize(bad(), "8", **options)


def test_dense_data_have_no_index():
    with pytest.raises(ValueError, match="index: only sparse data have one; got '8' for dense data"):
        lp.quantize(np.ones(4), "8", index="8")
    for shape in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="a: must not be empty"):
            lp.quantize(sp.csr_array(shape), "8")


def test_scipy_is_not_imported():
    script = """
        import pickle, sys
        import lowprec as lp
        assert not any(name.split(".")[0] == "scipy" for name in sys.modules)
        import numpy as np
        q = lp.SparseArray(np.array([1, 2], np.int8), np.array([0, 3], np.uint8), np.array([0, 1, 2]), "8", 0.5, (2, 4),
                           differences=False)
        w = lp.from_codes(np.array([1, 2, 3, 4], np.int8), "8")
        assert lp.dot(pickle.loads(pickle.dumps(q)), w).tolist() == [0.5, 4.0]
        assert not any(name.split(".")[0] == "scipy" for name in sys.modules)
        sys.modules["scipy"] = sys.modules["scipy.sparse"] = None
        try:
            lp.dequantize(q)
        except ImportError as error:
            assert "needs scipy, which is not installed: pip install 'lowprec[learn]'" in str(error), error
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# ---- the array ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", WIDTHS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_rows_and_slices(fmt, index, rng):
    a = random_csr(rng, n=900, density=0.02)
    q = lp.quantize(a, fmt, index=index, rounding="nearest")
    whole = lp.dequantize(q)
    assert len(q) == 57
    for key in (slice(0, 57), slice(1, 2), slice(3, 40), slice(-5, None), slice(8)):
        part = q[key]
        assert same(lp.dequantize(part), whole[key])
        assert (part.format, part.scale, part.differences) == (q.format, q.scale, q.differences)
        lp.SparseArray(part.codes, part.index, part.indptr, part.format, part.scale, part.shape, differences=part.differences)
        if fmt != "4":
            assert np.shares_memory(part.codes, q.codes) or part.stored == 0
    for i in (0, 5, 56, -1):
        row = q[i]
        assert (row.shape, row.ndim) == ((900,), 1)
        assert same(lp.dequantize(row), whole[[i]])
        with pytest.raises(TypeError, match="a one-dimensional array has none"):
            row[0]
    for key, error, fragment in ((slice(0, 9, 2), ValueError, "got step 2"), (slice(9, 9), ValueError, "selects none"),
                                 (57, IndexError, "row 57 is out of range"), (-58, IndexError, "out of range"),
                                 ("x", TypeError, "expected an integer or a slice")):  # fmt: skip
        with pytest.raises(error, match=fragment):
            q[key]


@pytest.mark.parametrize("fmt", FORMATS)
def test_take(fmt, rng):
    a = random_csr(rng, n=900, density=0.02)
    q = lp.quantize(a, fmt, index=8, rounding="nearest")
    rows = rng.integers(0, 57, 80)
    assert same(lp.dequantize(q.take(rows)), lp.dequantize(q)[rows])


@pytest.mark.parametrize("fmt", FORMATS)
def test_pickling(fmt, rng):
    q = lp.quantize(random_csr(rng), fmt, scale=0.05, index=8)
    other = pickle.loads(pickle.dumps(q))
    assert same(lp.dequantize(other), lp.dequantize(q))
    assert repr(other) == repr(q)
    assert other.clipped == q.clipped


def test_what_it_shows(rng):
    a = random_csr(rng, rows=500, n=5000, density=0.03)
    q = lp.quantize(a, "8")
    assert q.nbytes == q.codes.nbytes + q.index.nbytes + q.indptr.nbytes
    assert q.bytes_per_nonzero == q.nbytes / a.nnz
    theirs = (a.data.nbytes + a.indices.astype(np.int32).nbytes + a.indptr.astype(np.int32).nbytes) / a.nnz
    shown = repr(q)
    assert shown.startswith(f"SparseArray(shape=(500, 5000), format='8', index='8' (differences), scale={q.scale!r}, nnz={a.nnz}")
    assert f"fillers={q.stored - a.nnz}" in shown
    assert shown.endswith(f"{q.bytes_per_nonzero:.2f} bytes a nonzero, float32 CSR {theirs:.2f})")
    assert q.bytes_per_nonzero < 2.2 < 7.9 < theirs


PARTS = {"codes": np.array([1, 2, 3], np.int8), "index": np.array([1, 3, 0], np.uint8), "indptr": np.array([0, 2, 3]), "fmt": "8",
         "scale": 1.0, "shape": (2, 4), "differences": False}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "fragment"),
    [
        ({"codes": np.array([1, 2], np.int8)}, ValueError, "codes: 3 entries of format 8 in 2 rows take 3; got 2"),
        ({"codes": np.array([1, 2, 3])}, TypeError, "codes: expected an array of int8"),
        ({"fmt": "4", "codes": np.zeros(3, np.uint8)}, ValueError, "codes: 3 entries of format 4 in 2 rows take 2; got 3"),
        ({"index": np.array([1, 3, 4], np.uint8)}, ValueError, r"column numbers must rise, .* within \[0, 4\); fails in row 1"),
        ({"index": np.array([3, 1, 0], np.uint8)}, ValueError, "fails in row 0"),
        ({"index": np.array([1, 1, 0], np.uint8)}, ValueError, "fails in row 0"),
        ({"differences": True}, ValueError, "every difference must be at least 1, .* fails in row 1"),
        ({"index": np.array([1, 3, 0], np.int16)}, TypeError, "index: expected an array of uint8 or uint16 or uint32"),
        ({"index": np.zeros(6, np.uint8)[::2]}, ValueError, "index: must be one-dimensional, contiguous"),
        ({"indptr": np.array([0, 2])}, ValueError, r"indptr: must have 3 numbers for shape \(2, 4\), the first of them 0"),
        ({"indptr": np.array([1, 2, 3])}, ValueError, "the first of them 0"),
        ({"indptr": np.array([0, 2, 2])}, ValueError, "indptr: must end with the number of stored entries, 3; got 2"),
        ({"indptr": np.array([0, 4, 3])}, ValueError, "fails in row 0"),
        ({"indptr": np.array([0, 2, 3], np.int32)}, TypeError, "indptr: expected an array of int64"),
        ({"shape": (2, 4, 1)}, ValueError, r"shape: must be \(n,\) or \(rows, n\)"),
        ({"shape": (2, 0)}, ValueError, "shape: must not be empty"),
        ({"scale": 0.0}, ValueError, "scale: must be finite and positive"),
        ({"fmt": "7"}, ValueError, "fmt: choose one of"),
        ({"differences": 1}, TypeError, "differences: expected True or False"),
    ],
)
def test_bad_parts(changes, error, fragment):
    lp.SparseArray(**PARTS)
    with pytest.raises(error, match=fragment):
        lp.SparseArray(**PARTS | changes)


# ---- dot and axpy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", WIDTHS)
@pytest.mark.parametrize("M", FORMATS)
@pytest.mark.parametrize("D", FORMATS)
def test_dot(D, M, index, rng):
    a = random_csr(rng, n=1500, density=0.02)
    q = lp.quantize(a, D, index=index)
    w = lp.quantize(rng.standard_normal(1500), M)
    z = lp.dot(q, w)
    if "32f" in (D, M):
        expected = lp.dequantize(q, np.float64) @ lp.dequantize(w, np.float64)
        np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-5)
    else:
        codes = sp.csr_array((q.unpacked().astype(np.int64), q.columns(), q.indptr), shape=a.shape)
        assert z.tolist() == ((codes @ w.unpacked().astype(np.int64)).astype(np.float64) * (q.scale * w.scale)).tolist()
    assert z.dtype == np.float64
    for i in (0, 13):
        assert lp.dot(q[i], w) == z[i]


@pytest.mark.parametrize("random", ["shared", "xorshift", "mt19937"])
@pytest.mark.parametrize("M", FORMATS)
@pytest.mark.parametrize("D", FORMATS)
def test_axpy(D, M, random, rng):
    # the entries as a dense row, on the weights at their places
    a = sp.random_array((1, 1500), density=0.05, rng=rng, format="csr", dtype=np.float32)
    a.data -= 0.5
    q = lp.quantize(a, D, index=8)[0]
    w = lp.quantize(rng.standard_normal(1500), M)
    before = w.unpacked()
    at = q.columns()
    codes = q.unpacked()
    dense = lp.from_codes(codes if D in ("4", "32f") else lp.pack(codes, D), D, q.scale)
    part = before[at]
    part = lp.from_codes(part if M in ("4", "32f") else lp.pack(part, M), M, w.scale)
    for rounding in ("stochastic", "nearest"):
        lp.axpy(0.3, q, w, rounding=rounding, random=random, seed=5)
        lp.axpy(0.3, dense, part, rounding=rounding, random=random, seed=5)
    expected = before.copy()
    expected[at] = part.unpacked()
    assert w.unpacked().tobytes() == expected.tobytes()
    assert (w.unpacked() != before).any()


def test_operands_that_do_not_fit(rng):
    q = lp.quantize(random_csr(rng), "8")
    w = lp.quantize(rng.standard_normal(999), "8")
    with pytest.raises(ValueError, match="q and w must have as many features"):
        lp.dot(q, w)
    with pytest.raises(ValueError, match="axpy: q: must be one-dimensional"):
        lp.axpy(1.0, q, w)
    with pytest.raises(TypeError, match="dot: w: expected a QuantizedArray"):
        lp.dot(q, q)
    spoiled = lp.quantize(random_csr(rng, rows=4, density=0.5), "32f")
    spoiled.codes[spoiled.indptr[2]] = np.nan
    w = lp.quantize(rng.standard_normal(1000), "8")
    with pytest.raises(ValueError, match="row 2"):
        lp.dot(spoiled, w)
    with pytest.raises(ValueError, match="axpy: q: every value must be finite; got nan"):
        lp.axpy(1.0, spoiled[2], w)


# ---- data files ---------------------------------------------------------------------------------------------


def test_svmlight_without_making_it_dense(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "a.svm"
    path.write_text("1 1:0.5 3:-2\n-1\n1 2000000000:4\n")
    X, y = load(path, sparse=True)  # 24 GB when dense
    assert X.shape == (3, 2_000_000_000)
    assert X.dtype == np.float32
    assert y.tolist() == [1, -1, 1]
    q = lp.quantize(X, "8", rounding="nearest")
    assert lp.dequantize(q).indices.tolist() == [0, 2, 1_999_999_999]
    path = tmp_path / "a.csv"
    path.write_text("1,2,0\n3,4,1\n")
    with pytest.raises(ValueError, match="sparse: only svmlight files hold sparse data"):
        load(path, sparse=True)
    with pytest.raises(TypeError, match="sparse: expected True or False"):
        load(path, sparse="yes")


@pytest.mark.skipif("LOWPREC_DATA" not in os.environ, reason="LOWPREC_DATA names no folder of data sets")
def test_news20():
    X, _ = load(Path(os.environ["LOWPREC_DATA"]) / "svmlight" / "news20.bz2", sparse=True)
    assert X.shape == (15_935, 62_061)
    w = lp.quantize(np.random.default_rng(0).standard_normal(62_061), "16")
    products = []
    for index in WIDTHS:
        assert same(lp.dequantize(lp.quantize(X, "32f", index=index)), X)
        products.append(lp.dot(lp.quantize(X, "16", index=index, rounding="nearest"), w).tolist())
    assert products[0] == products[1] == products[2]
    assert lp.quantize(X, "8").bytes_per_nonzero < 3.2
