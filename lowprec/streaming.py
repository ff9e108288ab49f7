"""Data files read a block of rows at a time, from any block on.

`open_source` tells what kind a file is; a source gives blocks. Memory is bounded by a block: about 4 MiB of text, or a million
numbers of an array. Where a block ends is a *position*, which a later reading can begin at: that is how an
interrupted `lowprec.write_store` goes on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .datasets import _COMPRESSED, _column, _kind, _number, _stem, _svmlight_fault, csv_layout, decompressed, decompressing

__all__ = ["Block", "Source", "open_source"]

# Bytes of text, and numbers of an array, to a block.
_TEXT, _NUMBERS = 1 << 22, 1 << 20
# Bytes at either end of a file that tell it from another of the same size and time.
_ENDS = 1 << 16
_KINDS = "svmlight, .csv (each also as .gz, .bz2 or .xz), .npy or .parquet"


@dataclass(frozen=True)
class Block:
    """Some rows of a file.

    Attributes
    ----------
    X : ndarray of shape (rows, n), or scipy.sparse.csr_matrix
    y : ndarray
        float64, or strings; of shape (rows,), from .npy also (rows, K).
    position : dict
        Where the next block begins.
    where : callable
        ``where(i)`` says where the block's row i is in the file, for errors.
    """

    X: Any
    y: np.ndarray
    position: dict[str, int]
    where: Callable[[int], str]


class Source:
    """A file of rows.

    Parameters
    ----------
    name : str
    rows_per_block : int or None

    Attributes
    ----------
    sparse : bool
        Whether blocks are CSR.
    columns : int or None
        Features, where that is known before the file has been read.
    names : list of str or None
        Of the features.
    read : float
        Share of the file that has been read.
    """

    sparse = False
    columns: int | None = None
    names: list[str] | None = None

    def __init__(self, name: str, rows_per_block: int | None) -> None:
        self.name, self.rows, self.read = name, rows_per_block, 0.0

    def fingerprint(self) -> dict[str, Any]:
        """What tells whether the file is the one that was read before: size, time, and both ends."""
        status = os.stat(self.name)
        h = hashlib.blake2b(digest_size=16)
        with open(self.name, "rb") as f:
            h.update(f.read(_ENDS))
            f.seek(max(0, status.st_size - _ENDS))
            h.update(f.read(_ENDS))
        return {"bytes": status.st_size, "modified": status.st_mtime_ns, "ends": h.hexdigest()}

    def blocks(self, position: dict[str, int] | None = None) -> Iterator[Block]:
        """The rows from a position on, in their order; None: from the beginning."""
        raise NotImplementedError


def open_source(
    name: str, *, target: str | int | None = None, labels: str | None = None, rows_per_block: int | None = None
) -> Source:
    """The source that a file is, by its name, or where that says nothing by its content.

    Parameters
    ----------
    name : str
    target : str or int, optional
        CSV and Parquet: name or number of the label's column; by default the last.
    labels : str, optional
        npy: the file of the labels.
    rows_per_block : int, optional
        Of text: lines. None: about 4 MiB of text, or a million numbers.
    """
    if not os.path.exists(name):
        raise FileNotFoundError(f"{name}: no such file")
    if os.path.isdir(name):
        raise checks.bad_file(name, "is a folder", expected="a data file")
    suffix = _stem(name).suffix.lower()
    compressed = Path(name).suffix.lower() in _COMPRESSED
    if suffix == ".parquet" and not compressed:
        kind = "parquet"
    else:
        with open(name, "rb") as f, decompressing(name):
            kind = _kind(name, decompressed(name, f).read(_ENDS))
        if kind not in ("svmlight", "csv", "npy"):
            raise checks.bad_file(name, f"is read as {kind}, which cannot be read a block at a time", expected=_KINDS)
        if kind == "npy" and compressed:
            raise checks.bad_file(name, "a compressed array cannot be read a block at a time", expected="the .npy file itself")
    if target is not None and kind not in ("csv", "parquet"):
        raise ValueError(f"target: only CSV and Parquet files have columns to choose from; {name} is read as {kind}")
    if labels is not None and kind != "npy":
        raise ValueError(f"labels: only npy files have their labels in another; {name} is read as {kind}")
    if kind == "svmlight":
        return _Svmlight(name, rows_per_block)
    if kind == "npy":
        return _Npy(name, rows_per_block, labels)
    return (_Csv if kind == "csv" else _Parquet)(name, rows_per_block, target)


# ---- text --------------------------------------------------------------------------------------------------


class _Text(Source):
    """Whole lines of a text, decompressed as it is read. A position counts rows, lines and bytes of the text."""

    def _chunks(self, position: dict[str, int] | None, quotes: bool = False) -> Iterator[tuple[bytes, int, int]]:
        """Some lines, how many lines came before them, and the bytes to their end."""
        start, line = (0, 0) if position is None else (position["offset"], position["line"])
        size = max(os.path.getsize(self.name), 1)
        with open(self.name, "rb") as raw, decompressing(self.name):
            f = decompressed(self.name, raw)
            if f is not raw:
                f = io.BufferedReader(f, 1 << 20)  # whose readline is fast
            f.seek(start)
            while True:
                if self.rows is None:
                    chunk = f.read(_TEXT) + f.readline()
                else:
                    chunk = b"".join(itertools.islice(f, self.rows))
                while quotes and chunk.count(b'"') % 2 and (more := f.readline()):
                    chunk += more  # a cell in quotes may hold an end of a line
                if not chunk:
                    return
                start += len(chunk)
                self.read = raw.tell() / size
                yield chunk, line, start
                line += chunk.count(b"\n")


def _nth_row(chunk: bytes, i: int) -> int:
    """The number, from 0, of the line that holds row `i` of some lines with blank ones and comments between."""
    rows = (k for k, line in enumerate(chunk.split(b"\n")) if line.split(b"#", 1)[0].strip())
    return next(itertools.islice(rows, i, None), 0)


class _Svmlight(_Text):
    """svmlight, read by scikit-learn; column numbers as they stand in the file."""

    sparse = True

    def blocks(self, position: dict[str, int] | None = None) -> Iterator[Block]:
        datasets = checks.need_extra("sklearn.datasets", "learn", f"reading {self.name}")
        row = 0 if position is None else position["row"]
        for chunk, line, end in self._chunks(position):
            try:
                X, y = datasets.load_svmlight_file(io.BytesIO(chunk), dtype=np.float32, zero_based=True)
            except (ValueError, IndexError, OverflowError) as error:
                at, problem = _svmlight_fault(chunk)
                problem = problem or f"not svmlight ({error})"
                where = None if at is None else line + at
                raise checks.bad_file(self.name, problem, line=where, expected="LABEL INDEX:VALUE ...") from None
            if X.shape[0] == 0:
                continue
            row += X.shape[0]
            after = {"row": row, "line": line + chunk.count(b"\n"), "offset": end}
            where = lambda i, chunk=chunk, line=line: f"line {line + _nth_row(chunk, i) + 1}"  # noqa: E731
            yield Block(X, y.astype(np.float64, copy=False), after, where)


class _Csv(_Text):
    """Commas, semicolons or tabs, with a header or without."""

    def __init__(self, name: str, rows_per_block: int | None, target: str | int | None) -> None:
        super().__init__(name, rows_per_block)
        with open(name, "rb") as raw, decompressing(name):
            f = io.BufferedReader(decompressed(name, raw)) if Path(name).suffix.lower() in _COMPRESSED else raw
            first = next((line for line in f if line.removeprefix(b"\xef\xbb\xbf").strip()), b"")
        text = self._decoded(first.removeprefix(b"\xef\xbb\xbf"))
        if not text.strip():
            raise checks.bad_file(name, "the file is empty")
        self.delimiter, cells, self.column, self.header = csv_layout(name, text.rstrip("\r\n"), target)
        self.width, self.columns = len(cells), len(cells) - 1
        self.features = [j for j in range(self.width) if j != self.column]
        self.cells = cells
        self.names = [cells[j] for j in self.features] if self.header else None

    def _decoded(self, chunk: bytes) -> str:
        try:
            text = chunk.decode("utf-8")
        except UnicodeDecodeError as error:
            raise checks.bad_file(self.name, f"not text in UTF-8 ({error.reason} at {chunk[error.start]:#04x})") from None
        if "\0" in text:
            raise checks.bad_file(self.name, "holds zero bytes, so it is no text")
        return text

    def blocks(self, position: dict[str, int] | None = None) -> Iterator[Block]:
        row = 0 if position is None else position["row"]
        header = self.header and position is None
        for chunk, line, end in self._chunks(position, quotes=True):
            text = self._decoded(chunk.removeprefix(b"\xef\xbb\xbf") if line == 0 else chunk)
            found = self._fast(text, header) or self._slow(text, header, line)
            header = header and not text.strip()
            X, y, where = found
            count = len(X)
            if len(X) == 0:
                continue
            row += len(X)
            after = {"row": row, "line": line + chunk.count(b"\n"), "offset": end}
            yield Block(X, y, after, where or self._line(text, line, count))

    def _line(self, text: str, line: int, count: int) -> Callable[[int], str]:
        """Where a row is, found when somebody asks."""

        def where(i: int) -> str:
            rows = [number for number, _ in self._rows(text, line)]
            return f"line {rows[i + len(rows) - count]}"  # a header is before the rows

        return where

    def _fast(self, text: str, header: bool) -> tuple[np.ndarray, np.ndarray, None] | None:
        """By NumPy's parser, if nothing is unusual."""
        lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()][1 if header else 0 :]
        commas = self.width - 1
        if '"' in text or not lines or any(line.count(self.delimiter) != commas for line in lines):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                how: dict[str, Any] = {"delimiter": self.delimiter, "comments": None, "ndmin": 2}
                X = np.loadtxt(lines, usecols=self.features, **how)
                try:
                    y = np.loadtxt(lines, usecols=[self.column], **how)[:, 0]
                except ValueError:
                    y = np.array([line.split(self.delimiter)[self.column].strip() for line in lines])
                    if not y.astype(bool).all() or any(_number(cell) is not None for cell in y):
                        return None
        except ValueError:
            return None
        return (X, y, None) if len(X) == len(y) == len(lines) else None

    def _rows(self, text: str, line: int) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line + reader.line_num, cells
        except csv.Error as error:
            raise checks.bad_file(self.name, str(error), line=line + reader.line_num) from None

    def _slow(self, text: str, header: bool, line: int) -> tuple[np.ndarray, np.ndarray, Callable[[int], str]]:
        """A cell at a time: for what is unusual, and to say what is wrong."""
        rows: list[list[float]] = []
        targets: list[str] = []
        numbers: list[int] = []
        for number, cells in itertools.islice(self._rows(text, line), 1 if header else 0, None):
            if len(cells) != self.width:
                raise checks.bad_file(self.name, f"{len(cells)} columns", line=number, expected=f"{self.width}")
            values = [_number(cells[j]) for j in self.features]
            if None in values:
                at = self.features[values.index(None)]
                label = f" ({self.cells[at]})" if self.header else ""
                raise checks.bad_file(self.name, f"{cells[at]!r} in column {at}{label} is not a number", line=number)
            if not cells[self.column].strip():
                raise checks.bad_file(self.name, "the label is missing", line=number)
            rows.append(values)  # type: ignore[arg-type]
            targets.append(cells[self.column].strip())
            numbers.append(number)
        labels = [_number(t) for t in targets]
        words = [k for k, label in enumerate(labels) if label is None]
        if words and len(words) < len(labels):
            k = words[0] if words[0] > 0 else next(k for k, label in enumerate(labels) if label is not None)
            problem = f"the label {targets[k]!r} after {targets[k - 1]!r}"
            raise checks.bad_file(self.name, problem, line=numbers[k], expected="all numbers or all words")
        y = np.array(targets) if words else np.array(labels, np.float64)
        return np.array(rows, np.float64).reshape(-1, self.columns or 0), y, lambda i: f"line {numbers[i]}"


