"""Bad input: one table of call, exception, and what the message says.

A call is Python source, evaluated with the names of `names` below; the third column is part of the message. Whatever
is wrong, the arrays that were passed must be as they were.
"""

import gzip
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lowprec as lp
from lowprec import checks

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def names(tmp_path):
    """What the calls can speak of."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (40, 6)).astype(np.float32)
    y = np.where(X[:, 0] > 0, 1, -1)
    read_only = np.zeros(6, np.int8)
    read_only.flags.writeable = False
    return {
        "lp": lp,
        "np": np,
        "k": lp.kernels,
        "nan": NAN,
        "inf": INF,
        "X": X,
        "y": y,
        "q": lp.from_codes(np.arange(6, dtype=np.int8), "8", 0.5),
        "q2": lp.from_codes(np.arange(12, dtype=np.int8).reshape(2, 6), "8", 0.5),
        "per_feature": lp.from_codes(np.ones(6, np.int8), "8", np.arange(1.0, 7.0)),
        "floats": lp.from_codes(np.array([0, 1, NAN, 3, 4, 5], np.float32), "32f"),
        "w": lp.from_codes(np.zeros(6, np.int8), "8", 0.25),
        "w5": lp.from_codes(np.zeros(5, np.int8), "8", 0.25),
        "w_read_only": lp.from_codes(read_only, "8", 0.25),
        "x8": np.arange(6, dtype=np.int8),
        "w8": np.zeros(6, np.int8),
        "w8_read_only": read_only,
        "x4": np.zeros(3, np.uint8),
        "x32": np.zeros(6, np.float32),
        "spoiled": spoiled,
        "csr": lambda a: pytest.importorskip("scipy.sparse").csr_array(a),
        "Classifier": classifier,
        "load": load,
        "path": lambda name: str(write_file(tmp_path, name)),
    }


def spoiled(a, row, value):
    """A copy of `a` with `value` in the middle of a row."""
    a = np.array(a, np.result_type(a, np.float32))
    a[row, a.shape[1] // 2] = value
    return a


def classifier(**parameters):
    pytest.importorskip("sklearn")
    from lowprec.linear_model import LowPrecisionSGDClassifier

    return LowPrecisionSGDClassifier(**parameters)


def load(path):
    from lowprec import datasets

    return datasets.load(path)


def npy(header):
    header = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


GOOD_NPY = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3)}\n")

FILES = {
    "empty.csv": b"",
    "only_header.csv": b"a,b,label\n",
    "good.csv": b"a,b,label\n" + b"1,2,0\n3,1,1\n" * 20,
    "ragged.csv": b"a,b,label\n1,2,0\n1,2\n3,4,1\n",
    "words.csv": b"a,b,label\n1,2,0\n1,two,1\n",
    "empty.svm": b"",
    "no_colon.svm": b"1 1:0.5 2:1\n-1 1:0.5 2\n",
    "bad_value.svm": b"1 1:0.5\n-1 1:half\n",
    "bad_label.svm": b"spam 1:0.5\n",
    "bad_index.svm": b"1 x:0.5\n",
    "truncated.npy": GOOD_NPY + b"\0" * 10,
    "cut_header.npy": GOOD_NPY[:20],
    "good.npy": GOOD_NPY + b"\0" * 48,
    "not_npy.npy": b"this is no array",
    "not_npz.npz": b"PK\x03\x04 this is no archive",
    "truncated-images-idx3-ubyte": struct.pack(">4I", 0x803, 10, 4, 4) + b"\0" * 50,
    "wrong_magic-images-idx3-ubyte": struct.pack(">4I", 0x12345678, 1, 4, 4) + b"\0" * 16,
    "data.xyz": b"\x00\x01\x02",
    "cut.csv.gz": gzip.compress(b"a,b,label\n" + b"1,2,0\n" * 4000)[:60],
}


def write_file(folder: Path, name: str) -> Path:
    path = folder / name
    if name in FILES:
        path.write_bytes(FILES[name])
    return path


QUANTIZE = [
    ("lp.quantize([1.0, nan], '8')", ValueError, "a: every value must be finite; got nan in row 0, column 1"),
    ("lp.quantize(spoiled(X, 7, inf), '8')", ValueError, "got inf in row 7, column 3"),
    ("lp.quantize(spoiled(X, 39, -inf), '4', scale=1.0)", ValueError, "got -inf in row 39, column 3"),
    ("lp.quantize(spoiled(X, 7, nan), '32f')", ValueError, "got nan in row 7, column 3"),
    ("lp.quantize(spoiled(X, 7, nan).astype(np.float16), '16')", ValueError, "row 7, column 3"),
    ("lp.quantize([], '8')", ValueError, "a: must not be empty; got shape (0,)"),
    ("lp.quantize(X[:, :0], '8')", ValueError, "a: must not be empty; got shape (40, 0)"),
    ("lp.quantize(X[None], '8')", ValueError, "a: must be one or two-dimensional; got shape (1, 40, 6)"),
    ("lp.quantize(1.0, '8')", ValueError, "a: must be one or two-dimensional; got shape ()"),
    ("lp.quantize([[1.0], [1.0, 2.0]], '8')", ValueError, "a: expected a rectangular array"),
    ("lp.quantize(X + 1j, '8')", TypeError, "a: expected float16, float32, float64, bool, or an integer type"),
    ("lp.quantize(['a', 'b'], '8')", TypeError, "a: expected float16, float32, float64, bool"),
    ("lp.quantize(np.array([1.0, None]), '8')", TypeError, "got an array of object"),
    ("lp.quantize(X.astype('>f4'), '8')", TypeError, "a: expected the byte order of this machine; got '>f4'"),
    ("lp.quantize(np.ma.masked_array(X), '8')", TypeError, "a: masked arrays are not supported"),
    ("lp.quantize(X, '7')", ValueError, "fmt: choose one of {4, 8, 16, 32f}; got '7'"),
    ("lp.quantize(X, 32)", ValueError, "fmt: choose one of {4, 8, 16, 32f}; got '32'"),
    ("lp.quantize(X, 8.0)", TypeError, "fmt: expected a Format or one of the tokens {4, 8, 16, 32f}; got float"),
    ("lp.quantize(X, '8', scale=0)", ValueError, "scale: must be finite and positive; got 0"),
    ("lp.quantize(X, '8', scale=-1.0)", ValueError, "scale: must be finite and positive; got -1.0"),
    ("lp.quantize(X, '8', scale=nan)", ValueError, "scale: must be finite and positive; got nan"),
    ("lp.quantize(X, '8', scale=1e-320)", ValueError, "scale: must not be so small that 1/scale overflows"),
    ("lp.quantize(X, '8', scale='rows')", ValueError, "scale: choose one of {feature}; got 'rows'"),
    ("lp.quantize(X[0], '8', scale='feature')", ValueError, "scale: 'feature' needs a two-dimensional array"),
    ("lp.quantize(X, '8', scale=[1.0, 2.0])", ValueError, "scale: must have one value for each of the features, 6"),
    ("lp.quantize(X, '8', scale=[1, 1, 0, 1, 1, 1])", ValueError, "scale: every value must be positive"),
    ("lp.quantize(X, '8', scale=True)", TypeError, "scale: expected a real number; got bool True"),
    ("lp.quantize(X, '8', rounding='up')", ValueError, "rounding: choose one of {nearest, stochastic}; got 'up'"),
    ("lp.quantize(X, '8', rounding=None)", TypeError, "rounding: expected one of {nearest, stochastic}; got None"),
    ("lp.quantize(X, '8', seed=-1)", ValueError, "seed: must be an integer in [0, 2**64); got -1"),
    ("lp.quantize(X, '8', seed=2**64)", ValueError, "seed: must be an integer in [0, 2**64); got 18446744073709551616"),
    ("lp.quantize(X, '8', seed=1.0)", TypeError, "seed: expected an integer; got float 1.0"),
    ("lp.quantize(X, '8', seed=None)", TypeError, "seed: expected an integer; got None"),
    ("lp.quantize(X, '8', out=q2)", ValueError, "out: must have format 8 and shape (40, 6); got format 8 and shape (2, 6)"),
    ("lp.quantize(x8, '8', out=w_read_only)", ValueError, "out: must be writable; got a read-only array"),
    ("lp.quantize(X, '8', out=X)", TypeError, "out: expected a QuantizedArray; got an array of float32, shape (40, 6)"),
    ("lp.dequantize(X)", TypeError, "q: expected a QuantizedArray or a SparseArray; got an array of float32"),
    ("lp.dequantize(q, np.int8)", TypeError, "dtype: expected float16, float32 or float64; got int8"),
    ("lp.pack([8], '4')", ValueError, "codes: format 4 holds codes in [-8, 7]; got 8 in row 0, column 0"),
    ("lp.pack([0.5], '8')", TypeError, "codes: expected integer codes; got an array of float64"),
    ("lp.pack([1], '32f')", ValueError, "fmt: integer codes are packed to one of {4, 8, 16}; got 32f"),
    ("lp.from_codes([300], '8')", ValueError, "codes: format 8 holds codes in [-128, 127]; got 300"),
    ("lp.from_codes(x8, '16')", TypeError, "codes: expected an array of int16 for format 16"),
    ("lp.from_codes(x4, '4')", ValueError, "shape: packed 4-bit codes need shape=(n,) or (rows, n)"),
    ("lp.from_codes(x4, '4', shape=7)", ValueError, "shape: codes of shape (3,) do not make (7,)"),
    ("lp.from_codes(x8[::2], '8')", ValueError, "codes: the codes of a row must be contiguous"),
    ("lp.from_codes(x8, '8', scale=inf)", ValueError, "scale: must be finite and positive; got inf"),
    ("lp.from_codes(x8[:0], '8')", ValueError, "codes: must not be empty; got shape (0,)"),
]  # fmt: skip

OPS = [
    ("lp.dot(X, w)", TypeError, "dot: q: expected a QuantizedArray or SparseArray (made by lowprec.quantize"),
    ("lp.dot(q, w8)", TypeError, "dot: w: expected a QuantizedArray"),
    ("lp.dot(q, q2)", ValueError, "dot: w: must be one-dimensional; got shape (2, 6)"),
    ("lp.dot(q, w5)", ValueError, "dot: q and w must have as many features; got 6 in q of shape (6,) and 5 in w"),
    ("lp.dot(q2, w5)", ValueError, "got 6 in q of shape (2, 6) and 5 in w"),
    ("lp.dot(per_feature, w)", ValueError, "dot: q: the array must have a single scale; got one for each of 6 features"),
    ("lp.dot(q, per_feature)", ValueError, "dot: w: the array must have a single scale"),
    ("lp.dot(floats, w)", ValueError, "dot: q and w: every value must be finite; row 0 holds NaN or inf"),
    ("lp.dot(lp.quantize(X, '8'), lp.from_codes(np.full(6, -128, np.int8), '8'))", ValueError,
     "dot: w: codes of a model must lie in [-127, 127]; got -128"),
    ("lp.axpy(nan, q, w)", ValueError, "axpy: alpha: must be finite; got nan"),
    ("lp.axpy(-inf, q, w)", ValueError, "axpy: alpha: must be finite; got -inf"),
    ("lp.axpy(10**400, q, w)", ValueError, "axpy: alpha: must be finite"),
    ("lp.axpy('1', q, w)", TypeError, "axpy: alpha: expected a real number; got str '1'"),
    ("lp.axpy(1j, q, w)", TypeError, "axpy: alpha: expected a real number; got complex 1j"),
    ("lp.axpy(X[0], q, w)", TypeError, "axpy: alpha: expected a real number; got an array of float32, shape (6,)"),
    ("lp.axpy(1e308, q, lp.from_codes(w8, '8', 1e-9))", ValueError, "alpha * q.scale / w.scale must be finite; got inf"),
    ("lp.axpy(1e39, lp.from_codes(x32, '32f'), w)", ValueError, "alpha * q.scale / w.scale must be finite; got 4e+39"),
    ("lp.axpy(1.0, q2, w)", ValueError, "axpy: q: must be one-dimensional; got shape (2, 6)"),
    ("lp.axpy(1.0, q, w5)", ValueError, "axpy: q and w must have as many features"),
    ("lp.axpy(1.0, q, w_read_only)", ValueError, "axpy: w: must be writable, it is changed in place; got a read-only"),
    ("lp.axpy(1.0, q, q)", ValueError, "axpy: q and w must not share memory"),
    ("lp.axpy(1.0, floats, w)", ValueError, "axpy: q: every value must be finite; got nan"),
    ("lp.axpy(1.0, per_feature, w)", ValueError, "axpy: q: the array must have a single scale"),
    ("lp.axpy(1.0, q, w8)", TypeError, "axpy: w: expected a QuantizedArray"),
    ("lp.axpy(1.0, q, w, rounding='down')", ValueError, "axpy: rounding: choose one of {nearest, stochastic}; got 'down'"),
    ("lp.axpy(1.0, q, w, random='dice')", ValueError, "axpy: random: choose one of {shared, xorshift, mt19937}; got 'dice'"),
    ("lp.axpy(1.0, q, w, seed=-1)", ValueError, "axpy: seed: must be an integer in [0, 2**64); got -1"),
    ("lp.axpy(1.0, q, w, seed=2**64)", ValueError, "axpy: seed: must be an integer in [0, 2**64)"),
    ("lp.axpy(1.0, q, w, seed='1')", TypeError, "axpy: seed: expected an integer; got str '1'"),
]  # fmt: skip

KERNELS = [
    ("k.dot_8_8([1, 2], w8)", TypeError, "dot_8_8: x must be a one-dimensional C-contiguous NumPy array of int8 codes, got list"),
    ("k.dot_8_8(x32, w8)", TypeError, "got dtype float32"),
    ("k.dot_8_8(x8, w8.astype(np.uint8))", TypeError, "dot_8_8: w must be a one-dimensional C-contiguous NumPy array of int8"),
    ("k.dot_4_8(x8, w8)", TypeError, "dot_4_8: x must be a one-dimensional C-contiguous NumPy array of uint8 (packed) codes"),
    ("k.dot_16_16(x8.astype('>i2'), x8.astype('>i2'))", TypeError, "got dtype >i2"),
    ("k.dot_8_8(x8.reshape(2, 3), w8)", ValueError, "got shape (2, 3)"),
    ("k.dot_8_8(x8[::2], w8[:3])", ValueError, "use numpy.ascontiguousarray"),
    ("k.dot_8_8(x8[:5], w8)", ValueError, "dot_8_8: x and w must have as many elements, got 5 and 6"),
    ("k.dot_8_8(x8, w8, 7)", ValueError, "dot_8_8: n must lie in [0, 6], the elements of x and w, got 7"),
    ("k.dot_8_8(x8, w8, -1)", ValueError, "dot_8_8: n must lie in [0, 6]"),
    ("k.axpy_8_8(nan, x8, w8)", ValueError, "axpy_8_8: m must be finite, got nan"),
    ("k.axpy_8_8_sr(inf, x8, w8)", ValueError, "axpy_8_8_sr: m must be finite, got inf"),
    ("k.axpy_dot_8_8_srx(-inf, x8, w8, x8)", ValueError, "axpy_dot_8_8_srx: m must be finite, got -inf"),
    ("k.axpy_8_8(1.0, x8, w8_read_only)", ValueError, "axpy_8_8: w is written in place, but it is read-only"),
    ("k.axpy_8_8(1.0, x8, np.zeros(12, np.int8)[::2])", ValueError, "axpy_8_8: w must be a one-dimensional C-contiguous"),
    ("k.axpy_8_8_sr(1.0, x8, w8, seed=-1)", ValueError, "seed and stream must be integers in [0, 2^64), got seed=-1"),
    ("k.axpy_8_8_sr(1.0, x8, w8, seed=2**64)", ValueError, "seed and stream must be integers in [0, 2^64)"),
    ("k.axpy_8_8_sr(1.0, x8, w8, seed='a')", TypeError, "seed and stream must be integers in [0, 2^64), got seed='a'"),
    ("k.axpy_8_8_srb(1.0, x8, w8, x8)", TypeError, "axpy_8_8_srb: words must have dtype uint16, got int8"),
    ("k.axpy_8_8_srb(1.0, x8, w8, np.zeros(5, np.uint16))", ValueError, "C-contiguous and of at least n = 6 elements"),
    ("k.axpy_dot_8_8(1.0, x8, w8, x8[:5])", ValueError, "x and x_next must have as many elements, got 6 and 5"),
    ("k.dot_8_12", AttributeError, "no kernel 'dot_8_12'; names are op_D_M[_sr|_srx|_srb] with D and M in 4, 8, 16, 32f"),
    ("lp.kernels(D='12')", ValueError, "D: choose one of {4, 8, 16, 32f}; got '12'"),
]  # fmt: skip

TRAIN = [
    ("lp.train(spoiled(X, 7, nan), y, step_size=0.1)", ValueError, "X: every value must be finite; got nan in row 7, column 3"),
    ("lp.train(spoiled(X, 7, inf), y, step_size=0.1, signature='D8M8', data_scale=0.01)", ValueError,
     "X: every value must be finite; got inf in row 7, column 3"),
    ("lp.train(spoiled(X, 7, nan), y, step_size=0.1, signature='D32fM32f')", ValueError,
     "X: every value must be finite; row 7 holds NaN or inf"),
    ("lp.train(spoiled(X, 7, inf), y, step_size=0.1, signature='D32fM8')", ValueError,
     "X: every value must be finite; row 7 holds NaN or inf"),
    ("lp.train(X[:0], y[:0], step_size=0.1)", ValueError, "X: must not be empty; got shape (0, 6)"),
    ("lp.train(X[:, :0], y, step_size=0.1)", ValueError, "X: must not be empty; got shape (40, 0)"),
    ("lp.train(X[0], y, step_size=0.1)", ValueError, "X: must be two-dimensional; got shape (6,)"),
    ("lp.train(X.astype(object), y, step_size=0.1)", TypeError, "X: expected float16, float32, float64, bool"),
    ("lp.train('X', y, step_size=0.1)", TypeError, "X: expected"),
    ("lp.train(q, y, step_size=0.1)", ValueError, "X: must be two-dimensional"),
    ("lp.train(X, y[:39], step_size=0.1)", ValueError, "y: must have one label for each of the 40 rows; got 39"),
    ("lp.train(X, y[:, None], step_size=0.1)", ValueError, "y: must be one-dimensional; got shape (40, 1); use y.ravel()"),
    ("lp.train(X, np.arange(40) % 3, step_size=0.1)", ValueError,
     "y: logistic loss takes labels {-1, +1} or {0, 1}; got 3 distinct values: 0, 1, 2"),
    ("lp.train(X, np.arange(40) % 3 - 1, step_size=0.1, loss='hinge')", ValueError,
     "y: hinge loss takes labels {-1, +1} or {0, 1}; got 3 distinct values: -1, 0, 1"),
    ("lp.train(X, y * 2, step_size=0.1)", ValueError, "got 2 distinct values: -2, 2"),
    ("lp.train(X, np.where(y > 0, nan, 1), step_size=0.1)", ValueError, "y: every label must be finite; got nan at row"),
    ("lp.train(X, np.full(40, 1e300), step_size=0.1, loss='squared')", ValueError, "y: every label must be within the range"),
    ("lp.train(X, y.astype(str), step_size=0.1)", TypeError, "y: expected real numbers or bool; got an array of <U"),
    ("lp.train(X, y, step_size=0)", ValueError, "step_size: must be finite and positive; got 0"),
    ("lp.train(X, y, step_size=-0.1)", ValueError, "step_size: must be finite and positive; got -0.1"),
    ("lp.train(X, y, step_size=nan)", ValueError, "step_size: must be finite and positive; got nan"),
    ("lp.train(X, y, step_size=inf)", ValueError, "step_size: must be finite and positive; got inf"),
    ("lp.train(X, y, step_size='big')", TypeError, "step_size: expected a real number; got str 'big'"),
    ("lp.train(X, y, step_size=0.1, n_threads=0)", ValueError, "n_threads: must be at least 1; got 0"),
    ("lp.train(X, y, step_size=0.1, n_threads=-2)", ValueError, "n_threads: must be at least 1; got -2"),
    ("lp.train(X, y, step_size=0.1, n_threads=1.5)", TypeError, "n_threads: expected an integer of at least 1, or None"),
    ("lp.train(X, y, step_size=0.1, epochs=0)", ValueError, "epochs: must be at least 1; got 0"),
    ("lp.train(X, y, step_size=0.1, epochs=2.0)", TypeError, "epochs: expected an integer; got float 2.0"),
    ("lp.train(X, y, step_size=0.1, seed=-1)", ValueError, "seed: must be an integer in [0, 2**64); got -1"),
    ("lp.train(X, y, step_size=0.1, seed=2**64)", ValueError, "seed: must be an integer in [0, 2**64)"),
    ("lp.train(X, y, step_size=0.1, seed=None)", TypeError, "seed: expected an integer; got None"),
    ("lp.train(X, y, step_size=0.1, refresh=0)", ValueError, "refresh: must be at least 1; got 0"),
    ("lp.train(X, y, step_size=0.1, loss='log')", ValueError, "loss: choose one of {logistic, hinge, squared_hinge, "),
    ("lp.train(X, y, step_size=0.1, rounding='up')", ValueError, "rounding: choose one of {nearest, stochastic}; got 'up'"),
    ("lp.train(X, y, step_size=0.1, random='dice')", ValueError, "random: choose one of {shared, xorshift, mt19937}; got 'dice'"),
    ("lp.train(X, y, step_size=0.1, signature='8x8')", ValueError, "signature '8x8': at position 0 expected"),
    ("lp.train(X, y, step_size=0.1, signature=8)", TypeError, "signature: expected a string such as 'D8M8', or a Signature"),
    ("lp.train(X, y, step_size=0.1, signature='D8i8M8')", ValueError, "signature: i8 asks for sparse data; X is dense"),
    ("lp.train(X, y, step_size=0.1, signature='D6M8')", ValueError, "D6 asks for 6-bit fixed point dataset numbers"),
    ("lp.train(X, y, step_size=0.1, signature='G1')", ValueError,
     "Runnable now: D in {4, 8, 16, 32f} with M in {4, 8, 16, 32f}, sparse data with i in {8, 16, 32}, for example D32fM32f"),
    ("lp.train(X, y, step_size=0.1, signature='C3s')", ValueError,
     "workers that send numbers with C in {1, 2, 4, 8, 16, 16f, 32f}, with or without s, for example D32fM32f"),
    ("lp.train(X, y, step_size=0.1, error_feedback=False)", ValueError,
     "error_feedback: has no effect without a C term in the signature; got False"),
    ("lp.train(X, y, step_size=0.1, error_feedback=1, signature='C8s')", TypeError, "error_feedback: expected True or False"),
    ("lp.train(X, y, step_size=0.1, staleness=3, signature='C8s')", ValueError,
     "staleness: has no effect unless the signature has an asynchronous C term"),
    ("lp.train(X, y, step_size=0.1, staleness=0, signature='C8')", ValueError, "staleness: must lie in [1, 1073741824]; got 0"),
    ("lp.train(X, y, step_size=0.1, deterministic=True, signature='C8')", ValueError,
     "deterministic: cannot be had of workers that do not wait for each other; write C8s; got True"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', signature='C8s')", ValueError, "signature: must have no C term with"),
    ("lp.train(X, y, step_size=0.1, signature='G1C1s', batch_size=4, sync_every=8, n_threads=2)", ValueError,
     "sync_every: must be batch_size (4) where the gradient itself is what is sent (G1C1); got 8"),
    ("lp.train(X, y, step_size=0.1, communicator='world', signature='C8s')", TypeError,
     "communicator: expected a communicator of mpi4py, such as MPI.COMM_WORLD"),
    ("lp.train(X, y, step_size=0.1, timeout=0)", ValueError, "timeout: must be finite and positive; got 0"),
    ("lp.train(X, y, step_size=0.1, data_scale=-1.0)", ValueError, "data_scale: must be finite and positive; got -1.0"),
    ("lp.train(X, y, step_size=0.1, model_scale=nan)", ValueError, "model_scale: must be finite and positive; got nan"),
    ("lp.train(X, y, step_size=0.1, init=[0.0] * 5)", ValueError, "init: must have one value for each of the features, 6"),
    ("lp.train(X, y, step_size=0.1, init=[nan] * 6)", ValueError, "init: every value must be finite; got nan at index 0"),
    ("lp.train(X, y, step_size=0.1, sample_weight=[1.0] * 39)", ValueError,
     "sample_weight: must have one value for each of the rows, 40"),
    ("lp.train(X, y, step_size=0.1, sample_weight=[-1.0] * 40)", ValueError, "sample_weight: every weight must be at least 0"),
    ("lp.train(X, y, step_size=0.1, sample_weight=[0.0] * 40)", ValueError,
     "sample_weight: at least one weight must be positive; all 40 are zero"),
    ("lp.train(X, y, step_size=0.1, sample_weight=[1e-60] * 40)", ValueError,
     "sample_weight: at least one weight must be positive; all 40 are zero in float32"),
    ("lp.train(X, y, step_size=0.1, shuffle='no')", ValueError, "shuffle: must be True, False or \"blocks\"; got no"),
    ("lp.train(X, y, step_size=0.1, shuffle=2)", TypeError, "shuffle: expected True or False; got int 2"),
    ("lp.train(X, y, step_size=0.1, history=1)", TypeError, "history: expected True or False; got int 1"),
    ("lp.train(X, y, step_size=0.1, fit_intercept=None)", TypeError, "fit_intercept: expected True or False; got None"),
    ("lp.train(X, y, step_size=0.1, callback=3)", TypeError, "callback: expected a callable or None; got int 3"),
    ("lp.train(lp.quantize(X, '8'), y, step_size=0.1, signature='D16M16')", ValueError,
     "X: the signature asks for data of format 16; got a QuantizedArray of format 8"),
    ("lp.train(lp.quantize(X, '8'), y, step_size=0.1, data_scale=1.0)", ValueError, "data_scale: X is a QuantizedArray"),
]  # fmt: skip

BEYOND = [
    ("lp.train(X, y, step_size=0.1, penalty='L2', alpha=0.1)", ValueError,
     "penalty: choose one of {l1, l2, elasticnet}; got 'L2'"),
    ("lp.train(X, y, step_size=0.1, penalty='none')", ValueError, "penalty: choose one of {l1, l2, elasticnet}; got 'none'"),
    ("lp.train(X, y, step_size=0.1, penalty=2)", TypeError, "penalty: expected one of {l1, l2, elasticnet}; got int 2"),
    ("lp.train(X, y, step_size=0.1, alpha=0.1)", ValueError,
     "alpha: has no effect without a penalty; choose one of {l1, l2, elasticnet}; got 0.1"),
    ("lp.train(X, y, step_size=0.1, penalty='l2', alpha=-1)", ValueError, "alpha: must be finite and not negative; got -1"),
    ("lp.train(X, y, step_size=0.1, penalty='l2', alpha=nan)", ValueError, "alpha: must be finite and not negative; got nan"),
    ("lp.train(X, y, step_size=0.1, penalty='l2', alpha=None)", TypeError, "alpha: expected a real number; got None"),
    ("lp.train(X, y, step_size=0.1, penalty='l2', alpha=10)", ValueError,
     "alpha: times step_size must be below 1 for L2; step_size is 0.1; got 10"),
    ("lp.train(X, y, step_size=0.1, penalty='elasticnet', alpha=20, l1_ratio=0.5)", ValueError, "alpha: times step_size must be"),
    ("lp.train(X, y, step_size=0.1, l1_ratio=1.5)", ValueError, "l1_ratio: must lie in [0, 1]; got 1.5"),
    ("lp.train(X, y, step_size=0.1, l1_ratio=-0.5)", ValueError, "l1_ratio: must be finite and not negative; got -0.5"),
    ("lp.train(X, y, step_size=0.1, l1_ratio='half')", TypeError, "l1_ratio: expected a real number; got str 'half'"),
    ("lp.train(X, y, step_size=0.1, schedule='optimal')", ValueError,
     "schedule: choose one of {constant, linear, invscaling}; got 'optimal'"),
    ("lp.train(X, y, step_size=0.1, schedule=None)", TypeError,
     "schedule: expected one of {constant, linear, invscaling}; got None"),
    ("lp.train(X, y, step_size=0.1, power=-1)", ValueError, "power: must be finite and not negative; got -1"),
    ("lp.train(X, y, step_size=0.1, power=inf)", ValueError, "power: must be finite and not negative; got inf"),
    ("lp.train(X, y, step_size=0.1, examples_before=-1)", ValueError,
     "examples_before: must lie in [0, 4611686018427387904]; got -1"),
    ("lp.train(X, y, step_size=0.1, examples_before=2**70)", ValueError, "examples_before: must lie in [0, 4611686018427387904]"),
    ("lp.train(X, y, step_size=0.1, examples_before=1.0)", TypeError, "examples_before: expected an integer; got float 1.0"),
    ("lp.train(X, y, step_size=0.1, average=-1)", ValueError, "average: must be at least 0; got -1"),
    ("lp.train(X, y, step_size=0.1, average=0.5)", TypeError, "average: expected an integer; got float 0.5"),
    ("lp.train(X, y, step_size=0.1, average=None)", TypeError, "average: expected an integer; got None"),
    ("lp.train(X, y, step_size=0.1, epsilon=-1)", ValueError, "epsilon: must be finite and not negative; got -1"),
    ("lp.train(X, y, step_size=0.1, epsilon=nan)", ValueError, "epsilon: must be finite and not negative; got nan"),
    ("lp.train(X, y, step_size=0.1, epsilon=None)", TypeError, "epsilon: expected a real number; got None"),
    ("lp.train(X, y, step_size=0.1, quantile=0)", ValueError, "quantile: must be finite and positive; got 0"),
    ("lp.train(X, y, step_size=0.1, quantile=1)", ValueError, "quantile: must lie between 0 and 1; got 1"),
    ("lp.train(X, y, step_size=0.1, quantile='q')", TypeError, "quantile: expected a real number; got str 'q'"),
    ("lp.train(X, y, step_size=0.1, solver='saga')", ValueError, "solver: choose one of {sgd, svrg}; got 'saga'"),
    ("lp.train(X, y, step_size=0.1, solver=None)", TypeError, "solver: expected one of {sgd, svrg}; got None"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', penalty='l1', alpha=0.1)", ValueError,
     "penalty: solver='svrg' has L2 alone, for it adds up corrections; use solver='sgd' for L1"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', penalty='elasticnet', alpha=0.1)", ValueError,
     "penalty: solver='svrg' has L2"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', average=True)", ValueError, "average: has no effect with solver='svrg'"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', schedule='linear')", ValueError,
     "schedule: must be constant with solver='svrg', whose noise vanishes by itself; got linear"),
    ("lp.train(X, y, step_size=0.1, solver='svrg', model_scale=0.1)", ValueError,
     "model_scale: solver='svrg' chooses that of its"),
    ("lp.train(X * nan, y, step_size=0.1, solver='svrg', signature='D32fM32f')", ValueError,
     "X: every value must be finite; row 0 holds NaN or inf"),
    ("lp.train(X, y, step_size=0.1, checkpoint=3)", TypeError, "checkpoint: expected the path of a file; got int 3"),
    ("lp.train(X, y, step_size=0.1, checkpoint=b'run')", TypeError, "checkpoint: expected the path of a file; got bytes"),
    ("lp.train(X, y, step_size=0.1, checkpoint=path('.'))", ValueError,
     "checkpoint: must be a file in a folder that exists; got "),
    ("lp.train(X, y, step_size=0.1, checkpoint=path('absent/run'))", ValueError, "checkpoint: must be a file in a folder that"),
    ("lp.train(X, y, step_size=0.1, checkpoint=path('not_npz.npz'))", ValueError, "not_npz.npz: is no checkpoint"),
    ("lp.train(X, y, step_size=0.1, checkpoint=path('good.csv'))", ValueError, "good.csv: is no checkpoint"),
    ("lp.train(X, y, step_size=0.1, checkpoint=path('good.npy'))", ValueError, "good.npy: is no checkpoint"),
    ("lp.train(X, y, step_size=0.1, checkpoint_seconds=-1)", ValueError, "checkpoint_seconds: must be finite and not negative"),
    ("lp.train(X, y, step_size=0.1, checkpoint_seconds=None)", TypeError, "checkpoint_seconds: expected a real number; got None"),
    # several models
    ("lp.train(X, np.stack([y, y]), step_size=0.1)", ValueError,
     "y: must have 40 rows, and a column for each model; got shape (2, 40)"),
    ("lp.train(X, np.zeros((40, 0)), step_size=0.1)", ValueError,
     "y: must have 40 rows, and a column for each model; got shape (40, 0)"),
    ("lp.train(X, y[None, :], step_size=0.1)", ValueError, "y: must be one-dimensional; got shape (1, 40); use y.ravel()"),
    ("lp.train(X, y.reshape(2, 2, 10), step_size=0.1)", ValueError, "y: must be one-dimensional; got shape (2, 2, 10)"),
    ("lp.train(X, np.stack([y, 2 * y], axis=1), step_size=0.1)", ValueError,
     "y[:, 1]: logistic loss takes labels {-1, +1} or {0, 1}; got 2 distinct values: -2, 2"),
    ("lp.train(X, np.stack([y, y * nan], axis=1), step_size=0.1)", ValueError,
     "y[:, 1]: every label must be finite; got nan at row 0"),
    ("lp.train(X, csr(np.stack([y, y], axis=1)), step_size=0.1)", TypeError, "y: sparse data are not possible here"),
    ("lp.train(X, np.ma.masked_array(np.stack([y, y], axis=1)), step_size=0.1)", TypeError, "y: masked arrays are not supported"),
    ("lp.train(X, [[1, -1], [1]] * 20, step_size=0.1)", ValueError, "y: expected a rectangular array"),
    ("lp.train(X, np.stack([y, y], axis=1).astype(str), step_size=0.1)", TypeError, "y[:, 0]: expected real numbers or bool"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init=np.zeros(6))", ValueError,
     "init: must have a row for each of the 2 models; got shape (6,)"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init=np.zeros((3, 6)))", ValueError,
     "init: must have a row for each of the 2 models; got shape (3, 6)"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init=np.zeros((2, 5)))", ValueError,
     "init[0]: must have one value for each of the features, 6"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init=[[0] * 6, [nan] * 6])", ValueError,
     "init[1]: every value must be"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init=[[0] * 6, [0] * 5])", ValueError, "init: expected a rectangular"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, fit_intercept=True, init_intercept=[1, 2, 3])", ValueError,
     "init_intercept: must be one number, or one for each of the 2 models; got 3"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, init_intercept=[0, 2])", ValueError,
     "init_intercept: has no effect unless"),
    ("lp.train(X, y, step_size=0.1, fit_intercept=True, init_intercept=[1.0])", TypeError,
     "init_intercept: expected a real number"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, model_scale=[1.0])", ValueError,
     "model_scale: must be one number, or one for each of the 2 models; got 1"),
    ("lp.train(X, np.stack([y, y], axis=1), step_size=0.1, model_scale=[1.0, 0.0])", ValueError,
     "model_scale: must be finite and"),
    ("lp.train(X, y, step_size=0.1, model_scale=[0.1])", TypeError, "model_scale: expected one positive number; got list"),
]  # fmt: skip

CLASSIFIER = [
    ("Classifier().fit(spoiled(X, 7, nan), y)", ValueError, "Input X contains NaN"),
    ("Classifier().fit(spoiled(X, 7, inf), y)", ValueError, "Input X contains infinity"),
    ("Classifier().fit(X[0], y)", ValueError, "Expected 2D array, got 1D array"),
    ("Classifier().fit(X[:0], y[:0])", ValueError, "Found array with 0 sample(s)"),
    ("Classifier().fit(csr(X.astype(np.float64) * 1e200), y)", ValueError,
     "X: every row's sum of squares must be finite; scale X down; got "),
    ("Classifier().fit(X.astype(np.float64) * 1e200, y)", ValueError,
     "X: every row's sum of squares must be finite; scale X down; got "),
    ("Classifier().fit(X, y[:39])", ValueError, "inconsistent numbers of samples"),
    ("Classifier().fit(X, np.ones(40))", ValueError, "y: must hold at least 2 classes; got 1 class"),
    ("Classifier(signature='D8i8M8').fit(X, y)", ValueError, "signature: i8 asks for sparse data; X is dense"),
    ("lp.train(X, y, step_size=0.1, loss='huber', epsilon=0)", ValueError, "epsilon: must be positive for the huber loss"),
    ("Classifier(n_jobs=0).fit(X, y)", ValueError, "n_jobs: must not be 0; None is 1, and -1 is all; got 0"),
    ("Classifier(eta0=0).fit(X, y)", ValueError, "eta0: "),
    ("Classifier(eta0='fast').fit(X, y)", ValueError, "eta0: choose one of {auto}; got 'fast'"),
    ("Classifier(alpha='fast').fit(X, y)", ValueError, "alpha: choose one of {auto}; got 'fast'"),
    ("Classifier(max_iter=0).fit(X, y)", ValueError, "epochs: must be at least 1; got 0"),
    ("Classifier(penalty='l3').fit(X, y)", ValueError, "penalty: choose one of {l1, l2, elasticnet}; got 'l3'"),
    ("Classifier(learning_rate='optimal').fit(X, y)", ValueError, "learning_rate: choose one of {constant, linear, invscaling}"),
    ("Classifier(solver='adam').fit(X, y)", ValueError, "solver: choose one of {sgd, svrg}; got 'adam'"),
    ("Classifier(solver='svrg', early_stopping=True).fit(X, y)", ValueError, "early_stopping: solver='svrg' has few epochs"),
    ("Classifier(data_scale='column').fit(X, y)", ValueError, "data_scale: choose one of {auto, feature}; got 'column'"),
    ("Classifier(early_stopping=1).fit(X, y)", TypeError, "early_stopping: expected True or False; got int 1"),
    ("Classifier(early_stopping=True).partial_fit(X, y, [-1, 1])", ValueError, "early_stopping: partial_fit makes one pass"),
    ("Classifier(n_iter_no_change=0).fit(X, y)", ValueError, "n_iter_no_change: must be at least 1; got 0"),
    ("Classifier(class_weight='balanced').partial_fit(X, y, [-1, 1])", ValueError, "class_weight: 'balanced' needs all labels"),
    ("Classifier().fit(X, y).predict_proba(X)", AttributeError, "has no attribute 'predict_proba'"),
    ("Classifier(loss='log').fit(X, y)", ValueError, "loss: choose one of {hinge, log_loss, logistic, squared_hinge, "
     "modified_huber}; got 'log'"),
    ("Classifier().fit(X, y).predict(X[:, :5])", ValueError, "X has 5 features, but LowPrecisionSGDClassifier is expecting 6"),
    ("Classifier().partial_fit(X, y)", ValueError,
     "classes: the first call of partial_fit needs all labels there will be; got None"),
    ("Classifier().predict(X)", ValueError, "is not fitted yet"),  # sklearn's NotFittedError is a ValueError
]  # fmt: skip

FILES_BAD = [
    ("load(path('absent.csv'))", FileNotFoundError, "absent.csv: no such file"),
    ("load(path('empty.csv'))", ValueError, "empty.csv: the file is empty"),
    ("load(path('only_header.csv'))", ValueError, "only_header.csv: no examples below the header"),
    ("load(path('ragged.csv'))", ValueError, "ragged.csv, line 3: 2 columns; expected 3"),
    ("load(path('words.csv'))", ValueError, "words.csv, line 3: 'two' in column 1 (b) is not a number"),
    ("load(path('empty.svm'))", ValueError, "empty.svm: the file is empty"),
    ("load(path('no_colon.svm'))", ValueError, "no_colon.svm, line 2: '2' is not INDEX:VALUE"),
    ("load(path('bad_value.svm'))", ValueError, "bad_value.svm, line 2: '1:half' is not INDEX:VALUE"),
    ("load(path('bad_label.svm'))", ValueError, "bad_label.svm, line 1: 'spam' is not a label"),
    ("load(path('bad_index.svm'))", ValueError, "bad_index.svm, line 1: 'x:0.5' is not INDEX:VALUE"),
    ("load(path('truncated.npy'))", ValueError, "truncated.npy: truncated or not a NumPy file"),
    ("load(path('cut_header.npy'))", ValueError, "cut_header.npy: truncated or not a NumPy file"),
    ("load(path('not_npy.npy'))", ValueError, "not_npy.npy: truncated or not a NumPy file"),
    ("load(path('not_npz.npz'))", ValueError, "not_npz.npz: truncated or not a NumPy file"),
    ("load(path('truncated-images-idx3-ubyte'))", ValueError, "truncated: 50 bytes of data; expected 160 for shape (10, 4, 4)"),
    ("load(path('wrong_magic-images-idx3-ubyte'))", ValueError, "does not begin as an idx file: 12 34 56 78"),
    ("load(path('cut.csv.gz'))", ValueError, "cut.csv.gz: truncated: the compressed data end too early"),
    ("load(path('data.xyz'))", ValueError, "data.xyz: neither the name nor the content tells what kind of file this is"),
]


TABLE = QUANTIZE + OPS + KERNELS + TRAIN + BEYOND + CLASSIFIER + FILES_BAD


@pytest.mark.parametrize(("call", "error", "fragment"), TABLE, ids=[row[0] for row in TABLE])
def test_bad_input(names, call, error, fragment):
    arrays = {name: v.copy() for name, v in names.items() if isinstance(v, np.ndarray)}
    models = {name: v.codes.copy() for name, v in names.items() if isinstance(v, lp.QuantizedArray)}
    with pytest.raises(error, match=re.escape(fragment)):
        eval(call, names)
    for name, before in arrays.items():
        np.testing.assert_array_equal(names[name], before, err_msg=name)
    for name, before in models.items():
        np.testing.assert_array_equal(names[name].codes, before, err_msg=name)


# ---- the command line ----

COMMANDS = [
    (["train", "absent.csv"], "absent.csv"),
    (["train", "ragged.csv"], "ragged.csv, line 3"),
    (["train", "truncated.npy"], "truncated.npy"),
    (["train", "good.csv", "--signature", "D8i8M8"], "signature: i8 asks for sparse data; X is dense"),
    (["train", "good.csv", "--signature", "8"], "signature '8': at position 0 expected"),
    (["train", "good.csv", "--threads", "0"], "threads: must be at least 1; got 0"),
    (["train", "words.csv", "--loss", "log"], "'log' is not one of"),
    (["train"], "FILE"),
    (["dance"], "No such command 'dance'"),
]


@pytest.mark.parametrize(("arguments", "fragment"), COMMANDS, ids=[" ".join(row[0]) for row in COMMANDS])
def test_bad_command(arguments, fragment, tmp_path, monkeypatch, capsys):
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from lowprec.cli import main

    monkeypatch.chdir(tmp_path)
    for name in FILES:
        write_file(tmp_path, name)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("lowprec: error: ")
    assert fragment in err
    assert "Traceback" not in err


# ---- the environment ----


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx512x", " "])
def test_unknown_isa(isa):
    done = subprocess.run(
        [sys.executable, "-c", "import lowprec"],
        env={**os.environ, "LOWPREC_ISA": isa},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    built = ", ".join(name for name, _ in lp.kernels._isas())
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: LOWPREC_ISA={isa}: no such ISA is built in; choose from {built}"


def test_an_empty_isa_counts_as_unset():
    done = subprocess.run(
        [sys.executable, "-c", "import lowprec; print(lowprec.isa())"],
        env={**os.environ, "LOWPREC_ISA": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == [name for name, runs in lp.kernels._isas() if runs][-1], done.stderr


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("absent_for_a_test", "training needs absent_for_a_test, which is not installed: pip install 'lowprec[learn]'"),
        ("sklearn", "training needs scikit-learn, which is not installed: pip install 'lowprec[learn]'"),
        ("sklearn.linear_model", "training needs scikit-learn, which is not installed: pip install 'lowprec[learn]'"),
    ],
)  # fmt: skip
def test_missing_extra(module, sentence, monkeypatch):
    for name in [m for m in sys.modules if m == "sklearn" or m.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    with pytest.raises(ImportError) as caught:
        checks.need_extra(module, "learn", "training")
    assert str(caught.value) == sentence


def test_an_installed_extra_that_fails_by_itself_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_for_a_test.py").write_text("import a_dependency_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_dependency_that_is_not_there"):
        checks.need_extra("broken_for_a_test", "learn")
    assert checks.need_extra("json", "learn").dumps([1]) == "[1]"


@pytest.mark.parametrize(
    ("op", "D", "M", "rounding", "sentence"),
    [
        ("axpy", "4", "16f", None, "axpy: no kernel for D=4, M=16f; with D=4 choose M in {4, 8, 16, 32f}"),
        ("dot", "7", "8", None, "dot: no kernel for D=7, M=8; choose D in {4, 8, 16, 32f}"),
        ("axpy", "8", "32f", "sr", "axpy: no kernel for D=8, M=32f, rounding sr; with D=8, M=32f choose rounding in {nearest}"),
        ("gemm", "8", "8", None, "gemm: no such operation; choose one of {axpy, axpy_dot, dot, saxpy, sdot}"),
    ],
)  # fmt: skip
def test_no_kernel_names_the_options_of_the_table(op, D, M, rounding, sentence):
    assert str(checks.no_kernel(op, D, M, rounding)) == sentence


def test_the_options_of_no_kernel_come_from_the_table(monkeypatch):
    rows = tuple(k for k in lp.kernels("axpy", isa=lp.isa()) if (k.D, k.M) in {("8", "8"), ("8", "16")})
    monkeypatch.setattr(checks, "_rows", lambda: rows)
    assert str(checks.no_kernel("axpy", "8", "4")).endswith("with D=8 choose M in {8, 16}")
    assert str(checks.no_kernel("axpy", "4", "4")).endswith("choose D in {8}")


# ---- what is good stays good ----


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_labels_of_any_real_type(loss, dtype):
    expected = [1.0, -1.0, -1.0, 1.0]
    labels = np.array([1, 0, 0, 1]).astype(dtype)
    assert checks.check_labels(labels, loss, 4).tolist() == expected
    assert checks.check_labels(labels.tolist(), loss, 4).dtype == np.float32
    if np.dtype(dtype).kind in "if":
        assert checks.check_labels(np.array(expected).astype(dtype), loss, 4).tolist() == expected


def test_labels_of_one_class_and_read_only_labels():
    for value, expected in ((1, 1.0), (0, -1.0), (-1, -1.0)):
        y = np.full(3, value)
        y.flags.writeable = False
        assert checks.check_labels(y, "logistic").tolist() == [expected] * 3


def test_data_is_never_copied():
    for a in (np.zeros((4, 6), np.float32)[::2, ::-1], np.zeros((4, 6), np.int16).T, np.zeros((2, 3), bool)):
        assert checks.as_2d_data(a) is a


def test_sparse_data_is_refused_with_a_way_out():
    sparse = pytest.importorskip("scipy.sparse")
    for kind in (sparse.csr_array, sparse.csr_matrix, sparse.coo_array):
        with pytest.raises(TypeError, match=r"X: sparse data are not possible here; .* X.toarray\(\)"):
            checks.as_2d_data(kind(np.eye(3)))


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float16(0.5), np.int8(3), 3, np.uint64(3)])
def test_scalars_of_every_library(value):
    assert checks.check_step(value) == float(value)


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.uint64(2**64 - 1), np.int8(3)])
def test_seeds_of_every_type(seed):
    assert checks.check_seed(seed) == int(seed)
    assert type(checks.check_seed(seed)) is int


@pytest.mark.parametrize(
    ("make", "error", "fragment"),
    [
        (lambda: [0] * 4, TypeError, "w: expected a NumPy array; got list"),
        (lambda: np.zeros(4, np.int16), TypeError, "w: expected an array of int8; got an array of int16, shape (4,)"),
        (lambda: np.zeros((2, 2), np.int8), ValueError, "w: must be one-dimensional; got shape (2, 2)"),
        (lambda: np.zeros(5, np.int8), ValueError, "w: must have length 4; got 5"),
        (lambda: np.zeros(8, np.int8)[::2], ValueError, "w: must be contiguous, it is used in place; got strides (2,)"),
        (lambda: np.broadcast_to(np.int8(0), (4,)), ValueError, "w: must be contiguous"),
    ],
)
def test_model_arrays(make, error, fragment):
    with pytest.raises(error, match=re.escape(fragment)):
        checks.check_model_array("w", make(), np.int8, 4)
