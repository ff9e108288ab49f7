"""Quantized data on disk, used where they lie: `open_store`, `Store`.

A store is a folder: ``manifest.json`` says what is in it, and every array is a file of its own, ``NAME-DIGEST.bin``, without
a header, little-endian. `lowprec.write_store` makes one. The manifest is replaced at once, and its files are named after their
contents, so that a store is the old one or the new one at any time. docs/architecture.md, "Stores".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .formats import FORMATS
from .quantized import QuantizedArray
from .sparse import _INDEX_DTYPES, SparseArray

__all__ = ["Store", "is_store", "open_store"]

VERSION = 1
MANIFEST, UNFINISHED = "manifest.json", "unfinished"
#: Every file that a store has written bears such a name; others in the folder are left alone.
FILE_NAME = re.compile(r"(codes|index|indptr|labels|scale)-[0-9a-f]{16}\.bin", re.ASCII)
#: Bytes to a checksum. An edited store is named to 16 MiB, and the checksums of a TiB take less than a MiB.
CHECKED_BYTES = 1 << 24

# CRC-32 finds what disks, copies and editors do to a file, at 2.5 GB/s on a core of a Zen 4: as fast as most disks read. A digest
# that withstands forgers is three times as slow, and whoever can forge the data can forge the manifest too.
_checksum = zlib.crc32
# Bytes read at a time for a checksum: a cache holds them.
_READ = 1 << 20


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the checksum of its own text."""
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(body, sort_keys=True)
    return body | {"checksum": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder with a manifest, or one in which a store was begun."""
    folder = Path(path)
    return (folder / MANIFEST).is_file() or (folder / UNFINISHED).is_dir()


class Store:
    """Quantized data on disk. Made by `open_store`.

    `X` and `y` are read-only memory maps: what is used of them is read when it is used, and the system drops it where memory is
    short. ``lp.train(store.X, store.y, ...)`` trains in place. Replacing or removing the store does not touch a `Store`
    that is open.

    Attributes
    ----------
    path : Path
        The folder.
    X : QuantizedArray or SparseArray
        The examples.
    y : ndarray of float64, shape (m,) or (m, K)
        Labels: numbers as they were, or where these were words their places in `classes`.
    classes : list of str or None
        The words, in the order in which they came.
    feature_names : list of str or None
        From the header of a CSV file, or the columns of a Parquet file.
    manifest : dict
        Everything that ``manifest.json`` says.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], *, trusted: bool) -> None:
        self.path, self.manifest = path, manifest
        labels = manifest["labels"]
        self.classes: list[str] | None = labels["classes"]
        self.feature_names: list[str] | None = manifest["feature_names"]
        self.y = self._array("labels", np.float64).reshape(labels["shape"])
        fmt, shape = FORMATS[manifest["format"]], tuple(manifest["shape"])
        scale = manifest["scale"]
        if manifest["index"] is None:
            scale = self._array("scale", np.float64) if scale == "feature" else scale
            codes = self._array("codes", np.uint8)
            q = QuantizedArray(codes, fmt, scale, shape, manifest["row_stride"], manifest["clipped"])
            q._zero_padded = True  # as it was written
            self.X: QuantizedArray | SparseArray = q
            return
        codes, index = self._array("codes", fmt.dtype), self._array("index", _INDEX_DTYPES[int(manifest["index"])])
        indptr = self._array("indptr", np.int64)
        differences, clipped = manifest["differences"], manifest["clipped"]
        if trusted:
            self.X = SparseArray._of_parts(codes, index, indptr, fmt, scale, shape, differences, clipped)
        else:
            self.X = SparseArray(codes, index, indptr, fmt, scale, shape, differences=differences, clipped=clipped)

    def _array(self, name: str, dtype: Any) -> np.ndarray:
        entry = self.manifest["files"][name]
        if not entry["bytes"]:  # nothing to map
            empty = np.empty(0, dtype)
            empty.flags.writeable = False
            return empty
        return np.asarray(np.memmap(self.path / entry["file"], dtype, mode="r"))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return self.X.shape[0], self.X.shape[1]

    @property
    def format(self) -> Any:
        """The format D."""
        return self.X.format

    @property
    def scale(self) -> float | np.ndarray:
        """The value of one code, or that of one code of each feature."""
        return self.X.scale

    @property
    def clipped(self) -> int:
        """How many numbers were clipped to the largest code."""
        return self.X.clipped

    @property
    def signature(self) -> str:
        """The D and i terms of a signature, to which M is added to train: ``f"{store.signature}M8"``."""
        index = self.manifest["index"]
        return f"D{self.format}" + ("" if index is None else f"i{index}")

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def verify(self) -> None:
        """Read every file and compare its checksums.

        Raises
        ------
        ValueError
            If a file is not as it was written; the message names it and the block.
        """
        _verify(self.path, self.manifest)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, shape={self.shape}, signature={self.signature!r}, nbytes={self.nbytes})"