# ---- arrays ------------------------------------------------------------------------------------------------


class _Npy(Source):
    """A memory-mapped array, with the labels in its last column or in another file."""

    def __init__(self, name: str, rows_per_block: int | None, labels: str | None) -> None:
        super().__init__(name, rows_per_block)
        self.labels = labels
        a = self._map(name)
        if labels is not None:
            self.X, self.y = (a.reshape(len(a), -1) if a.ndim > 2 else a), self._map(labels)
            if self.y.ndim not in (1, 2) or len(self.y) != len(self.X):
                raise checks.bad_file(labels, f"labels of shape {self.y.shape} for {len(self.X)} rows", expected="one for each")
        else:
            if a.ndim != 2 or a.shape[1] < 2:
                rule = "rows of features with the label last, or labels=FILE"
                raise checks.bad_file(name, f"the array has shape {a.shape}", expected=rule)
            self.X, self.y = a[:, :-1], a[:, -1]
        if self.X.ndim != 2 or self.X.size == 0:
            raise checks.bad_file(name, f"no examples: the data have shape {self.X.shape}", expected="rows and columns")
        self.columns = self.X.shape[1]

    @staticmethod
    def _map(name: str) -> np.ndarray:
        try:
            a = np.load(name, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such file") from None
        except (OSError, EOFError, ValueError) as error:
            problem = "holds Python objects, which are not read" if "allow_pickle" in str(error) else str(error)
            raise checks.bad_file(name, f"truncated or not a NumPy file ({problem})") from None
        if not isinstance(a, np.ndarray):
            raise checks.bad_file(name, "this is an npz archive by another name", expected="a .npy file")
        try:
            checks.check_native_real(a, name)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return np.asarray(a)

    def fingerprint(self) -> dict[str, Any]:
        own = super().fingerprint()
        return own if self.labels is None else own | {"labels": Source(self.labels, None).fingerprint()}

    def blocks(self, position: dict[str, int] | None = None) -> Iterator[Block]:
        m, n = self.X.shape
        rows = self.rows or max(1, _NUMBERS // n)
        for first in range(0 if position is None else position["row"], m, rows):
            last = min(first + rows, m)
            self.read = last / m
            y = self.y[first:last].astype(np.float64)
            yield Block(self.X[first:last], y, {"row": last}, lambda i, first=first: f"row {first + i}")


class _Parquet(Source):
    """Columns of numbers, and one of labels."""

    def __init__(self, name: str, rows_per_block: int | None, target: str | int | None) -> None:
        super().__init__(name, rows_per_block)
        self.parquet = checks.need_extra("pyarrow.parquet", "parquet", f"reading {name}")
        arrow = checks.need_extra("pyarrow", "parquet", f"reading {name}")
        try:
            self.file = self.parquet.ParquetFile(name)
            schema = self.file.schema_arrow
        except arrow.ArrowException as error:
            raise checks.bad_file(name, f"truncated or not a Parquet file ({error})") from None
        self.error = arrow.ArrowException
        cells = list(schema.names)
        if len(cells) < 2:
            raise checks.bad_file(name, f"has {len(cells)} columns", expected="features and a label")
        self.label = cells[_column(name, cells, target)]
        self.names = [cell for cell in cells if cell != self.label]
        if len(self.names) != len(cells) - 1:
            raise checks.bad_file(name, f"has two columns by the name {self.label!r}", expected="names that differ")
        types = arrow.types
        for cell in self.names:
            kind = schema.field(cell).type
            if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                raise checks.bad_file(name, f"the column {cell!r} has type {kind}", expected="numbers")
        self.dtype = np.result_type(*{schema.field(cell).type.to_pandas_dtype() for cell in self.names})
        self.columns, self.m = len(self.names), self.file.metadata.num_rows
        if self.m == 0:
            raise checks.bad_file(name, "no examples", expected="rows and columns")

    def blocks(self, position: dict[str, int] | None = None) -> Iterator[Block]:
        done = 0 if position is None else position["row"]
        first, groups = 0, []
        meta = self.file.metadata
        for g in range(meta.num_row_groups):
            count = meta.row_group(g).num_rows
            if groups or first + count > done:
                groups.append(g)
            else:
                first += count
        rows = self.rows or max(1, _NUMBERS // len(self.names))
        try:
            for batch in self.file.iter_batches(batch_size=rows, row_groups=groups):
                skip, begin = max(0, done - first), max(done, first)
                first += len(batch)
                if skip >= len(batch):
                    continue
                self.read = first / self.m
                yield self._block(batch.slice(skip), begin, first)
        except self.error as error:
            raise checks.bad_file(self.name, f"damaged ({error})") from None

    def _block(self, batch: Any, begin: int, end: int) -> Block:
        X = np.empty((len(batch), len(self.names)), self.dtype)
        for j, cell in enumerate(self.names or []):
            X[:, j] = self._values(batch, cell, begin)
        y = self._values(batch, self.label, begin)
        if y.dtype.kind in "biuf":
            y = y.astype(np.float64)
        elif y.dtype.kind in "OU" and all(isinstance(value, str) for value in y):
            y = y.astype(str)
        else:
            raise checks.bad_file(self.name, f"the labels in {self.label!r} have type {y.dtype}", expected="numbers or strings")
        return Block(X, y, {"row": end}, lambda i: f"row {begin + i}")

    def _values(self, batch: Any, cell: str, begin: int) -> np.ndarray:
        column = batch.column(batch.schema.get_field_index(cell))
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise checks.bad_file(self.name, f"row {begin + row} has nothing in column {cell!r}", expected="a value")
        if hasattr(column, "dictionary"):
            column = column.dictionary_decode()
        return column.to_numpy(zero_copy_only=False)

