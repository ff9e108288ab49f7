"""What the product is measured against: the compiler's sparse loops and the proxies of proposed instructions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import lowprec
from lowprec import kernels, runtime
from lowprec.report import machine

plain = machine.baseline()
pytestmark = pytest.mark.skipif(plain is None, reason="this CPU cannot run the plain C loops of this build")
needs_avx2 = pytest.mark.skipif("avx2" not in dict(kernels._isas()), reason="this build has no avx2")

DTYPES = {"8": np.int8, "16": np.int16, "32f": np.float32}
MAX = {"8": 127, "16": 32767, "32f": 1}
PAIRS = [(D, M) for D in ("8", "16") for M in ("8", "16")] + [("32f", "32f")]


def seeded(seed=3):
    return {
        "lanes": kernels._rng_blocks(seed, 0, 1)[0],
        "mt_state": np.random.RandomState([seed, 1, 2, 3]).get_state()[1],
    }


def sparse_problem(rng, D, M, n, m, index_dtype, density=0.2):
    """Codes and columns of a random sparse matrix, its dense equal, a model, and labels. One row is empty."""
    x = rng.integers(-MAX[D], MAX[D], (m, n), endpoint=True) if D != "32f" else rng.uniform(-1, 1, (m, n))
    dense = np.where(rng.random((m, n)) < density, x, 0).astype(DTYPES[D])
    dense[m // 2] = 0
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))]).astype(np.int64)
    w = rng.integers(-MAX[M], MAX[M], n, endpoint=True).astype(DTYPES[M])
    y = rng.choice(np.array([-1, 1], np.float32), m)
    return dense[rows, columns], (indptr, columns.astype(index_dtype)), dense, w, y


# ---- the compiler's sparse loops -----------------------------------------------------------------------------------


@pytest.mark.parametrize("index_dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize(("D", "M"), PAIRS)
@pytest.mark.parametrize("n", [1, 40, 300])
def test_one_sparse_update_is_the_formula(rng, D, M, n, index_dtype):
    codes, sparse, dense, w, _ = sparse_problem(rng, D, M, n, 1, index_dtype, density=1.1 if n == 1 else 0.4)
    x, before = dense[0].astype(np.float64), w.astype(np.float64)
    if n > 1:  # the only row is the empty one of sparse_problem: fill it
        codes = rng.integers(-MAX[D], MAX[D], n // 2, endpoint=True).astype(DTYPES[D])
        columns = np.sort(rng.permutation(n)[: n // 2]).astype(index_dtype)
        sparse, x = (np.array([0, n // 2], np.int64), columns), np.zeros(n)
        x[columns] = codes
    xs, ws, step = 1 / MAX[D], 1 / MAX[M], 0.3
    loop = plain.Baseline(
        codes, D, M, "shared", w, np.array([-1], np.float32), step=step, data_scale=xs, model_scale=ws, sparse=sparse, **seeded()
    )
    loop.run(0, 1)
    dot = float(x @ before) * xs * ws
    scale = -step / (1 + np.exp(-dot)) * xs / ws
    touched = sparse[1].astype(int)
    if M == "32f":
        expected = before + x * scale
        assert w == pytest.approx(expected, rel=1e-5, abs=1e-6)
    else:
        # The j-th stored number of a row takes the j-th word of the block.
        words = np.resize(kernels._rng_blocks(3, 0, 1).view(np.uint16).ravel(), len(touched)) / 2**16
        exact = before[touched] + x[touched] * scale + words
        near = np.abs(exact - np.round(exact)) < 2.0**-18 * (MAX[M] + np.abs(x[touched] * scale)) + 1e-4
        expected = np.clip(np.floor(exact), -MAX[M], MAX[M])
        assert np.array_equal(w[touched][~near], expected[~near].astype(DTYPES[M]))
        assert np.abs(w[touched][near] - expected[near]).max(initial=0) <= 1
    untouched = np.setdiff1d(np.arange(n), touched)
    assert np.array_equal(w[untouched], before[untouched].astype(DTYPES[M]))


@pytest.mark.parametrize("index_dtype", [np.uint16, np.uint32])
def test_a_sparse_float_run_is_the_dense_one(rng, index_dtype):
    # Without rounding, training on the nonzeros does what training on the zeros too does, but for the order of additions.
    codes, sparse, dense, w, y = sparse_problem(rng, "32f", "32f", 200, 60, index_dtype)
    twin = w.copy()
    common = {"step": 0.1, "data_scale": 1.0, "model_scale": 1.0, **seeded()}
    plain.Baseline(codes, "32f", "32f", "shared", w, y, sparse=sparse, **common).run(0, 60)
    plain.Baseline(dense, "32f", "32f", "nearest", twin, y, **common).run(0, 60)
    assert not np.array_equal(w, np.zeros_like(w))
    assert w == pytest.approx(twin, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        ({"random": "mt19937"}, ValueError, "shared random words"),
        ({"M": "32f"}, ValueError, "both 32f"),
        ({"index": np.zeros(3, np.uint8)}, ValueError, "16 or 32 bits"),
        ({"index": np.zeros(4, np.uint16)}, ValueError, "index needs 3"),
        ({"index": np.array([0, 1, 8], np.uint16)}, ValueError, "below 8, the model's length, got 8"),
        ({"indptr": np.array([0, 3], np.int64)}, ValueError, "indptr 3"),
        ({"indptr": np.array([0, 4, 3], np.int64)}, ValueError, "rise from 0 to 3"),
        ({"indptr": np.array([0, 1, 2], np.int64)}, ValueError, "rise from 0 to 3"),
        ({"indptr": np.array([0, 1, 3], np.int32)}, TypeError, "indptr must be .* int64"),
        ({"x": np.zeros((1, 3), np.int8)}, TypeError, "x must be .* 1-D"),
    ],
)
def test_the_sparse_loop_refuses(change, error, fragment):
    given = {
        "x": np.ones(3, np.int8), "D": "8", "M": "8", "random": "shared", "model": np.zeros(8, np.int8),
        "y": np.ones(2, np.float32), "indptr": np.array([0, 1, 3], np.int64), "index": np.array([0, 1, 2], np.uint16),
    } | change  # fmt: skip
    *args, indptr, index = given.values()
    with pytest.raises(error, match=fragment):
        plain.Baseline(*args, step=1.0, data_scale=1.0, model_scale=1.0, sparse=(indptr, index), **seeded())


# ---- the proxies ---------------------------------------------------------------------------------------------------


def proxy(bits, m=7, row_bytes=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (m, row_bytes), dtype=np.uint8)
    model = rng.integers(0, 256, row_bytes, dtype=np.uint8)
    y = rng.choice(np.array([-1, 1], np.float32), m)
    return plain.Proxy(bits, x, model, y, step=0.1, data_scale=1 / 127, model_scale=1 / 127, seed=seed), model


@needs_avx2
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("row_bytes", [32, 64, 96, 4096, 4128])
def test_a_proxy_goes_over_its_rows(bits, row_bytes):
    loop, model = proxy(bits, row_bytes=row_bytes)
    before = model.copy()
    loop.run(0, 7)
    assert not np.array_equal(model, before), "the loop must run"
    for first, last in ((-1, 2), (0, 8), (2, 1)):
        with pytest.raises(ValueError, match="not within"):
            loop.run(first, last)


@needs_avx2
def test_a_4_bit_proxy_is_the_8_bit_kernel():
    # Half the data per number, by the instructions of 8 bits: our own 8 x 8 kernel, over the same bytes.
    from lowprec._sgd import Sgd

    rng = np.random.default_rng(5)
    x, y = rng.integers(-127, 127, (9, 128), dtype=np.int8), rng.choice(np.array([-1, 1], np.float32), 9)
    ours, theirs = np.zeros(128, np.int8), np.zeros(128, np.int8)
    scales = {"step": 0.1, "data_scale": 1 / 127, "model_scale": 1 / 127}
    codes, model = x.view(np.uint8).ravel(), ours.view(np.uint8)
    sgd = Sgd(codes, 128, 9, 128, "8", "8", "shared", model, y, loss="logistic", seed=4, **scales)
    sgd.run(0, 9)
    plain.Proxy(4, x.view(np.uint8), theirs.view(np.uint8), y, seed=4, **scales).run(0, 9)
    assert np.array_equal(ours, theirs)
    assert ours.any()


@needs_avx2
@pytest.mark.parametrize(
    ("bits", "row_bytes", "fragment"), [(16, 64, "choose 4 or 8"), (8, 48, "multiple of 32"), (4, 0, "multiple of 32")]
)
def test_a_proxy_refuses(bits, row_bytes, fragment):
    with pytest.raises(ValueError, match=fragment):
        proxy(bits, row_bytes=row_bytes)


def test_no_proxy_is_a_kernel():
    # Their results are wrong: nothing that computes may find one.
    assert not [row.name for row in lowprec.kernels() if "proxy" in f"{row.name} {row.isa}"]
    assert not [name for name in dir(kernels) if "proxy" in name]
    assert "proxy" not in dict(kernels._isas())
    assert "proxy" not in runtime.isa()


def test_only_the_reports_use_the_proxies():
    package = Path(lowprec.__file__).parent
    sources = [path for path in package.rglob("*.py*") if path.suffix in (".py", ".pyi")]
    assert len(sources) > 30
    words = r"\b_baseline\b|(?<!fx\.)[Pp]roxy|proxies"  # torch.fx.proxy is another thing
    users = [path for path in sources if re.search(words, path.read_text(encoding="utf-8"))]
    assert {path.relative_to(package).parts[0] for path in users} <= {"report"}
