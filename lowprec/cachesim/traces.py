"""Recorded addresses of other programs: a text format, and streams from it.

::

    lowprec-trace 1
    # CORE KIND ADDRESS [SIZE [INSTRUCTIONS]]
    0 r 0x7f0010 32 3
    1 w 0x7f0030
    end 2

The first line names the format. Then one access a line, in the order of each core: the core from 0; ``r`` (read), ``w`` (write)
or ``p`` (prefetch into the second level); the address in hexadecimal (0x...) or decimal; bytes, 1 if not given; instructions
executed since the core's access before, this one included, 1 if not given. ``#`` begins a comment. The last line says how many
accesses there were, so that a file that was cut off is noticed. Names that end in ``.gz`` are compressed.
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lowprec import atomic
from lowprec.cachesim import _simulator
from lowprec.cachesim.machine import LINE
from lowprec.cachesim.streams import ACCESS, Stream
from lowprec.checks import bad_file, wrong_type, wrong_value

__all__ = ["read_trace", "write_trace"]

_FIRST = "lowprec-trace 1"
_KINDS = {"r": _simulator.LOAD, "w": _simulator.STORE, "p": _simulator.PREFETCH}
_ACCESS = "CORE KIND ADDRESS [SIZE [INSTRUCTIONS]], such as 0 r 0x1000 8"
_LARGEST_ACCESS = 4096


def read_trace(path: str | PathLike[str]) -> list[Stream]:
    """Read a trace.

    An access that reaches over several lines becomes one access for each.

    Parameters
    ----------
    path : str or path
        Compressed where it ends in ``.gz``. docs/cache.md has the format.

    Returns
    -------
    list of Stream
        By core, as many as the largest core number says; to be fed to a machine, for one pass.

    Raises
    ------
    OSError
        For a file that is not there, or may not be read.
    ValueError
        For a malformed or truncated file; the message names the line.
    """
    path = Path(path)
    columns: list[tuple[array, array, array, array]] = []
    accesses, ended = 0, False
    for number, fields in _lines(path):
        if number == 1:
            if " ".join(fields) != _FIRST:
                raise bad_file(path, f"is no trace: begins with {' '.join(fields)[:40]!r}", line=1, expected=_FIRST)
            continue
        if not fields:
            continue
        if ended:
            raise bad_file(path, "goes on after its end", line=number)
        if fields[0] == "end":
            said = _number(fields[1], 2**62) if len(fields) == 2 else None
            if said != accesses:
                rule = f"end {accesses}, for as many accesses came before"
                raise bad_file(path, f"malformed or missing accesses: {' '.join(fields)!r}", line=number, expected=rule)
            ended = True
            continue
        core, kind, address, size, instructions = _access(path, number, fields)
        while core >= len(columns):
            columns.append((array("Q"), array("B"), array("I"), array("B")))
        at = address
        while at < address + size:
            here = min(LINE - at % LINE, address + size - at)
            for column, value in zip(columns[core], (at, kind, instructions if at == address else 0, here), strict=True):
                column.append(value)
            at += here
        accesses += 1
    if not ended:
        where = f"after {accesses:,} accesses"
        raise bad_file(path, f"is cut off {where}: there is no line 'end N'", line=_last(path), expected=f"end {accesses}")
    return [_stream(*c) for c in columns]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="ascii", errors="backslashreplace") as f:
            for number, line in enumerate(f, 1):
                yield number, line.partition("#")[0].split()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise bad_file(path, f"cannot be read on ({error})", line=number + 1) from None
    if number == 0:
        raise bad_file(path, "is empty", line=1, expected=_FIRST)


def _last(path: Path) -> int:
    return max(number for number, _ in _lines(path))


def _number(text: str, limit: int) -> int | None:
    """A number in [0, limit); None for anything else."""
    try:
        value = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    except ValueError:
        return None
    if not text.isalnum():  # int() takes +1 and 1_0
        return None
    return value if 0 <= value < limit else None


def _access(path: Path, number: int, fields: Sequence[str]) -> tuple[int, int, int, int, int]:
    def wrong(what: str) -> ValueError:
        return bad_file(path, f"{what} in {' '.join(fields)!r}", line=number, expected=_ACCESS)

    if not 3 <= len(fields) <= 5:
        raise wrong(f"{len(fields)} fields")
    if (core := _number(fields[0], _simulator.MAX_CORES)) is None:
        raise wrong(f"{fields[0]!r} is no core from 0 to {_simulator.MAX_CORES - 1}")
    if (kind := _KINDS.get(fields[1].lower())) is None:
        raise wrong(f"{fields[1]!r} is neither r, w nor p")
    if (address := _number(fields[2], 2**63 - _LARGEST_ACCESS)) is None:
        raise wrong(f"{fields[2]!r} is no address")
    size = _number(fields[3], _LARGEST_ACCESS + 1) if len(fields) > 3 else 1
    if not size:
        raise wrong(f"{fields[3]!r} is no size from 1 to {_LARGEST_ACCESS}")
    instructions = _number(fields[4], 2**32) if len(fields) > 4 else 1
    if instructions is None:
        raise wrong(f"{fields[4]!r} is no number of instructions")
    return core, kind, address, size, instructions


def _stream(addresses: array, kinds: array, instructions: array, sizes: array) -> Stream:
    made = np.zeros(len(addresses), ACCESS)
    made["address"], made["kind"], made["instructions"], made["size"] = addresses, kinds, instructions, sizes
    made["row"] = _simulator.ABSOLUTE
    return Stream(made)


def write_trace(path: str | PathLike[str], streams: Sequence[Stream]) -> None:
    """Write one pass of some streams as a trace, core after core.

    What a trace cannot hold is left out or written as what it is to the caches: a load that asks for its line becomes a write.

    Parameters
    ----------
    path : str or path
        Compressed where it ends in ``.gz``; a file that is there is replaced.
    streams : sequence of Stream
        By core, at most 64.

    Raises
    ------
    TypeError, ValueError
        For what is none of these.
    """
    path = Path(path)
    if not isinstance(streams, Sequence):
        raise wrong_type("streams", "a sequence of Streams", streams)
    letters = {number: letter for letter, number in _KINDS.items()}
    letters |= {_simulator.LOAD_OWN: "w", _simulator.PREFETCH_FIRST: "p"}
    if len(streams) > _simulator.MAX_CORES:
        raise wrong_value("streams", f"must be at most {_simulator.MAX_CORES}", len(streams))
    written, total = [f"{_FIRST}\n"], 0
    for core, stream in enumerate(streams):
        if not isinstance(stream, Stream):
            raise wrong_type("streams", "Streams", stream)
        waiting = 0
        for a in stream.accesses:
            waiting += int(a["instructions"])
            if a["kind"] == _simulator.WAIT:
                continue
            address = int(a["address"])
            if (row := int(a["row"])) != _simulator.ABSOLUTE:
                address = (address + stream.base + stream.stride * (row % stream.rows)) % 2**64
            written.append(f"{core} {letters[int(a['kind'])]} {address:#x} {int(a['size'])} {waiting}\n")
            waiting, total = 0, total + 1
    written.append(f"end {total}\n")
    data = "".join(written).encode()
    atomic.replace(path, lambda f: f.write(gzip.compress(data) if path.suffix == ".gz" else data))
