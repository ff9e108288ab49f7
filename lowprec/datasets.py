"""Reading data files, and the paper's generative model.

`load` reads svmlight, npy, npz, CSV and idx files, plain or compressed, and the data sets that come with
scikit-learn. `generative` draws data from the model of De Sa et al., ISCA 2017.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checks
from .formats import Format, as_format
from .quantized import QuantizedArray, _empty, quantize

__all__ = ["Generative", "generative", "load"]

_SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_COMPRESSED = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
_SVMLIGHT = (".svm", ".svmlight", ".libsvm", ".trn", ".tst", ".t")
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_KINDS = "svmlight (.svm, .svmlight, .libsvm), .npy, .npz, .csv, idx, each also as .gz, .bz2 or .xz, or sklearn:NAME"


def load(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    labels: str | os.PathLike[str] | None = None,
    sparse: bool = False,
) -> tuple[Any, np.ndarray]:
    """Read a data set: examples and their labels.

    Parameters
    ----------
    path : str or path-like
        What the file is, is told by its name, a compression suffix (``.gz``, ``.bz2``, ``.xz``) aside:

        - ``.svm``, ``.svmlight``, ``.libsvm``: svmlight, read by scikit-learn, returned dense as float32, or with
          `sparse` as it is. So is a name that says nothing, if the text looks so.
        - ``.npy``: a two-dimensional array, with the labels in its last column or in `labels`.
        - ``.npz``: arrays ``X`` and ``y`` (or ``data`` and ``target``, or ``x_train`` and ``y_train``).
        - ``.csv``: commas, semicolons or tabs, a header or none; labels in the column `target`.
        - idx, as MNIST comes in, told by its first bytes: labels in `labels`, or in the file beside it whose name
          has "labels-idx1" for "images-idx3".
        - ``sklearn:digits``, ``sklearn:breast_cancer``, ``sklearn:iris``, ``sklearn:wine``, ``sklearn:diabetes``.
    target : str or int, optional
        CSV: name or number (from 0, negative from the end) of the label's column. Default: the last.
    labels : str or path-like, optional
        npy and idx: the file of the labels.
    sparse : bool
        svmlight: do not make the data dense, which may need more memory than there is.

    Returns
    -------
    X : ndarray of shape (m, n), or scipy.sparse.csr_matrix
        In the type it was stored in; float32 from svmlight, float64 from CSV. CSR of float32 with `sparse`.
    y : ndarray of shape (m,)
        Numbers, or strings where a CSV's labels are not numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated or malformed, or of no known kind; the message names it, and where it can the line.
    ImportError
        If scikit-learn is needed and missing.

    Examples
    --------
    >>> from lowprec.datasets import load
    >>> X, y = load("sklearn:digits")
    >>> X.shape, y.shape
    ((1797, 64), (1797,))
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        raise checks.wrong_type("path", "a string or a path", path)
    if name.startswith("sklearn:"):
        kind, reader = "sklearn", _read_sklearn
        content: Any = name.removeprefix("sklearn:")
    else:
        content = _read_bytes(name)
        kind = _kind(name, content)
        reader = {"svmlight": _read_svmlight, "npy": _read_npy, "npz": _read_npz, "csv": _read_csv, "idx": _read_idx}[kind]
    if target is not None and kind != "csv":
        raise ValueError(f"target: only a CSV file has columns to choose from; {name} is read as {kind}")
    if checks.check_bool("sparse", sparse) and kind != "svmlight":
        raise ValueError(f"sparse: only svmlight files hold sparse data; {name} is read as {kind}")
    if labels is not None and kind not in ("idx", "npy"):
        raise ValueError(f"labels: only idx and npy files have their labels in another; {name} is read as {kind}")
    if kind == "csv":
        X, y = _read_csv(name, content, target)
    elif kind in ("idx", "npy"):
        X, y = reader(name, content, None if labels is None else os.fspath(labels))
    elif kind == "svmlight":
        X, y = _read_svmlight(name, content, sparse)
    else:
        X, y = reader(name, content)
    if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] == 0:
        raise checks.bad_file(name, f"no examples: the data have shape {X.shape}", expected="rows and columns")
    if y.ndim != 1 or len(y) != X.shape[0]:
        raise checks.bad_file(name, f"labels of shape {y.shape} for {X.shape[0]} examples", expected="one for each")
    return X, y


# ---- bytes -------------------------------------------------------------------------------------------------


def _read_bytes(name: str) -> bytes:
    """The content of a file, decompressed."""
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: no such file")
    if os.path.isdir(name):
        raise checks.bad_file(name, "is a folder", expected="a data file")
    if Path(name).suffix.lower() not in _COMPRESSED:
        return Path(name).read_bytes()
    with open(name, "rb") as f, decompressing(name):
        return decompressed(name, f).read()