def open_store(path: str | os.PathLike[str], *, verify: bool = True) -> Store:
    """Open quantized data on disk, without loading them.

    Parameters
    ----------
    path : str or path-like
        The folder that `lowprec.write_store` or ``lowprec quantize`` made.
    verify : bool
        Read all of it once, and compare checksums; of sparse data also look whether every index is within the shape. This takes
        about as long as reading the files. False: only the manifest (which has a checksum of its own) and the sizes of the files
        are looked at, whatever the size of the data; for a store that has been verified and that nobody else can write to.

    Returns
    -------
    Store

    Raises
    ------
    FileNotFoundError
        If there is no store, or a file of it is missing.
    ValueError
        If it is unfinished, damaged, was edited, or was written by a newer version.

    See Also
    --------
    lowprec.write_store

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import lowprec as lp
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/a.npy", np.array([[0.5, -1.0, 1.0], [0.25, 0.0, 0.0]]))  # the labels last
    >>> lp.write_store(f"{folder}/a.npy", f"{folder}/a.store").X.codes.tolist()
    [[64, -127], [32, 0]]
    >>> lp.open_store(f"{folder}/a.store").y.tolist()
    [1.0, 0.0]
    """
    folder = Path(path)
    verify = checks.check_bool("verify", verify)
    while True:
        manifest, text = read_manifest(folder)
        try:
            _check_sizes(folder, manifest)
            if verify:
                _verify(folder, manifest)
            return Store(folder, manifest, trusted=not verify)
        except FileNotFoundError:
            # Another process may have replaced the store since the manifest was read; then there is a new manifest.
            if read_manifest(folder)[1] == text:
                raise


