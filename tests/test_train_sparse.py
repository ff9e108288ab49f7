"""lp.train on sparse data: what dense data would have given, whatever the index; and what users see of it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import lowprec as lp
from lowprec.linear_model import LowPrecisionSGDClassifier

PAIRS = [(D, M) for D in ("4", "8", "16") for M in ("4", "8", "16")]


def problem(rng, rows=300, n=700, density=0.05, empty=7):
    """CSR of float32, some rows empty, and labels of a sparse logistic model."""
    X = sp.random_array((rows, n), density=density, rng=rng, format="csr", dtype=np.float32)
    X.data[:] = rng.uniform(-1, 1, X.nnz)
    X = sp.csr_array(sp.vstack([X, sp.csr_array((empty, n), dtype=np.float32)]))[rng.permutation(rows + empty)]
    w = rng.standard_normal(n)
    return X, (rng.random(rows + empty) < 1 / (1 + np.exp(-(X @ w)))).astype(int)


@pytest.mark.parametrize("index", ["8", "16", "32"])
@pytest.mark.parametrize(("D", "M"), PAIRS)
def test_the_model_of_dense_data(D, M, index, rng):
    # Rounded to nearest, an entry of zero changes nothing, and the products are exact: the same bits.
    X, y = problem(rng)
    options = {
        "step_size": 5.0 if M == "4" else 0.4, "epochs": 3, "rounding": "nearest", "n_threads": 1, "fit_intercept": True,
        "model_scale": 8.0 / lp.Format(int(M), False).max_code, "shuffle": True, "history": True,
    }  # fmt: skip
    sparse = lp.train(X, y, signature=f"D{D}i{index}M{M}", **options)
    dense = lp.train(X.toarray(), y, signature=f"D{D}M{M}", **options)
    assert str(sparse.signature) == f"D{D}i{index}M{M}"
    assert (dense.coef != 0).any()
    assert sparse.widened == dense.widened == 0
    assert sparse.coef.tobytes() == dense.coef.tobytes()
    assert sparse.intercept == dense.intercept
    assert sparse.history == pytest.approx(dense.history, rel=1e-12)


@pytest.mark.parametrize("signature", ["D8{}M8", "D16{}M16", "D8{}M16", "D32f{}M32f", "D32f{}M8", "D8{}M32f"])
def test_the_index_decides_no_bit(signature, rng):
    X, y = problem(rng, density=0.2)  # gaps below 255: no fillers
    results = {}
    for index in ("i8", "i16", "i32", ""):
        r = lp.train(X, y, signature=signature.format(index), step_size=0.3, epochs=2, n_threads=1, seed=4)
        results[index] = r.coef.tobytes()
        if index == "":
            assert str(r.signature) == signature.format("i8")  # the fewest bytes
    assert len(set(results.values())) == 1


def test_it_learns(rng):
    X, y = problem(rng, rows=4000, n=2000, density=0.03)
    losses = {
        signature: lp.train(X, y, signature=signature, step_size=0.3, epochs=6, n_threads=1, history=True).history[-1]
        for signature in ("D32fM32f", "D8M8", "D8M16", "D16M16")
    }
    assert losses["D32fM32f"] < 0.1 * np.log(2)
    # What is left of the loss is far below that of the true model: the rows are fewer than twice the columns.
    assert losses["D8M16"] < 1.2 * losses["D32fM32f"]
    assert losses["D16M16"] < 1.2 * losses["D32fM32f"]
    assert losses["D8M8"] < 1.4 * losses["D32fM32f"]


@pytest.mark.parametrize("options", [{"sync_every": 8}, {"deterministic": True}, {}, {"pin_threads": True}])
def test_threads(options, rng):
    X, y = problem(rng, rows=4000, n=2000, density=0.03)
    arguments = {"signature": "D8M16", "step_size": 0.3, "epochs": 4, "history": True, "model_scale": 2e-4}
    one = lp.train(X, y, n_threads=1, **arguments)
    two = lp.train(X, y, n_threads=2, **arguments, **options)
    # The rows come in another order, and on one shared model some changes are lost (a few per cent: the density).
    start = np.log(2)
    assert start - two.history[-1] > 0.97 * (start - one.history[-1])
    if "deterministic" in options:
        assert lp.train(X, y, n_threads=2, **arguments, **options).coef.tobytes() == two.coef.tobytes()


def test_what_is_already_quantized(rng):
    X, y = problem(rng)
    q = lp.quantize(X, "8", rounding="nearest", index="16")
    a = lp.train(q, y, signature="D8M8", step_size=0.3, n_threads=1)
    b = lp.train(q, y, signature="D8i16M8", step_size=0.3, n_threads=1)
    c = lp.train(X, y, signature="D8i16M8", step_size=0.3, n_threads=1)
    assert str(a.signature) == str(b.signature) == "D8i16M8"
    assert a.coef.tobytes() == b.coef.tobytes() == c.coef.tobytes()
    with pytest.raises(ValueError, match="X: the signature asks for an index of 8 bits; got a SparseArray with 16"):
        lp.train(q, y, signature="D8i8M8", step_size=0.3)
    with pytest.raises(ValueError, match="got a SparseArray of format 8"):
        lp.train(q, y, signature="D16M8", step_size=0.3)
    with pytest.raises(ValueError, match="data_scale: X is a SparseArray"):
        lp.train(q, y, signature="D8M8", step_size=0.3, data_scale=1.0)


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "lil", "matrix", "int64", "unsorted", "duplicates"])
def test_any_layout(layout, rng):
    X, y = problem(rng)
    expected = lp.train(X, y, signature="D8M8", step_size=0.3, n_threads=1).coef.tobytes()
    other = X
    if layout in ("csc", "coo", "lil"):
        other = X.asformat(layout)
    elif layout == "matrix":
        other = sp.csr_matrix(X)
    elif layout == "int64":
        other = sp.csr_array((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape)
    elif layout == "unsorted":
        order = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(X.indptr[:-1], X.indptr[1:], strict=True)])
        other = sp.csr_array((X.data[order], X.indices[order], X.indptr), shape=X.shape)
        assert not other.has_sorted_indices
    elif layout == "duplicates":
        other = sp.csr_array(
            (np.repeat(X.data / 2, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape
        )
    before = [a.copy() for a in (other.data, getattr(other, "indices", np.zeros(1)))] if layout != "lil" else None
    assert lp.train(other, y, signature="D8M8", step_size=0.3, n_threads=1).coef.tobytes() == expected
    if before is not None:  # nothing of the caller's is changed
        assert (other.data == before[0]).all()
        assert (getattr(other, "indices", np.zeros(1)) == before[1]).all()


def test_integers_are_their_own_codes(rng):
    X, y = problem(rng)
    codes = sp.csr_array((rng.integers(-127, 128, X.nnz).astype(np.int8), X.indices, X.indptr), shape=X.shape)
    r = lp.train(codes, y, signature="D8M16", step_size=1e-4, n_threads=1)
    assert r.coef.tobytes() == lp.train(codes, y, signature="D8M16", step_size=1e-4, n_threads=1, data_scale=1.0).coef.tobytes()


def test_no_entry_at_all():
    X = sp.csr_array((5, 9), dtype=np.float32)
    for signature in ("D8M8", "D32fM32f", "D4i32M16"):
        r = lp.train(X, [0, 1, 0, 1, 1], signature=signature, step_size=0.1, n_threads=1, fit_intercept=True, history=True)
        assert not r.coef.any()
        assert np.isfinite(r.history[-1])


def test_gnps_counts_nonzeros(rng):
    X, y = problem(rng, rows=2000)
    r = lp.train(X, y, signature="D8i8M8", step_size=0.1, epochs=2, n_threads=1)
    assert r.gnps * 1e9 * r.seconds == pytest.approx(2 * X.nnz, rel=1e-9)


def test_callbacks_and_stopping(rng):
    X, y = problem(rng)
    told = []
    r = lp.train(X, y, signature="D8M8", step_size=0.1, epochs=9, n_threads=1, callback=lambda info: told.append(info) or True)
    assert len(told) == 1
    assert r.n_examples == told[0].examples


@pytest.mark.parametrize(
    ("change", "options", "fragment"),
    [
        (lambda X: X.data.__setitem__(3, np.nan), {"signature": "D8M8"}, "X: every value must be finite; got nan in row"),
        (lambda X: X.data.__setitem__(3, np.inf), {"signature": "D32fM32f"}, "X: every value must be finite; got inf in row"),
        (lambda X: X.indices.__setitem__(5, X.shape[1]), {}, "column"),
        (lambda X: X.indices.__setitem__(5, -1), {}, "column"),
        (lambda X: None, {"data_scale": "feature"}, "data_scale: sparse data have one scale for all columns"),
        (lambda X: None, {"data_scale": np.ones(700)}, "data_scale: sparse data have one scale for all columns"),
        (lambda X: None, {"signature": "D8i4M8"}, "i4 asks for 4-bit indexes"),
        (lambda X: None, {"batch_size": 16}, "by example, so it must be 1; got 16"),
        (lambda X: None, {"signature": "D8i16M8G8"}, "without a G term; got D8i16M8G8"),
    ],
)
def test_bad_input(change, options, fragment, rng):
    X, y = problem(rng)
    change(X)
    with pytest.raises(ValueError, match=fragment):
        lp.train(X, y, step_size=0.1, **options)


def test_the_classifier_takes_sparse_data(rng):
    X, y = problem(rng, rows=3000, density=0.1)
    options = {"random_state": 0}
    sparse = LowPrecisionSGDClassifier("D8M16", **options).fit(X, y)
    dense = LowPrecisionSGDClassifier("D8M16", **options).fit(X.toarray(), y)
    assert sparse.score(X, y) > 0.9
    assert abs(sparse.score(X, y) - dense.score(X, y)) < 0.02
    assert sparse.bytes_per_example_ < 0.3 * dense.bytes_per_example_
    q = lp.quantize(X, "8", rounding="nearest")
    again = LowPrecisionSGDClassifier("D8M16", **options).fit(q, y)
    assert again.coef_.tobytes() == sparse.coef_.tobytes()
    assert (again.predict(q) == again.predict(lp.dequantize(q))).all()