def decompressed(name: str, f: Any) -> Any:
    """What an open file holds once decompressed, as a file: `f` itself where its name has no suffix of a compression."""
    module = _COMPRESSED.get(Path(name).suffix.lower())
    return f if module is None else module.open(f)


@contextlib.contextmanager
def decompressing(name: str) -> Iterator[None]:
    """Turn the errors of damaged compressed data into one that names the file."""
    try:
        yield
    except EOFError:
        raise checks.bad_file(name, "truncated: the compressed data end too early") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the content's
            raise
        raise checks.bad_file(name, f"not a {Path(name).suffix} file, or damaged ({error})") from None


def _stem(name: str) -> Path:
    """The name without a compression suffix."""
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


def _kind(name: str, content: bytes) -> str:
    if not content:
        raise checks.bad_file(name, "the file is empty")
    stem = _stem(name)
    suffix = stem.suffix.lower()
    if suffix in (".npy", ".npz", ".csv"):
        return suffix[1:]
    if suffix in _SVMLIGHT:
        return "svmlight"
    if suffix == ".tsv":
        return "csv"
    if "idx" in stem.name or (content[:2] == b"\0\0" and len(content) > 4 and content[2] in _IDX_TYPES):
        return "idx"
    lines = (line for line in content[: 1 << 16].split(b"\n") if line.strip() and not line.startswith(b"#"))
    if re.match(rb"\S+(\s+(qid|\d+):\S+)+", next(lines, b"").strip()):
        return "svmlight"
    raise checks.bad_file(name, "neither the name nor the content tells what kind of file this is", expected=_KINDS)


# ---- one reader a kind -------------------------------------------------------------------------------------


def _read_sklearn(name: str, which: str) -> tuple[np.ndarray, np.ndarray]:
    if which not in _SKLEARN:
        raise ValueError(f"{name}: choose one of {{{', '.join('sklearn:' + s for s in _SKLEARN)}}}")
    datasets = checks.need_extra("sklearn.datasets", "learn", name)
    return getattr(datasets, f"load_{which}")(return_X_y=True)


def _read_svmlight(name: str, content: bytes, sparse: bool) -> tuple[Any, np.ndarray]:
    datasets = checks.need_extra("sklearn.datasets", "learn", f"reading {name}")
    try:
        X, y = datasets.load_svmlight_file(io.BytesIO(content), dtype=np.float32)
    except (ValueError, IndexError, OverflowError) as error:
        line, problem = _svmlight_fault(content)
        raise checks.bad_file(name, problem or f"not svmlight ({error})", line=line, expected="LABEL INDEX:VALUE ...") from None
    except (UnicodeDecodeError, MemoryError) as error:
        raise checks.bad_file(name, f"not svmlight ({error})") from None
    if X.shape[0] == 0:
        raise checks.bad_file(name, "no examples", expected="LABEL INDEX:VALUE ...")
    if sparse:
        return X, y
    n_bytes = X.shape[0] * X.shape[1] * 4
    if n_bytes > _memory() // 2:
        raise checks.bad_file(
            name,
            f"{X.shape[0]} x {X.shape[1]} numbers need {n_bytes / 2**30:.1f} GiB when dense, over half of the memory",
            expected="sparse=True",
        )
    return X.toarray(), y


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 34


def _svmlight_fault(content: bytes) -> tuple[int | None, str | None]:
    """Line and nature of the first fault, for the message."""
    for i, raw in enumerate(content.split(b"\n"), 1):
        words = raw.split(b"#", 1)[0].split()
        last = -1
        for k, word in enumerate(words):
            index, colon, value = word.partition(b":")
            if k == 0 and not colon:
                if any(_number(part) is None for part in word.split(b",")):
                    return i, f"{_text(word)} is not a label"
                continue
            if k == 1 and index == b"qid":
                continue
            if not colon or not index.isdigit() or _number(value) is None:
                return i, f"{_text(word)} is not INDEX:VALUE"
            if int(index) <= last:
                return i, f"index {int(index)} does not rise"
            last = int(index)
    return None, None


def _text(raw: bytes) -> str:
    return repr(raw[:40].decode("utf-8", "replace"))