def read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest of a store, and its text."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if (folder / UNFINISHED).is_dir():
            hint = "finish it with resume=True (lowprec quantize --resume)"
            raise FileNotFoundError(f"{folder}: the store is unfinished, it has no {MANIFEST}; {hint}") from None
        hint = "make a store with lowprec.write_store or lowprec quantize"
        raise FileNotFoundError(f"{folder}: is no store, there is no {MANIFEST}; {hint}") from None
    again = "write the store anew"
    try:
        manifest = json.loads(text)
        version = manifest["lowprec_store"]
    except (ValueError, KeyError, TypeError) as error:
        raise checks.bad_file(path, f"must be the manifest of a store; got text that is none ({error}); {again}") from None
    if version != VERSION:
        raise checks.bad_file(
            path, f"must be a store of version {VERSION}; got version {version!r}; update lowprec, or {again} with this one"
        )
    if sealed(manifest) != manifest:
        raise checks.bad_file(path, f"must be as it was written; got a text that differs from its checksum; {again}")
    if manifest["byteorder"] != sys.byteorder:
        raise checks.bad_file(path, f"must have this machine's byte order; got {manifest['byteorder']}; {again} here")
    return manifest, text


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    for entry in manifest["files"].values():
        path = folder / entry["file"]
        if FILE_NAME.fullmatch(entry["file"]) is None:
            raise checks.bad_file(folder / MANIFEST, f"must name files of the store; got {entry['file']!r}; write the store anew")
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: a file of the store is missing; write the store anew") from None
        if size != entry["bytes"]:
            raise checks.bad_file(path, f"must have {entry['bytes']} bytes; got {size}; write the store anew")


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    def blocks() -> Iterator[tuple[Path, int, int]]:
        for entry in manifest["files"].values():
            for k, expected in enumerate(entry["crc32"]):
                yield folder / entry["file"], k, expected

    def check(block: tuple[Path, int, int]) -> None:
        path, k, expected = block
        if _checksum_of(path, k * CHECKED_BYTES) != expected:
            first, last = k * CHECKED_BYTES, min((k + 1) * CHECKED_BYTES, path.stat().st_size)
            problem = f"must be as it was written; got other bytes between {first} and {last}"
            raise checks.bad_file(path, f"{problem}; write the store anew")

    # The checksum and the disk work without the interpreter's lock.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(check, blocks()):
            pass


def _checksum_of(path: Path, first: int) -> int:
    """The checksum of a block. By reads, not through a map: what is read is then not counted as this process's memory."""
    found, left, memory = 0, CHECKED_BYTES, memoryview(bytearray(_READ))
    with open(path, "rb", buffering=0) as f:
        f.seek(first)
        while left > 0 and (count := f.readinto(memory[: min(left, _READ)])):
            found, left = _checksum(memory[:count], found), left - count
    return found


class Growing:
    """A file that is written from its beginning to its end, with the checksums of its blocks.

    Parameters
    ----------
    path : Path
    state : dict, optional
        What `state` gave when so much of it was written: what is beyond is cut off.
    """

    def __init__(self, path: Path, state: dict[str, Any] | None = None) -> None:
        self.bytes, self.crc32, self.running = (0, [], 0) if state is None else (state["bytes"], state["crc32"], state["running"])
        # Without a buffer: blocks are large, and after an error there is nothing left that closing would try to write.
        self.file = open(path, "wb" if state is None else "r+b", buffering=0)  # noqa: SIM115 - `close` does
        size = os.fstat(self.file.fileno()).st_size
        if size < self.bytes:
            self.file.close()
            raise checks.bad_file(path, f"must have at least {self.bytes} bytes to go on from; got {size}; leave out resume")
        self.file.truncate(self.bytes)
        self.file.seek(self.bytes)

    def write(self, a: np.ndarray) -> None:
        """Append the bytes of a contiguous array."""
        data = memoryview(a.reshape(-1).view(np.uint8))
        while data:
            written, room = self.file.write(data[:CHECKED_BYTES]), CHECKED_BYTES - self.bytes % CHECKED_BYTES
            part, data = data[:written], data[written:]
            self.running = _checksum(part[:room], self.running)
            self.bytes += written
            if written >= room:
                self.crc32 = [*self.crc32, self.running]
                self.running = _checksum(part[room:])

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        os.fsync(self.file.fileno())

    def state(self) -> dict[str, Any]:
        """What another one can go on from."""
        return {"bytes": self.bytes, "crc32": self.crc32, "running": self.running}

    def entry(self, name: str) -> dict[str, Any]:
        """What the manifest says of it. Named after its contents, it cannot take the place of a file that differs."""
        crc32 = [*self.crc32, self.running] if self.bytes % CHECKED_BYTES else self.crc32
        digest = hashlib.blake2b(json.dumps([self.bytes, crc32]).encode(), digest_size=8).hexdigest()
        return {"file": f"{name}-{digest}.bin", "bytes": self.bytes, "crc32": crc32}

    def close(self) -> None:
        self.file.close()
