"""Reading data files of every kind, whole and broken; the paper's generative model."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lowprec as lp
from lowprec import datasets, losses

X = np.array([[1.0, 0.0, -2.5], [0.0, 0.5, 3.0], [4.0, 0.0, 0.0], [0.25, -1.0, 1e-3]])
Y = np.array([1.0, -1.0, 1.0, -1.0])


def svmlight(X=X, y=Y, base=1):
    lines = ["# a comment"]
    lines += [f"{t:g} " + " ".join(f"{j + base}:{v:g}" for j, v in enumerate(row) if v) for row, t in zip(X, y, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def csv(X=X, y=Y, delimiter=",", header=None, newline="\n"):
    lines = [] if header is None else [header]
    lines += [delimiter.join([*(f"{v:g}" for v in row), str(t)]) for row, t in zip(X, y, strict=True)]
    return (newline.join(lines) + newline).encode()


def npy(array, save=np.save, /, **arrays):
    out = io.BytesIO()
    save(out, *(() if array is None else (array,)), **arrays)
    return out.getvalue()


def idx(a):
    codes = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
    head = struct.pack(f">BBBB{a.ndim}I", 0, 0, codes[a.dtype.name], a.ndim, *a.shape)
    return head + a.astype(a.dtype.newbyteorder(">")).tobytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
CONTENT = {
    "a.svm": svmlight(),
    "a.svmlight": svmlight(base=0),
    "a.libsvm": svmlight(),
    "no-suffix": svmlight(),
    "a.npy": npy(np.c_[X, Y]),
    "a.npz": npy(None, np.savez_compressed, X=X, y=Y),
    "b.npz": npy(None, np.savez, x_train=X.reshape(4, 3, 1), y_train=Y),
    "c.npz": npy(None, np.savez, target=Y, data=X),
    "a.csv": csv(),
    "b.csv": csv(header="one,two,three,label"),
    "c.csv": b"\xef\xbb\xbf" + csv(delimiter=";", header="one;two;three;label", newline="\r\n"),
    "a.tsv": csv(delimiter="\t") + b"\n\n",
}


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


# ---- whole files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", CONTENT)
def test_every_kind_of_file(name, compression, write):
    if name.endswith(("svm", "svmlight", "suffix")):
        pytest.importorskip("sklearn")
    path = write(name + compression, COMPRESS[compression](CONTENT[name]))
    for p in (path, str(path)):
        a, y = datasets.load(p)
        assert isinstance(a, np.ndarray)
        assert np.array_equal(a, X.astype(a.dtype))
        assert np.array_equal(y, Y)
    q = lp.train(a, y, signature="D8M8", step_size=0.01)
    assert q.coef.shape == (3,)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_idx(dtype, compression, write):
    images = np.arange(24).reshape(4, 2, 3).astype(dtype)
    labels = np.array([3, 0, 1, 2], np.uint8)
    pack = COMPRESS[compression]
    path = write(f"t-images-idx3-ubyte{compression}", pack(idx(images)))
    write(f"t-labels-idx1-ubyte{compression}", pack(idx(labels)))
    a, y = datasets.load(path)
    assert a.dtype == dtype
    assert a.dtype.isnative
    assert np.array_equal(a, images.reshape(4, 6))
    assert y.tolist() == [3, 0, 1, 2]
    other = write("elsewhere", idx(labels[::-1].copy()))
    assert datasets.load(path, labels=other)[1].tolist() == [2, 1, 0, 3]


def test_npy_with_labels_of_its_own(write):
    path, labels = write("x.npy", npy(X.astype(np.float16))), write("y.npy", npy(Y))
    a, y = datasets.load(path, labels=labels)
    assert a.dtype == np.float16
    assert np.array_equal(a, X.astype(np.float16))
    assert np.array_equal(y, Y)


@pytest.mark.parametrize("target", ["two", 1, "1", -3])
def test_csv_target_by_name_or_number(target, write):
    a, y = datasets.load(write("t.csv", csv(header="one,two,three,label")), target=target)
    assert np.array_equal(y, X[:, 1])
    assert np.array_equal(a, np.c_[X[:, [0, 2]], Y])


def test_csv_labels_may_be_words(write):
    text = b'width,kind,height\n1,"iris, blue",2\n3,rose,4\n5,"iris, blue",6\n'
    a, y = datasets.load(write("t.csv", text), target="kind")
    assert a.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert y.tolist() == ["iris, blue", "rose", "iris, blue"]
    a, y = datasets.load(write("u.csv", b"1,2,yes\n3,4,no\n"))  # a word for a label makes no header of the first line
    assert a.tolist() == [[1, 2], [3, 4]]
    assert y.tolist() == ["yes", "no"]


def test_what_ships_with_scikit_learn():
    pytest.importorskip("sklearn")
    assert datasets.load("sklearn:digits")[0].shape == (1797, 64)
    a, y = datasets.load("sklearn:breast_cancer")
    assert a.shape == (569, 30)
    assert set(y.tolist()) == {0, 1}


def test_the_real_files():
    """The data that LOWPREC_DATA names, if it does."""
    pytest.importorskip("sklearn")
    folder = os.environ.get("LOWPREC_DATA")
    if not folder:
        pytest.skip("LOWPREC_DATA is not set")
    known = {
        "mnist/train-images-idx3-ubyte.gz": (60_000, 784),
        "svmlight/a9a.bz2": (32_561, 123),
        "tabular/covtype.20k.csv.gz": (20_000, 54),
        "tabular/cal_housing.csv.gz": (20_640, 8),
    }
    for name, shape in known.items():
        path = Path(folder) / name
        if path.exists():
            a, y = datasets.load(path)
            assert (a.shape, y.shape) == (shape, shape[:1])


# ---- broken files: what is wrong, and where ------------------------------------------------------------------

BAD = [
    ("a.csv", b"", "the file is empty"),
    ("a.csv", b"\n\n", "the file is empty"),
    ("a.csv", b"1\n2\n", "the first line has one column; expected features and a label"),
    ("a.csv", b"a,b\n", "no examples below the header"),
    ("a.csv", b"a,b,c\n1,2,0\n\n1,2\n", "line 4: 2 columns; expected 3"),
    ("a.csv", b"1,2,0\n1,2,0,5\n", "line 2: 4 columns; expected 3"),
    ("a.csv", b"a,b,c\n1,2,0\n1,,0\n", "line 3: '' in column 1 (b) is not a number"),
    ("a.csv", b"1,2,0\n1,x,0\n", "line 2: 'x' in column 1 is not a number"),
    ("a.csv", b"1,2,yes\n1,2,\n", "line 2: the label is missing"),
    ("a.csv", b"1,2,0\n1,\xff,0\n", "not text in UTF-8 (byte 8)"),
    ("a.csv", b"1,2,0\n1,\0,0\n", "holds zero bytes"),
    ("a.svm", b"1 1:2\n1 3:1 2:1\n", "line 2: index 2 does not rise"),
    ("a.svm", b"1 1:2\n\n1 3:1 4\n", "line 3: '4' is not INDEX:VALUE; expected LABEL INDEX:VALUE ..."),
    ("a.svm", b"1 1:2\n1 2:", "line 2: '2:' is not INDEX:VALUE"),
    ("a.svm", b"# nothing\n", "no examples"),
    ("a.npy", b"PK", "truncated or not a NumPy file"),
    ("a.npy", CONTENT["a.npy"][:-1], "truncated or not a NumPy file"),
    ("a.npy", CONTENT["a.npz"], "this is an npz archive by another name"),
    ("a.npz", CONTENT["a.npy"], "this is a single array by another name"),
    ("a.npz", CONTENT["a.npz"][:-30], "truncated or not a NumPy file"),
    ("a.npz", npy(None, np.savez, a=X, b=Y), "holds {a, b}; expected arrays X and y"),
    ("a.npz", npy(None, np.savez, X=X, y=Y[:3]), "labels of shape (3,) for 4 examples; expected one for each"),
    ("a.npz", npy(None, np.savez, X=np.array(["a"]), y=Y), "the array 'X' have type <U1; expected real numbers"),
    ("a.npy", npy(np.array([None, 1])), "holds Python objects, which are not read"),
    ("a.npy", npy(Y), "the array has shape (4,); expected rows of features with the label last"),
    ("a.npy", npy(np.zeros((0, 3))), "no examples: the data have shape (0, 2)"),
    ("x-idx1", idx(np.zeros(3, np.uint8)), "an idx file has no labels in it; expected labels=FILE"),
    ("x-idx3", b"\0\0\x08", "does not begin as an idx file: 00 00 08"),
    ("x-idx3", b"\0\0\x08\x03\0\0", "truncated: 6 bytes; expected 16 for the header"),
    ("x-idx3", idx(np.zeros((2, 3), np.int16)) + b"!", "too long: 13 bytes of data; expected 12 for shape (2, 3) of int16"),
    ("x-idx3", struct.pack(">BBBB4I", 0, 0, 8, 4, *[2**31] * 4), f"truncated: 0 bytes of data; expected {2**124}"),
    ("a.bin", b"\x01\x02\x03", "neither the name nor the content tells what kind of file this is; expected svmlight"),
    ("a.csv.gz", b"1,2,0\n", "not a .gz file, or damaged"),
    ("a.csv.gz", gzip.compress(csv() * 100)[:-9], "truncated: the compressed data end too early"),
    ("a.csv.bz2", bz2.compress(csv() * 100)[:-9], "truncated: the compressed data end too early"),
    ("a.csv.bz2", b"BZh91AY&SY" + b"?" * 50, "not a .bz2 file, or damaged"),
    ("a.csv.xz", lzma.compress(csv() * 100)[:-9], "truncated: the compressed data end too early"),
    ("a.csv.xz", b"spam" * 20, "not a .xz file, or damaged"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[f"{name}: {message[:40]}" for name, _, message in BAD])
def test_broken_files(name, content, message, write):
    if name.endswith(".svm"):
        pytest.importorskip("sklearn")
    path = write(name, content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        datasets.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_any_cut_of_a_file_is_an_error_or_fewer_rows(write):
    """Wherever a file is cut off: nothing but a ValueError that names it, or what its whole rows say."""
    pytest.importorskip("sklearn")
    for name in ("a.svm", "a.npy", "a.npz", "a.csv"):
        for compression in ("", ".gz"):
            whole = COMPRESS[compression](CONTENT[name])
            for size in range(0, len(whole) - 1, 7):
                path = write(name + compression, whole[:size])
                try:
                    a, y = datasets.load(path)
                except ValueError as error:
                    assert str(path) in str(error)  # noqa: PT017 - a cut at a line's end is no error
                else:
                    assert name in ("a.svm", "a.csv")  # text has no length of its own
                    assert compression == ""
                    assert len(a) == len(y) <= 4


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: datasets.load("absent.csv"), FileNotFoundError, "absent.csv: no such file"),
        (lambda: datasets.load("."), ValueError, ".: is a folder"),
        (lambda: datasets.load(b"a.csv"), TypeError, "path: expected a string or a path"),
        (lambda: datasets.load(3), TypeError, "expected str, bytes or os.PathLike"),
        (lambda: datasets.load("sklearn:mnist"), ValueError, "sklearn:mnist: choose one of {sklearn:breast_cancer"),
        (lambda: datasets.load("sklearn:digits", target=1), ValueError, "target: only a CSV file has columns to choose from"),
        (lambda: datasets.load("sklearn:digits", labels="y"), ValueError, "labels: only idx and npy files"),
        (lambda: datasets.generative(0, 5), ValueError, "n: must be at least 1; got 0"),
        (lambda: datasets.generative(5, 0), ValueError, "m: must be at least 1; got 0"),
        (lambda: datasets.generative(5, 5, seed=-1), ValueError, "seed: must be an integer in [0, 2**64)"),
        (lambda: datasets.generative(5, 5, fmt="6"), ValueError, "fmt: choose one of {4, 8, 16, 32f}; got '6'"),
    ],
)
def test_wrong_arguments(call, exception, message):
    with pytest.raises(exception) as caught:
        call()
    assert message in str(caught.value)


def test_wrong_columns(write):
    path = write("t.csv", csv(header="one,two,three,label"))
    with pytest.raises(ValueError, match=r"target: .*t.csv has no column 'four'; choose one of {one, two, three, label}"):
        datasets.load(path, target="four")
    with pytest.raises(ValueError, match=r"target: .*t.csv has 4 columns; got 4"):
        datasets.load(path, target=4)


def test_without_scikit_learn_one_sentence_says_what_to_do(write):
    path = write("a.svm", CONTENT["a.svm"])
    code = "import sys; sys.modules['sklearn'] = None; from lowprec import datasets; datasets.load(sys.argv[1])"
    for arg in (str(path), "sklearn:digits"):
        out = subprocess.run([sys.executable, "-c", code, arg], capture_output=True, text=True)
        last = out.stderr.strip().splitlines()[-1]
        assert last.endswith("needs scikit-learn, which is not installed: pip install 'lowprec[learn]'")
        assert arg in last


# ---- the generative model -------------------------------------------------------------------------------------


def test_generative_is_the_papers_model():
    """X and w uniform in [-1, 1], labels logistic: means, variances and calibration within five standard errors."""
    X, y, w = datasets.generative(64, 20_000, seed=1)
    assert (X.shape, X.dtype, y.dtype, w.shape) == ((20_000, 64), np.float32, np.int8, (64,))
    assert set(np.unique(y).tolist()) == {-1, 1}
    assert max(np.abs(X).max(), np.abs(w).max()) <= 1.0
    assert np.abs(X).max() > 0.999
    assert abs(X.mean(dtype=np.float64)) < 5 * np.sqrt(1 / 3 / X.size)
    assert abs(np.square(X, dtype=np.float64).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / X.size)
    assert abs(np.square(w).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / w.size)
    p = 1 / (1 + np.exp(-X.astype(np.float64) @ w))
    z = ((y > 0) - p) / np.sqrt(p * (1 - p))
    for part in np.array_split(np.argsort(p), 10):
        assert abs(z[part].sum()) < 5 * np.sqrt(len(part)) * max(1.0, np.abs(z[part]).max() / 10)
    # no other direction explains the labels better: the gradient of the loss at w is noise
    gradient = X.T.astype(np.float64) @ (p - (y > 0)) / len(y)
    assert np.abs(gradient).max() < 5 * np.sqrt(np.mean(p * (1 - p)) / 3 / len(y))
    assert losses.mean_loss("logistic", X @ w, y) < 0.45


@pytest.mark.parametrize("n", [1, 5, 37, 64, 1000])
@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_generative_makes_the_same_numbers_in_every_format(n, fmt, monkeypatch):
    monkeypatch.setattr(datasets, "_BLOCK", 3000)  # several blocks
    X, y, w = datasets.generative(n, 100, seed=4)
    q, yq, wq = datasets.generative(n, 100, seed=4, fmt=fmt)
    scale = 1.0 if fmt == "32f" else 1 / lp.Format(int(fmt)).max_code
    expected = lp.quantize(X, fmt, scale=scale, rounding="nearest")
    assert isinstance(q, lp.QuantizedArray)
    assert np.array_equal(q.codes, expected.codes)
    assert (q.scale, q.row_stride) == (expected.scale, expected.row_stride)
    assert np.array_equal(q.buffer, expected.buffer)  # pad codes too
    assert np.array_equal(y, yq)
    assert np.array_equal(w, wq)
    assert q.buffer.ctypes.data % 64 == 0


def test_generative_seeds_are_independent_and_reproducible():
    a, b, c = (datasets.generative(8, 200, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(s, t) for s, t in zip(a, b, strict=True))
    assert abs(np.corrcoef(a.X.ravel(), c.X.ravel())[0, 1]) < 5 / np.sqrt(1600)
    assert not np.array_equal(a.w, c.w)


MEMORY = """
import resource
from lowprec.datasets import generative
generative(64, 64, fmt="8")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
X, y, w = generative({n}, {m}, fmt="8")
print(X.nbytes // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(("n", "m"), [(256, 1 << 18), (1 << 18, 256)])
def test_generative_codes_need_no_float_array(n, m):
    """64 MiB of codes would be 256 MiB of float32."""
    out = subprocess.run([sys.executable, "-c", MEMORY.format(n=n, m=m)], capture_output=True, text=True, check=True)
    codes, used = map(int, out.stdout.split())
    assert codes == 64 * 1024
    assert used < codes + 32 * 1024