def _number(text: bytes | str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numpy(name: str, content: bytes) -> Any:
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else loaded
    except Exception as error:  # NumPy and zipfile have a dozen ways to say that a file is broken
        problem = "holds Python objects, which are not read" if "allow_pickle" in str(error) else str(error)
        raise checks.bad_file(name, f"truncated or not a NumPy file ({problem})") from None


def _numeric(name: str, a: np.ndarray, what: str) -> np.ndarray:
    if a.dtype.kind not in "biuf":
        raise checks.bad_file(name, f"{what} have type {a.dtype}", expected="real numbers")
    return a


def _read_npy(name: str, content: bytes, labels: str | None) -> tuple[np.ndarray, np.ndarray]:
    a = _numpy(name, content)
    if isinstance(a, dict):
        raise checks.bad_file(name, "this is an npz archive by another name", expected="the suffix .npz")
    a = _numeric(name, a, "the data")
    if labels is not None:
        y = _numpy(labels, _read_bytes(labels))
        return a.reshape(len(a), -1) if a.ndim > 2 else a, np.asarray(y)
    if a.ndim != 2 or a.shape[1] < 2:
        raise checks.bad_file(
            name, f"the array has shape {a.shape}", expected="rows of features with the label last, or labels=FILE"
        )
    return a[:, :-1], a[:, -1]


def _read_npz(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    arrays = _numpy(name, content)
    if not isinstance(arrays, dict):
        raise checks.bad_file(name, "this is a single array by another name", expected="the suffix .npy")
    for key, label in (("X", "y"), ("x", "y"), ("data", "target"), ("x_train", "y_train"), ("X_train", "y_train")):
        if key in arrays and label in arrays:
            X = _numeric(name, arrays[key], f"the array {key!r}")
            return X.reshape(len(X), -1) if X.ndim > 2 else X, arrays[label]
    raise checks.bad_file(name, f"holds {{{', '.join(map(str, arrays))}}}", expected="arrays X and y")


def _read_csv(name: str, content: bytes, target: str | int | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise checks.bad_file(name, f"not text in UTF-8 (byte {error.start})") from None
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise checks.bad_file(name, "the file is empty")
    delimiter, names, column, header = csv_layout(name, first, target)
    n = len(names)
    if "\0" in text:
        raise checks.bad_file(name, "holds zero bytes, so it is no text")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is nothing below a header is an error of ours, further down
            whole = np.loadtxt(
                io.StringIO(text),
                delimiter=delimiter,
                ndmin=2,
                comments=None,
                quotechar='"',
                skiprows=_skip(text, header),
            )
        if whole.shape[1] == n and len(whole):
            return np.delete(whole, column, axis=1), whole[:, column].copy()
    except ValueError:
        pass  # a label that is a word, or a fault: the slow way tells them apart
    rows, targets = [], []
    for number, cells in _cells(name, text, delimiter, header):
        if len(cells) != n:
            raise checks.bad_file(name, f"{len(cells)} columns", line=number, expected=f"{n}")
        values = [_number(cell) for j, cell in enumerate(cells) if j != column]
        if None in values:
            at = [j for j in range(n) if j != column][values.index(None)]
            label = f" ({names[at]})" if header else ""
            raise checks.bad_file(name, f"{cells[at]!r} in column {at}{label} is not a number", line=number)
        if not cells[column].strip():
            raise checks.bad_file(name, "the label is missing", line=number)
        rows.append(values)
        targets.append(cells[column].strip())
    if not rows:
        raise checks.bad_file(name, "no examples below the header")
    numbers = [_number(t) for t in targets]
    y = np.array(targets) if None in numbers else np.array(numbers, np.float64)
    return np.array(rows, np.float64), y


def csv_layout(name: str, first: str, target: str | int | None) -> tuple[str, list[str], int, bool]:
    """Delimiter, cells of the first line, the label's column, and whether that line is a header."""
    delimiter = max(",;\t", key=first.count)
    names = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
    if len(names) < 2:
        raise checks.bad_file(name, "the first line has one column", expected="features and a label")
    column = _column(name, names, target)
    # A header is a first line with a word where a number should be; the label may be a word anywhere.
    header = any(_number(cell) is None for j, cell in enumerate(names) if j != column)
    if isinstance(target, str) and not header and _number(target) is None:
        raise checks.bad_file(name, f"no header to find the column {target!r} in")
    return delimiter, names, column, header


def _column(name: str, names: list[str], target: str | int | None) -> int:
    if target is None:
        return len(names) - 1
    if isinstance(target, str) and target in names:
        return names.index(target)
    try:
        j = int(target)
    except ValueError:
        raise ValueError(f"target: {name} has no column {target!r}; choose one of {{{', '.join(names[:20])}}}") from None
    if not -len(names) <= j < len(names):
        raise ValueError(f"target: {name} has {len(names)} columns; got {j}")
    return j % len(names)


def _skip(text: str, header: bool) -> int:
    """Lines before the first example."""
    if not header:
        return 0
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip())


def _cells(name: str, text: str, delimiter: str, header: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                header = False
                continue
            yield reader.line_num, cells
    except csv.Error as error:
        raise checks.bad_file(name, str(error), line=reader.line_num) from None


def _idx(name: str, content: bytes) -> np.ndarray:
    """The array of an idx file: two zeros, a type, the number of dimensions, these big-endian, the data."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES or not content[3]:
        raise checks.bad_file(name, f"does not begin as an idx file: {content[:4].hex(' ')}", expected="00 00 TYPE NDIM")
    ndim, dtype = content[3], np.dtype(_IDX_TYPES[content[2]])
    start = 4 + 4 * ndim
    if len(content) < start:
        raise checks.bad_file(name, f"truncated: {len(content)} bytes", expected=f"{start} for the header")
    shape = tuple(int(k) for k in np.frombuffer(content, ">u4", ndim, 4))
    size = dtype.itemsize
    for k in shape:
        size *= k
    if len(content) != start + size:
        fault = "truncated" if len(content) < start + size else "too long"
        raise checks.bad_file(
            name, f"{fault}: {len(content) - start} bytes of data", expected=f"{size} for shape {shape} of {dtype.name}"
        )
    a = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return a.astype(dtype.newbyteorder("="), copy=False)


def _read_idx(name: str, content: bytes, labels: str | None) -> tuple[np.ndarray, np.ndarray]:
    X = _idx(name, content)
    if labels is None:
        path = Path(name)
        for a, b in (("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1"), ("images", "labels")):
            if a in path.name:
                labels = str(path.with_name(path.name.replace(a, b)))
                break
        if labels is None or not os.path.exists(labels):
            raise checks.bad_file(name, "an idx file has no labels in it", expected="labels=FILE, the idx file of the labels")
    y = _idx(labels, _read_bytes(labels))
    if y.ndim != 1:
        raise checks.bad_file(labels, f"holds an array of shape {y.shape}", expected="labels, one dimension")
    return X.reshape(len(X), -1), y


# ---- the paper's generative model --------------------------------------------------------------------------


class Generative(NamedTuple):
    """Data drawn from the model of logistic regression.

    Attributes
    ----------
    X : ndarray of float32, or QuantizedArray; shape (m, n)
        Uniform in [-1, 1].
    y : ndarray of int8, shape (m,)
        -1 or +1.
    w : ndarray of float64, shape (n,)
        The true model, uniform in [-1, 1].
    """

    X: np.ndarray | QuantizedArray
    y: np.ndarray
    w: np.ndarray


# Numbers to a block: its float32 numbers are still in a cache when they are quantized.
_BLOCK = 1 << 19


def generative(n: int, m: int, seed: int = 0, *, fmt: Format | str | int | None = None) -> Generative:
    """The paper's data: w and every x_i uniform in [-1, 1]^n, P(y_i = 1) = 1 / (1 + exp(-x_i . w)).

    Parameters
    ----------
    n : int
        Features.
    m : int
        Examples.
    seed : int
        In [0, 2**64). The same numbers come in every format.
    fmt : {"4", "8", "16", "32f"} or Format, optional
        Give X as a QuantizedArray of this format, rounded to nearest, with the largest code for 1. It is made in
        blocks: beside the codes only a few MiB are needed (and one row, if that is more). None: a float32 array.

    Returns
    -------
    Generative
        Named tuple ``(X, y, w)``.

    Examples
    --------
    >>> from lowprec.datasets import generative
    >>> X, y, w = generative(256, 1000, seed=1, fmt="8")
    >>> X
    QuantizedArray(shape=(1000, 256), format='8', scale=0.007874015748031496)
    """
    n, m = checks.check_int("n", n, minimum=1), checks.check_int("m", m, minimum=1)
    rng = np.random.default_rng(checks.check_seed(seed))
    w = rng.uniform(-1.0, 1.0, n)
    y = np.empty(m, np.int8)
    if fmt is None:
        plain = np.empty((m, n), np.float32)
        X: np.ndarray | QuantizedArray = plain
    else:
        fmt = as_format(fmt, "fmt")
        X = _empty(fmt, 1.0 if fmt.is_float else 1.0 / fmt.max_code, (m, n))
    rows = max(1, _BLOCK // n)
    for i in range(0, m, rows):
        part = slice(i, min(i + rows, m))
        block = rng.random((part.stop - i, n), np.float32)
        block *= 2.0
        block -= 1.0
        p = _products(block, w)
        y[part] = np.where(rng.random(len(block)) < 0.5 * (1.0 + np.tanh(0.5 * p)), 1, -1)
        if isinstance(X, QuantizedArray):
            quantize(block, X.format, scale=X.scale, rounding="nearest", out=X[part])
        else:
            X[part] = block
    return Generative(X, y, w)


def _products(block: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Row products in float64, by pieces that stay in a cache."""
    p = np.zeros(len(block))
    columns = 1 << 14
    rows = max(1, columns // block.shape[1])
    for i in range(0, len(block), rows):
        for j in range(0, block.shape[1], columns):
            piece = block[i : i + rows, j : j + columns].astype(np.float64)
            # not a BLAS: a seed should give the same labels whatever its number of threads
            p[i : i + rows] += np.einsum("ij,j->i", piece, w[j : j + columns])
    return p
