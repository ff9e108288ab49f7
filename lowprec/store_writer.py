"""Writing data to disk as codes, a block of rows at a time: `write_store`.

What is written goes into the folder ``unfinished`` of the store, with a journal: where in the input the next block begins, and
how many bytes of each file are on the disk. When all is there the files are moved to their places, and the manifest
is replaced. That is the one moment at which the old store becomes the new one. docs/architecture.md, "Stores".
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import _sparse, atomic, checks
from .formats import Format, as_format
from .quantized import _empty, _largest, _scale_for, quantize
from .sparse import _INDEX_DTYPES, SparseArray, _pack, as_index
from .store import FILE_NAME, MANIFEST, UNFINISHED, VERSION, Growing, Store, is_store, open_store, read_manifest, sealed
from .streaming import Block, Source, open_source

__all__ = ["write_store"]

_JOURNAL = "journal.json"
# Seconds of work that a kill may cost; what is written is forced to the disk so often.
_SECONDS = 1.0
# More different words than this are no classes.
_MAX_CLASSES = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[str, str, float], None]


def write_store(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    fmt: Format | str | int = "8",
    scale: float | str | None = None,
    index: Any = None,
    target: str | int | None = None,
    labels: str | os.PathLike[str] | None = None,
    features: int | None = None,
    first_index: int | None = None,
    rows_per_block: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Quantize a data file into a store, a folder of arrays that are used where they lie.

    Numbers are rounded to nearest: training on the store gives the bits of training on the file loaded whole. Memory is
    bounded by a block (of Parquet also by a row group), whatever the size of the file: by default about 50 MiB.

    Parameters
    ----------
    source : str or path-like
        svmlight (a sparse store), CSV (each also as .gz, .bz2 or .xz), .npy or .parquet (dense stores); `lowprec.datasets.load`
        says how they are told apart.
    out : str or path-like
        The folder. A store in it is replaced, at once and at the very end; any other folder must be empty.
    fmt : {"4", "8", "16", "32f"} or Format
        Format of the codes, the D of a signature.
    scale : float, "feature" or None
        The value of one code. None: the largest magnitude over the largest code, which takes a pass of its own over the
        file. "feature": the same for each column (dense data). A .npy array of the format's own type is its own codes, with
        scale 1, as for `lowprec.train`.
    index : {8, 16, 32}, optional
        Sparse data: bits of an index. None: those that take the fewest bytes.
    target : str or int, optional
        CSV and Parquet: name or number of the label's column; by default the last.
    labels : str or path-like, optional
        .npy: the file of the labels, an array of shape (m,) or (m, K).
    features : int, optional
        svmlight: how many there are. None: up to the largest that occurs.
    first_index : {0, 1}, optional
        svmlight: the number of the first feature. None: 0 if a 0 occurs in the file, else 1. With `scale`, `index`,
        `features` and this the file is read once, otherwise twice.
    rows_per_block : int, optional
        Rows (of text: lines) that are held at a time. None: 4 MiB of text, or a million numbers. The store is the same.
    resume : bool
        Go on where a run that was killed had come to, if there was one with the same input and arguments; otherwise begin.
    progress : callable, optional
        Called after each block with what is being done, the rows so far, and the share of the file.

    Returns
    -------
    Store
        Open, not verified.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is malformed, or holds NaN or infinity, which is said with the line or row; if `out` is no store and not
        empty; if, with `resume`, the input or an argument is not what it was. A store that was there is there still.
    OSError
        If the disk is full. What was written stays for `resume`, and so does the old store.

    See Also
    --------
    lowprec.open_store

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import lowprec as lp
    >>> folder = tempfile.mkdtemp()
    >>> X = np.random.default_rng(0).uniform(-1, 1, (4000, 8))
    >>> np.save(f"{folder}/a.npy", np.column_stack([X, X[:, 0] > X[:, 1]]))
    >>> store = lp.write_store(f"{folder}/a.npy", f"{folder}/a.store", fmt="8")
    >>> store.shape, store.signature
    ((4000, 8), 'D8')
    >>> r = lp.train(store.X, store.y, signature="D8M8", step_size=0.1, n_threads=1)
    >>> bool(np.mean((X @ r.coef > 0) == store.y) > 0.95)
    True
    """
    name, folder = os.fspath(source), Path(out)
    if not isinstance(name, str):
        raise checks.wrong_type("source", "a string or a path", source)
    options = _options(as_format(fmt, "fmt"), scale, index, target, labels, features, first_index)
    if rows_per_block is not None:
        rows_per_block = checks.check_int("rows_per_block", rows_per_block, minimum=1)
    resume = checks.check_bool("resume", resume)
    checks.check_callback(progress, "progress")
    file = open_source(name, target=target, labels=options["labels"], rows_per_block=rows_per_block)
    _check_kind(file, options)
    if folder.exists() and not folder.is_dir():
        raise checks.wrong_value("out", "must be a folder; there is a file", str(folder))
    if folder.is_dir() and not is_store(folder) and any(folder.iterdir()):
        raise checks.wrong_value("out", "must be a store, to be replaced, or an empty folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with this process, however it ends
        except BlockingIOError:
            raise checks.wrong_value("out", "another process is writing this store; wait for it", str(folder)) from None
        return _Writing(file, folder, options, progress or (lambda *_: None)).run(resume=resume)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        problem = f"{folder}: {os.strerror(error.errno)}; what was there before is unchanged"
        raise OSError(error.errno, f"{problem}; resume=True (--resume) goes on from here") from None
    finally:
        os.close(lock)


def _options(fmt: Format, scale: Any, index: Any, target: Any, labels: Any, features: Any, first: Any) -> dict[str, Any]:
    """What a store depends on beside its input, as JSON has it."""
    if isinstance(scale, str):
        checks.check_choice("scale", scale, ("feature",))
    elif scale is not None:
        scale = checks.check_scale(scale)
    if first is not None:
        first = checks.check_int("first_index", first, minimum=0, maximum=1)
    return {
        "fmt": str(fmt), "scale": scale, "index": None if index is None else as_index(index).bits, "target": target,
        "labels": None if labels is None else os.fspath(labels),
        "features": None if features is None else checks.check_int("features", features, minimum=1), "first_index": first,
    }  # fmt: skip


def _check_kind(file: Source, options: dict[str, Any]) -> None:
    if file.sparse and options["scale"] == "feature":
        raise ValueError("scale: sparse data have one scale for all columns; got 'feature'")
    for name in ("index", "features", "first_index"):
        if not file.sparse and options[name] is not None:
            raise ValueError(f"{name}: only for sparse data, that is svmlight; {file.name} is dense")


class _Writing:
    """One run of `write_store`. `state` is what the journal holds: all that a later run needs to go on."""

    def __init__(self, file: Source, folder: Path, options: dict[str, Any], progress: Progress) -> None:
        self.file, self.folder, self.options, self.progress = file, folder, options, progress
        self.unfinished = folder / UNFINISHED
        self.journal = self.unfinished / _JOURNAL
        self.fmt = as_format(options["fmt"])
        self.made = {"source": file.fingerprint(), "options": options}
        self.state: dict[str, Any] = {"made": self.made}
        self.files: dict[str, Growing] = {}
        self.saved = time.monotonic()

    def run(self, *, resume: bool) -> Store:
        found = self._found() if resume else None
        if found is None:
            if resume and self._is_done():
                self._clean(read_manifest(self.folder)[0])
                return open_store(self.folder, verify=False)
            self._remove_unfinished()
            self.unfinished.mkdir()
        else:
            self.state = found
        try:
            if "manifest" not in self.state:
                self._survey()
                self._encode()
                self._describe()
            self._commit()
        except (ValueError, TypeError):  # nothing to go on from: the input will have to be another
            self._remove_unfinished()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
            raise
        finally:
            for growing in self.files.values():
                growing.close()
        return open_store(self.folder, verify=False)

    # ---- the journal ----

    def _found(self) -> dict[str, Any] | None:
        """The journal of an earlier run, if it is one of this input and these options."""
        try:
            state = json.loads(self.journal.read_bytes())
            made = state["made"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise checks.bad_file(self.journal, f"is no journal ({error}); leave out resume to begin anew") from None
        differing = [
            f"{key} was {made[part].get(key)!r}, is {value!r}"
            for part in ("source", "options")
            for key, value in self.made[part].items()
            if made[part].get(key) != value
        ]
        if differing:
            problem = f"must be of the same input and options to go on: {'; '.join(differing)}"
            raise checks.bad_file(self.journal, f"{problem}; leave out resume to begin anew")
        return state

    def _is_done(self) -> bool:
        """Whether the store is what this run would make."""
        try:
            return read_manifest(self.folder)[0]["made"] == self.made
        except (FileNotFoundError, ValueError):
            return False

    def _save(self, *, now: bool = False) -> None:
        """Write the journal, if it is time: first what it says of the files must be on the disk."""
        if not now and time.monotonic() - self.saved < _SECONDS:
            return
        for growing in self.files.values():
            growing.sync()
        self.state["files"] = {name: growing.state() for name, growing in self.files.items()}
        text = json.dumps(self.state).encode()
        atomic.replace(self.journal, lambda f: f.write(text))
        self.saved = time.monotonic()

    # ---- first pass ----

    @property
    def _own_codes(self) -> bool:
        """Whether the numbers are codes already, as `train` sees it."""
        dtype = np.dtype(np.float32) if self.file.sparse else getattr(getattr(self.file, "X", None), "dtype", None)
        return self.options["scale"] is None and dtype == self.fmt.dtype and (self.fmt.is_float or dtype.kind == "i")

    def _survey(self) -> None:
        """Find the scale, and of sparse data the number of columns and the index."""
        given = self.options["scale"]
        per_column = given == "feature"
        look_for_scale = per_column or (given is None and not self.fmt.is_float and not self._own_codes)
        sparse = self.file.sparse
        look = look_for_scale or (sparse and None in (self.options[name] for name in ("index", "features", "first_index")))
        begin = {"position": None, "rows": 0, "largest": None, "entries": 0, "columns": 0, "done": not look}
        s = self.state.setdefault("survey", begin)
        if sparse:
            s.setdefault("lowest", None)
            # Fillers that an index of 8, 16, 32 bits would take, where columns count from 0 and from 1.
            s.setdefault("fillers", [[0, 0, 0], [0, 0, 0]])
        if not s["done"]:
            for block in self.file.blocks(s["position"]):
                self._check_finite(block)
                values = block.X.data[:, np.newaxis] if sparse else block.X
                if look_for_scale and len(values):
                    largest = np.asarray(_largest(values, per_column))
                    s["largest"] = (largest if s["largest"] is None else np.maximum(s["largest"], largest)).tolist()
                if sparse:
                    self._survey_columns(block.X, s)
                s["rows"] += block.X.shape[0]
                s["position"] = block.position
                self.progress("Looking at the data", f"{s['rows']:,} rows", self.file.read)
                self._save()
            if s["rows"] == 0:
                raise checks.bad_file(self.file.name, "no examples", expected="at least one row")
            s["done"] = True
            self._save(now=True)

    def _survey_columns(self, X: Any, s: dict[str, Any]) -> None:
        s["entries"] += X.nnz
        if X.nnz == 0:
            return
        indptr, columns = np.ascontiguousarray(X.indptr, np.int64), np.ascontiguousarray(X.indices)
        lowest, highest = int(columns.min()), int(columns.max())
        s["lowest"] = lowest if s["lowest"] is None else min(lowest, s["lowest"])
        s["columns"] = max(s["columns"], highest + 1)
        for first in (0, 1) if s["lowest"] > 0 else (0,):
            extra = _sparse.scan(indptr, columns - columns.dtype.type(first), highest + 1)[2]
            s["fillers"][first] = [a + b for a, b in zip(s["fillers"][first], extra, strict=True)]

    def _scale(self) -> float | np.ndarray:
        given, survey = self.options["scale"], self.state["survey"]
        if given is not None and given != "feature":
            return given
        if given is None and (self.fmt.is_float or self._own_codes):
            return 1.0
        largest = np.asarray(survey["largest"] or 0.0, np.float64)
        if self.fmt.is_float:  # the coordinates of training, see lowprec.preparing
            return np.where(largest > 0, largest, 1.0)
        scale = _scale_for(largest, self.fmt)
        return scale if given == "feature" else float(scale)

    def _layout(self) -> tuple[int, int, int]:
        """Of sparse data: the number of columns, the first one's number, and the bits of the index."""
        o, s = self.options, self.state["survey"]
        first = o["first_index"]
        if first is None:
            first = 1 if s["lowest"] is not None and s["lowest"] > 0 else 0
        n = o["features"] or s["columns"] - first
        if n < 1:
            raise checks.bad_file(self.file.name, "no row has a feature", expected="INDEX:VALUE in some of them")
        bits = o["index"]
        if bits is None:
            stored = {b: s["entries"] + (f if n > 2**b else 0) for b, f in zip(_INDEX_DTYPES, s["fillers"][first], strict=True)}
            bits = min(stored, key=lambda b: (stored[b] * (b + self.fmt.bits), b))
        return n, first, bits

    # ---- second pass ----

    def _encode(self) -> None:
        """Write the codes of all blocks."""
        scale = self._scale()
        names = ("codes", "index", "indptr", "labels") if self.file.sparse else ("codes", "labels")
        begun = self.state.get("files") or {}
        for name in names:
            self.files[name] = Growing(self.unfinished / f"{name}.bin", begun.get(name))
        if self.file.sparse and not begun:
            self.files["indptr"].write(np.zeros(1, np.int64))
        s = self.state.setdefault(
            "codes", {"position": None, "rows": 0, "clipped": 0, "stored": 0, "words": None, "classes": [], "labels": []}
        )
        layout = self._layout() if self.file.sparse else None
        for block in self.file.blocks(s["position"]):
            self._check_finite(block)
            self._write_labels(block, s)
            if layout is None:
                self._write_dense(block, scale, s)
            else:
                self._write_sparse(block, float(scale), layout, s)
            s["rows"] += block.X.shape[0]
            s["position"] = block.position
            self.progress("Writing codes", f"{s['rows']:,} rows", self.file.read)
            self._save()
        if s["rows"] == 0:
            raise checks.bad_file(self.file.name, "no examples", expected="at least one row")
        if self.file.fingerprint() != self.made["source"]:
            raise checks.bad_file(self.file.name, "changed while it was read", expected="a file that nobody writes to")

    def _write_dense(self, block: Block, scale: Any, s: dict[str, Any]) -> None:
        q = _empty(self.fmt, scale, block.X.shape)
        if self._own_codes:
            q.codes[...] = block.X
        else:
            quantize(block.X, self.fmt, scale=scale, rounding="nearest", out=q)
            s["clipped"] += q.clipped
        s["stride"] = q.row_stride
        self.files["codes"].write(q.buffer)

    def _write_sparse(self, block: Block, scale: float, layout: tuple[int, int, int], s: dict[str, Any]) -> None:
        n, first, bits = layout
        X = block.X
        indices = X.indices - X.indices.dtype.type(first)
        wrong = np.flatnonzero((indices < 0) | (indices >= n))
        if wrong.size:
            row = int(np.searchsorted(X.indptr, wrong[0], side="right")) - 1
            place = f"{self.file.name}, {block.where(row)}"
            raise checks.bad_file(place, f"index {X.indices[wrong[0]]}", expected=f"one in [{first}, {n + first})")
        csr = type(X)((X.data, indices, X.indptr), shape=(X.shape[0], n))
        q = quantize(csr, self.fmt, scale=scale, rounding="nearest", index=bits)
        assert isinstance(q, SparseArray)
        s["clipped"] += q.clipped
        s["differences"] = q.differences
        codes = q.codes
        if self.fmt.packed and (s["stored"] + s["rows"]) % 2:
            # Where a row's codes begin depends on all before it, by an empty row more or less.
            codes = _pack(np.concatenate([[0], q.indptr]), q.unpacked().view(np.uint8))
        self.files["codes"].write(codes)
        self.files["index"].write(q.index)
        self.files["indptr"].write(q.indptr[1:] + s["stored"])
        s["stored"] += q.stored

    def _write_labels(self, block: Block, s: dict[str, Any]) -> None:
        y = block.y
        words = y.dtype.kind == "U"
        if s["words"] is None:
            s["words"], s["labels"] = words, list(y.shape[1:])
        if words != s["words"]:
            place = f"{self.file.name}, {block.where(0)}"
            raise checks.bad_file(place, f"the label {str(y[0])!r} after other ones", expected="all numbers or all words")
        if words:
            found, which = np.unique(y, return_index=True)
            known = s["classes"]
            known += [str(word) for word in y[np.sort(which)] if word not in known]
            if len(known) > _MAX_CLASSES:
                problem = f"more than {_MAX_CLASSES} different words as labels"
                raise checks.bad_file(self.file.name, problem, expected="classes; target names their column")
            places = {word: k for k, word in enumerate(known)}
            y = np.array([places[str(word)] for word in found], np.float64)[np.searchsorted(found, y)]
        self.files["labels"].write(np.ascontiguousarray(y, np.float64))

    def _check_finite(self, block: Block) -> None:
        """NaN and infinity are found before they are codes, to say in which line."""
        X, y = block.X, block.y
        values = X.data if self.file.sparse else X
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            if self.file.sparse:
                at = int(np.flatnonzero(~np.isfinite(values))[0])
                row, column, value = int(np.searchsorted(X.indptr, at, side="right")) - 1, X.indices[at], values[at]
            else:
                row, column = map(int, np.argwhere(~np.isfinite(values))[0])
                value = values[row, column]
            label = self.file.names[column] if self.file.names else column
            where = f"{self.file.name}, {block.where(row)}"
            raise checks.bad_file(where, f"every value must be finite; got {value} in column {label}")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            row = int(np.flatnonzero(~np.isfinite(y.reshape(len(y), -1)).all(axis=1))[0])
            raise checks.bad_file(f"{self.file.name}, {block.where(row)}", f"every label must be finite; got {y[row]}")

    # ---- the end ----

    def _describe(self) -> None:
        """The manifest, which the journal holds from now on: all that is left to do is moving files."""
        from . import __version__

        s, scale = self.state["codes"], self._scale()
        if np.ndim(scale):
            self.files["scale"] = Growing(self.unfinished / "scale.bin")
            self.files["scale"].write(np.asarray(scale))
        layout = self._layout() if self.file.sparse else None
        self.state["manifest"] = sealed({
            "lowprec_store": VERSION, "lowprec": __version__, "byteorder": sys.byteorder,
            "shape": [s["rows"], self.file.columns if layout is None else layout[0]], "format": str(self.fmt),
            "index": None if layout is None else str(layout[2]), "differences": s.get("differences"),
            "scale": "feature" if np.ndim(scale) else scale, "clipped": s["clipped"], "row_stride": s.get("stride"),
            "labels": {"shape": [s["rows"], *s["labels"]], "classes": s["classes"] or None},
            "feature_names": self.file.names, "made": self.made,
            "files": {name: growing.entry(name) for name, growing in self.files.items()},
        })  # fmt: skip
        self._save(now=True)

    def _commit(self) -> None:
        """Move the files to their places, and replace the manifest. Whoever is killed here is finished by the next run."""
        manifest = self.state["manifest"]
        for name, entry in manifest["files"].items():
            part = self.unfinished / f"{name}.bin"
            if part.exists():
                os.replace(part, self.folder / entry["file"])
        atomic.sync_folder(self.folder)
        text = json.dumps(manifest, indent=1).encode()
        atomic.replace(self.folder / MANIFEST, lambda f: f.write(text))
        self._clean(manifest)

    def _clean(self, manifest: dict[str, Any]) -> None:
        """Remove the files of the old store. Who has them open keeps them until he closes them."""
        kept = {entry["file"] for entry in manifest["files"].values()}
        for path in self.folder.iterdir():
            if FILE_NAME.fullmatch(path.name) and path.name not in kept:
                path.unlink()
        (self.folder / f"{MANIFEST}.new").unlink(missing_ok=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """The journal first: without it nobody goes on from the rest."""
        if not self.unfinished.is_dir():
            return
        self.journal.unlink(missing_ok=True)
        for path in self.unfinished.iterdir():
            path.unlink()
        self.unfinished.rmdir()
