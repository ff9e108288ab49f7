"""What a long measurement has found so far, on disk: it may be stopped at any point and goes on from there.

One line of JSON for each finished piece, after a first line that says what all of them depend on. A line is written in one call
and forced to the disk, with a checksum: a line that was cut off or damaged is noticed, and its piece measured again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

from lowprec.report.files import plain
from lowprec.report.machine import machine_block

__all__ = ["Journal", "identity"]

_VERSION = 1


def identity(options: dict[str, Any]) -> dict[str, Any]:
    """All that decides what is measured and how fast it is: options, every file of the package, the machine."""
    import lowprec

    package = Path(lowprec.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(package)}\0".encode())
            digest.update(path.read_bytes())
    return {"options": options, "build": digest.hexdigest(), "machine": machine_block()}


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(plain(content), ensure_ascii=False)
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it was damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != f"{zlib.crc32(text):08x}".encode():
        return None
    return json.loads(text)


def _differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Where two nested dicts differ, in words."""
    if name == "build" and ours != theirs:
        return ["files of the package have changed since"]  # its two checksums tell a reader nothing
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in dict.fromkeys([*ours, *theirs]):
            found += _differences(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if ours == theirs else [f"{name} was {theirs!r} and is {ours!r}"]


class Journal:
    """The pieces that are done, and a place for more.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist.
    key : dict
        What the pieces depend on, see `identity`. A file with another key is refused.

    Attributes
    ----------
    notes : list of str
        What was found wrong with the file, a sentence each.

    Raises
    ------
    ValueError
        If the file belongs to another measurement, is no journal, or is in use.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path, self.notes = path, list[str]()
        self._pieces: dict[str, list[dict[str, Any]]] = {}
        head = {"journal": _VERSION, "key": plain(key)}
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            whole = self._read(head)
            os.ftruncate(self._file, whole)
            if whole == 0:
                self._write(head)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        """Keep others out until the file is closed: two measurements at once would spoil each other, and the file."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path}: another process is measuring; wait for it, or choose another folder") from None
        except OSError:
            pass  # a file system without locks

    def _read(self, head: dict[str, Any]) -> int:
        """Take over what is there; return the bytes up to the last whole line."""
        data = self.path.read_bytes()
        *lines, rest = data.split(b"\n")
        if not lines:
            if rest and not _line(head).startswith(rest):
                raise ValueError(f"{self.path}: is not the journal of a measurement; remove it, or choose another folder")
            return 0  # empty, or stopped while the first line was written
        first = _content(lines[0])
        if first is None or "journal" not in first:
            raise ValueError(f"{self.path}: is no journal, or damaged in its first line; remove it, or choose another folder")
        found = _differences({"layout": head["journal"], **head["key"]}, {"layout": first["journal"], **first["key"]})
        if found:
            more = len(found) - 1
            many = f", and {more} more difference{'s' if more > 1 else ''}" if more else ""
            raise ValueError(
                f"{self.path}: belongs to another measurement ({found[0]}{many}); finish that one as it was begun, "
                f"remove the file, or choose another folder"
            )
        for number, line in enumerate(lines[1:], 2):
            content = _content(line)
            if content is None:
                self.notes.append(f"Line {number} of {self.path} is damaged; what it held is measured again.")
            else:
                self._pieces[content["piece"]] = content["rows"]
        if rest:
            self.notes.append(f"The last line of {self.path} was cut off; what it was to hold is measured again.")
        return len(data) - len(rest)

    def _write(self, content: dict[str, Any]) -> None:
        line = _line(content)
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self.path}: could not be written; is the disk full?")
        os.fsync(self._file)

    def get(self, piece: str) -> list[dict[str, Any]] | None:
        """The rows of a finished piece, or None."""
        return self._pieces.get(piece)

    def add(self, piece: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the rows of a piece; they come back as they will be read."""
        self._write({"piece": piece, "rows": rows})
        self._pieces[piece] = plain(rows)
        return self._pieces[piece]

    def __len__(self) -> int:
        return len(self._pieces)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)
