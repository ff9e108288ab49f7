"""Integer networks on disk. A file is safetensors, so that nothing in it is executed when it is read.

Weights are packed at their true bits, row by row: code k of an output is in bits [k * b, (k + 1) * b) of its row of bytes, lowest
first, in two's complement (of one bit: 1 stands for 1 and 0 for -1), and what is left of the last byte is zero. Scales and shifts
are float32. The header has one entry, JSON: the layers, a checksum of the arrays of each, a checksum of all that. docs/wrpn.md,
"Integer networks", has the layout.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic, checks
from .layers import Layer, packed_row

__all__ = ["load", "pack_rows", "save", "unpack_rows"]

_VERSION = 1
#: The one entry of a file's metadata.
_KEY = "lowprec.network"
_EXPECTED = "a file that IntegerNetwork.save wrote"
_ARRAYS = ("weights", "scale", "shift")
# Codes that are packed or unpacked at a time.
_PIECE = 1 << 20


# ---- bits --------------------------------------------------------------------------------------------------


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """int8 codes, shape (rows, n), as bytes, shape (rows, ceil(n * bits / 8))."""
    rows, n = codes.shape
    result = np.empty((rows, packed_row(n, bits)), np.uint8)
    for part in _pieces(rows, n):
        numbers = (codes[part] > 0).astype(np.uint8) if bits == 1 else codes[part].view(np.uint8)
        each = (numbers[:, :, np.newaxis] >> np.arange(bits, dtype=np.uint8)) & 1
        result[part] = np.packbits(each.reshape(len(numbers), -1), axis=1, bitorder="little")
    return result


def unpack_rows(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """What `pack_rows` packed.

    Raises
    ------
    ValueError
        If the bits behind a row are not zero.
    """
    result = np.empty((len(packed), n), np.int8)
    for part in _pieces(len(packed), n):
        each = np.unpackbits(packed[part], axis=1, bitorder="little")
        if each[:, n * bits :].any():
            raise ValueError("the bits behind a row of weights are not zero")
        each = each[:, : n * bits].reshape(-1, n, bits)
        if bits == 1:
            result[part] = 2 * each[:, :, 0].view(np.int8) - 1
        else:
            weight = np.array([1 << k for k in range(bits - 1)] + [-(1 << (bits - 1))], np.int8)
            result[part] = (each.view(np.int8) * weight).sum(axis=2, dtype=np.int8)
    return result


def _pieces(rows: int, n: int) -> Iterable[slice]:
    step = max(1, _PIECE // n)
    return (slice(i, i + step) for i in range(0, rows, step))


# ---- files -------------------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], layers: Sequence[Layer], input_shape: Sequence[int], about: dict[str, Any]) -> None:
    """Write layers to a file, which is replaced at once or not at all. The same layers give the same bytes on every machine.

    Parameters
    ----------
    path : str or path-like
    layers : sequence of Layer
    input_shape : (C, H, W)
    about : dict
        What else is to be kept, as JSON has it.
    """
    numpy_files = checks.need_extra("safetensors.numpy", "models", "IntegerNetwork.save")
    tensors: dict[str, np.ndarray] = {}
    entries = []
    for layer in layers:
        entry, arrays = _entry(layer)
        entries.append(entry)
        tensors |= {f"{layer.name}.{name}": a for name, a in arrays.items()}
    header = {"version": _VERSION, "input_shape": list(input_shape), "layers": entries, "about": about}
    text = json.dumps({"sha256": _header_checksum(header), "network": header})
    content = numpy_files.save(tensors, {_KEY: text})
    atomic.replace(Path(path), lambda f: f.write(content))


def load(path: str | os.PathLike[str]) -> tuple[list[Layer], tuple[int, int, int], dict[str, Any]]:
    """Read what `save` wrote: layers, input_shape, about.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, changed, no network of lowprec, or of a newer version.
    """
    safetensors = checks.need_extra("safetensors", "models", "IntegerNetwork.load")
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file; expected one that IntegerNetwork.save wrote")
    try:
        with safetensors.safe_open(name, framework="numpy") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - it is no mapping
            metadata = f.metadata() or {}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise checks.bad_file(name, f"is cut short, or no network ({error})", expected=_EXPECTED) from None
    if _KEY not in metadata:
        raise checks.bad_file(name, "is safetensors, but holds no network of lowprec", expected=_EXPECTED)
    try:
        whole = json.loads(metadata[_KEY])
        header, checksum = whole["network"], whole["sha256"]
        version = header["version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise checks.bad_file(name, f"its header is no network's ({error})", expected=_EXPECTED) from None
    if checksum != _header_checksum(header):
        raise checks.bad_file(name, "its header was changed: the checksum is another", expected=_EXPECTED)
    if version != _VERSION:
        hint = f"version {_VERSION}; update lowprec, or export the network with this one"
        raise checks.bad_file(name, f"is a network of version {version!r}", expected=hint)
    try:
        layers = [_layer(entry, tensors) for entry in header["layers"]]
        if tensors:
            raise ValueError(f"{min(tensors)!r} belongs to no layer")
        channels, height, width = header["input_shape"]
        return layers, (channels, height, width), header["about"]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise checks.bad_file(name, f"its parts do not fit each other ({error})", expected=_EXPECTED) from None


def _header_checksum(header: Any) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _checksum(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _entry(layer: Layer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A layer as the header has it, without what is as it is by default; and its arrays as a file has them."""
    entry, arrays = {}, {}
    for field in fields(Layer):
        value = getattr(layer, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
            entry[field.name] = list(value.shape)
        elif value != field.default:
            entry[field.name] = list(value) if isinstance(value, tuple) else value
    if layer.weight_bits is not None:
        codes = arrays["weights"]
        arrays["weights"] = pack_rows(codes.reshape(len(codes), -1), layer.weight_bits)
    if arrays:
        entry["sha256"] = _checksum(arrays.values())
    return entry, arrays


def _layer(entry: dict[str, Any], tensors: dict[str, np.ndarray]) -> Layer:
    """The layer of an entry, whose arrays are taken out of `tensors`."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    name, checksum = given["name"], given.pop("sha256", None)
    arrays = {}
    for field in _ARRAYS:
        if field in given:
            arrays[field] = tensors.pop(f"{name}.{field}", None)
            shape, bits = given.pop(field), given.get("weight_bits") if field == "weights" else None
            stored = shape if bits is None else (shape[0], packed_row(math.prod(shape[1:]), bits))
            dtype = np.dtype(np.float32 if bits is None else np.uint8)
            a = arrays[field]
            if a is None or a.shape != stored or a.dtype != dtype:
                got = "none" if a is None else f"{a.dtype} of shape {a.shape}"
                raise ValueError(f"layer {name!r}: {field} must be {dtype} of shape {stored}; got {got}")
            given[field] = shape
    if arrays and _checksum(arrays.values()) != checksum:
        raise ValueError(f"layer {name!r}: its numbers were changed: the checksum is another")
    for field, a in arrays.items():
        shape, bits = given[field], given.get("weight_bits") if field == "weights" else None
        given[field] = a if bits is None else unpack_rows(a, bits, math.prod(shape[1:])).reshape(shape)
    return Layer(**given)
