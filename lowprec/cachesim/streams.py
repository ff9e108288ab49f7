"""What a core of a simulated machine does: accesses one after another, those of SGD by the training loop's structure.

A `Stream` is a list of accesses that a core goes over again and again; accesses to the data are relative to a row, and each
pass is on the next ones. So a whole training run is one pass's list and a number of passes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from lowprec.cachesim import _simulator
from lowprec.cachesim.machine import LINE
from lowprec.checks import check_bool, check_choice, check_finite_scalar, check_int, check_seed, wrong_type, wrong_value
from lowprec.signature import Signature

__all__ = ["ACCESS", "MODEL", "Instructions", "Stream", "as_stream", "instructions", "sgd_streams"]

#: One access, as an array's dtype: `address`; `instructions` executed since the access before, this one included; `kind`;
#: `actions` (what is done with numbers, in training on the machine); `row` (-128: `address` is one; k: an offset into row k of
#: the pass, -1: into the last row of the pass before); `size` in bytes, within one line.
ACCESS = _simulator.ACCESS

_LOAD, _STORE, _OWN, _PREFETCH, _WAIT = (
    _simulator.LOAD, _simulator.STORE, _simulator.LOAD_OWN, _simulator.PREFETCH, _simulator.WAIT
)  # fmt: skip
_ABSOLUTE, _NOTHING = _simulator.ABSOLUTE, 255

#: Where the shared model is, and by how much private ones lie apart; where the data begin, and a core's share of them.
MODEL, _MODELS_APART = 1 << 40, 1 << 32
_DATA, _SHARES_APART = 1 << 44, (1 << 36) + 97 * LINE

#: Rows of a core's share that no run reaches the end of: data are always new.
_ENDLESS = 1 << 24

#: Bytes between the row being read and the kernels' software prefetch (LP_DISTANCE).
_AHEAD = 8192

#: Stored entries of sparse rows, at least, before their columns come again; rows at most, for a row's number has 7 bits.
_SPARSE_ENTRIES, _SPARSE_ROWS = 1 << 14, 100


@dataclass(frozen=True)
class Stream:
    """Accesses of one core, to be gone over again and again.

    Parameters
    ----------
    accesses : array of `ACCESS`, shape (k,)
    batch : int
        Rows of data that each pass goes on.
    rows : int
        After so many it begins again with the first.
    base, stride : int
        Address of the first row, bytes from row to row.
    numbers : int
        Dataset numbers that one pass processes.
    region : tuple of (int, int)
        The address range of the model, for a protocol.
    """

    accesses: np.ndarray
    batch: int = 0
    rows: int = 1
    base: int = 0
    stride: int = 0
    numbers: int = 0
    region: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        a = self.accesses
        if not isinstance(a, np.ndarray) or a.dtype != ACCESS or a.ndim != 1:
            raise wrong_type("stream: accesses", "a one-dimensional array of ACCESS (as_stream makes one)", a)

    def checked(self) -> np.ndarray:
        """The accesses as the compiled core takes them.

        Raises
        ------
        TypeError, ValueError
            If a machine could not go over them.
        """
        a = self.accesses
        if a.size and int(a["kind"].max()) > _WAIT:
            raise wrong_value("stream: accesses", f"must be of a kind from 0 to {_WAIT}", int(a["kind"].max()))
        check_int("stream: batch", self.batch, minimum=0, maximum=2**31)
        check_int("stream: rows", self.rows, minimum=1, maximum=2**31)
        check_int("stream: base", self.base, minimum=0, maximum=2**62)
        check_int("stream: stride", self.stride, minimum=0, maximum=2**62 // self.rows)
        return np.ascontiguousarray(a)


def as_stream(kinds: Any, addresses: Any, *, instructions: int = 1) -> Stream:
    """A stream of single accesses, to be passed over once.

    Parameters
    ----------
    kinds : str or sequence of str
        One for each access, or one for all: "load", "store", or what else `Machine.access` has.
    addresses : array of int, shape (k,)
        In [0, 2**63). Each access is within one line, which is what counts.
    instructions : int
        Executed since the access before, this one included.

    Returns
    -------
    Stream

    Raises
    ------
    TypeError, ValueError
        For what is none of these.
    """
    from lowprec.cachesim.machine import _KINDS

    address = np.asarray(addresses)
    if address.ndim != 1 or address.dtype.kind not in "iu":
        raise wrong_value("addresses", "must be a one-dimensional array of integers", f"{address.dtype} of shape {address.shape}")
    if address.size and not 0 <= int(address.min()) <= int(address.max()) < 2**63:
        raise wrong_value("addresses", "must lie in [0, 2**63)", (int(address.min()), int(address.max())))
    made = np.zeros(address.size, ACCESS)
    made["address"], made["row"], made["size"] = address, _ABSOLUTE, 1
    made["instructions"] = check_int("instructions", instructions, minimum=0, maximum=2**32 - 1)
    if not isinstance(kinds, (str, Sequence, np.ndarray)):
        raise wrong_type("kinds", "a kind of access, or a sequence of them", kinds)
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    numbers = np.array([_KINDS[check_choice("kinds", name, tuple(_KINDS))] for name in names], np.uint8)
    if len(numbers) not in (1, address.size):
        raise wrong_value("kinds", f"must be one, or one for each of the {address.size} addresses", len(numbers))
    made["kind"] = numbers
    return Stream(made)


# ---- what it costs to compute -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instructions:
    """Instructions of our own kernels, counted one by one (``lowprec.report.instructions``).

    Parameters
    ----------
    example : float
        For an example, whatever its length: derivative, step, random words, the loops' beginnings and ends.
    dot, axpy, fused : float
        For a dataset number: of its product, of its update, and of the loop that does one example's update and the next one's
        product.
    """

    example: float
    dot: float
    axpy: float
    fused: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_finite_scalar(f"cost: {name}", value, nonnegative=True)


@functools.cache
def _counted() -> dict[str, Any]:
    return json.loads(resources.files("lowprec.cachesim").joinpath("instructions.json").read_text(encoding="utf-8"))


def instructions(signature: str | Signature) -> Instructions:
    """The counted instructions of a signature.

    Parameters
    ----------
    signature : str or Signature

    Returns
    -------
    Instructions

    Raises
    ------
    ValueError
        For a signature that was not counted.
    """
    known = _counted()["signatures"]
    name = str(signature)
    if name not in known:
        raise wrong_value(
            "signature",
            f"its instructions were not counted (in Python, `cost` says them); choose from {{{', '.join(known)}}}",
            name,
        )
    return Instructions(**known[name])


# ---- SGD ------------------------------------------------------------------------------------------------------------


def _accesses(kind: int, address: Any, *, row: int = _ABSOLUTE, actions: int = 0, size: int = LINE) -> np.ndarray:
    address = np.atleast_1d(np.asarray(address, np.uint64))
    made = np.zeros(address.size, ACCESS)
    made["kind"], made["address"], made["row"], made["actions"], made["size"] = kind, address, row, actions, size
    return made


def _woven(groups: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Accesses by chunks: of each (accesses, how many a chunk), those of the first chunk, then those of the second, and so on."""
    chunks = max(-(-len(accesses) // each) for accesses, each in groups)
    order = np.concatenate([np.arange(len(a)) // each * len(groups) + k for k, (a, each) in enumerate(groups)])
    assert chunks * len(groups) > int(order.max())
    return np.concatenate([a for a, _ in groups])[np.argsort(order, kind="stable")]


def _spread(accesses: np.ndarray, total: float) -> np.ndarray:
    """Share out instructions evenly, in whole numbers that add up."""
    bounds = np.floor(np.linspace(0.0, total, len(accesses) + 1) + 0.5)
    if total > (2**32 - 1) * len(accesses):
        rule = f"must be fewer than 2**32 instructions from one access to the next, of which there are {len(accesses)}"
        raise wrong_value("cost", rule, total)
    accesses["instructions"] = np.diff(bounds)
    return accesses


@dataclass(frozen=True)
class _Shape:
    """A dense row and a model in lines."""

    n: int
    D: int
    M: int
    model: int

    @property
    def x_bytes(self) -> int:
        """Of a row: whole lines, as rows of our own arrays are padded."""
        return -(-self.n * self.D // 8 // LINE) * LINE

    @property
    def x_lines(self) -> np.ndarray:
        return np.arange(0, self.x_bytes, LINE, dtype=np.uint64)

    @property
    def w_lines(self) -> np.ndarray:
        return self.model + np.arange(0, -(-self.n * self.M // 8 // LINE) * LINE, LINE, dtype=np.uint64)

    @property
    def per_chunk(self) -> tuple[int, int]:
        """Lines of data and of the model that have the same numbers."""
        numbers = max(8 * LINE // self.D, 8 * LINE // self.M)
        return numbers * self.D // (8 * LINE), numbers * self.M // (8 * LINE)

    def x(self, row: int, ahead: int = 0) -> list[tuple[np.ndarray, int]]:
        """A row's lines, each with the prefetch of the one `ahead` bytes further on."""
        each = self.per_chunk[0]
        made = [(_accesses(_LOAD, self.x_lines, row=row), each)]
        return [(_accesses(_PREFETCH, self.x_lines + np.uint64(ahead), row=row), each), *made] if ahead else made

    def ahead_in_model(self, lines: int) -> list[tuple[np.ndarray, int]]:
        """Prefetches of the model's line so many lines further on, as far as it goes."""
        if not lines:
            return []
        target = self.w_lines + np.uint64(lines * LINE)
        made = _accesses(_simulator.PREFETCH_FIRST, target)
        made["kind"][target > self.w_lines[-1]] = _NOTHING
        return [(made, self.per_chunk[1])]


def _without_nothing(accesses: np.ndarray) -> np.ndarray:
    return accesses[accesses["kind"] != _NOTHING]


def _product(s: _Shape, cost: Instructions, row: int, ahead: int, model_prefetch: int, last: bool) -> list[np.ndarray]:
    """The product of a row with the model, and what is decided at its end."""
    w = _accesses(_LOAD, s.w_lines, actions=_simulator.SEE)
    body = _woven([*s.x(row, ahead), *s.ahead_in_model(model_prefetch), (w, s.per_chunk[1])])
    end = _accesses(_WAIT, 0, row=row, actions=_simulator.MULTIPLY | (_simulator.DECIDE if last else 0))
    return [_spread(_without_nothing(body), cost.dot * s.n), _spread(end, cost.example)]


def _two_pass(s: _Shape, cost: Instructions, batch: int, own: bool, ahead: int, model_prefetch: int) -> np.ndarray:
    parts = []
    for row in range(batch):
        parts += _product(s, cost, row, ahead, model_prefetch, row == batch - 1)
    groups = [group for row in range(batch) for group in s.x(row)]
    groups += s.ahead_in_model(model_prefetch)
    # A line is read, then written, before the next one.
    w = np.stack(
        [
            _accesses(_OWN if own else _LOAD, s.w_lines, actions=_simulator.TAKE),
            _accesses(_STORE, s.w_lines, actions=_simulator.UPDATE),
        ],
        axis=1,
    ).ravel()
    body = _without_nothing(_woven([*groups, (w, 2 * s.per_chunk[1])]))
    return np.concatenate([*parts, _spread(body, cost.axpy * s.n * batch)])


def _fused(s: _Shape, cost: Instructions, own: bool, ahead: int, model_prefetch: int) -> np.ndarray:
    w = np.stack(
        [
            _accesses(_OWN if own else _LOAD, s.w_lines, actions=_simulator.TAKE),
            _accesses(_STORE, s.w_lines, actions=_simulator.UPDATE | _simulator.SEE),
        ],
        axis=1,
    ).ravel()
    body = _woven([*s.x(-1), *s.x(0, ahead), *s.ahead_in_model(model_prefetch), (w, 2 * s.per_chunk[1])])
    end = _accesses(_WAIT, 0, row=0, actions=_simulator.MULTIPLY | _simulator.DECIDE)
    return np.concatenate([_spread(_without_nothing(body), cost.fused * s.n), _spread(end, cost.example)])


def _touched(addresses: np.ndarray) -> np.ndarray:
    """Lines in the order in which they are touched, each once for as long as it is touched on end."""
    lines = addresses // LINE * LINE
    return lines[np.concatenate([[True], lines[1:] != lines[:-1]])].astype(np.uint64)


def _sparse(
    n: int, entries: int, D: int, index: int, M: int, model: int, cost: Instructions, own: bool, ahead: int, rng: Any
) -> tuple[np.ndarray, int, int]:
    """Some rows with random columns: the accesses, how many rows, bytes of one."""
    rows = min(max(1, -(-_SPARSE_ENTRIES // entries)), _SPARSE_ROWS)
    stride = -(-entries * (D + index) // 8)
    parts = []
    for row in range(rows):
        columns = np.sort(rng.choice(n, entries, replace=False))
        lines = _touched(model + columns * M // 8)
        begin = stride * row
        data = np.arange(begin // LINE * LINE - begin, stride, LINE, dtype=np.int64)
        x = _accesses(_LOAD, data.astype(np.uint64), row=row)
        brought = _accesses(_PREFETCH, (data + ahead).astype(np.uint64), row=row) if ahead else x[:0]
        chunk = max(1, round(len(lines) / len(x)))
        seen = [(x, 1), (_accesses(_LOAD, lines), chunk)]
        product = _woven([(brought, 1), *seen] if ahead else seen)
        parts += [_spread(product, cost.dot * entries), _spread(_accesses(_WAIT, 0, row=row), cost.example)]
        written = [_accesses(_STORE, lines)]
        if own:
            written = [np.stack([_accesses(_OWN, lines), *written], axis=1).ravel()]
        parts.append(_spread(_woven([(x.copy(), 1), (written[0], chunk * (2 if own else 1))]), cost.axpy * entries))
    return np.concatenate(parts), rows, stride


def sgd_streams(
    signature: str | Signature,
    n: int,
    cores: int,
    *,
    batch_size: int = 1,
    density: float = 0.03,
    loop: str = "two-pass",
    update: str = "own",
    shared: bool = True,
    prefetch: bool = True,
    model_prefetch: int = 0,
    cost: Instructions | None = None,
    seed: int = 0,
) -> list[Stream]:
    """The accesses of asynchronous SGD on a linear model, one stream a core.

    Lines are what counts: an access is one to a line, as a kernel comes to it. Each core has its own data, which are new in
    every pass.

    Parameters
    ----------
    signature : str or Signature
        Data and model in 4, 8, 16 or 32f; with an index, sparse data.
    n : int
        Model size, in numbers.
    cores : int
        1 to 64.
    batch_size : int
        Examples to an update; of dense data, at most 100.
    density : float
        Share of numbers that are stored; sparse data alone.
    loop : {"two-pass", "fused"}
        The paper's Fig 1, a product and then an update; or the loop that `lowprec.train` runs, which updates a line with one
        example and multiplies it with the next. Sparse data and batches have the first alone.
    update : {"own", "load"}
        Whether an update asks for a line before it reads it, or reads it as any other and asks when it writes: then it may
        read, and write back, a copy that is stale.
    shared : bool
        One model for all, or one for each.
    prefetch : bool
        The kernels' own prefetching of data, 8 KiB ahead into the second level.
    model_prefetch : int
        Lines by which a software prefetch of the model, into the first level, runs ahead within a pass over it; 0: none, as our
        kernels have it.
    cost : Instructions, optional
        What computing costs. By default counted of our kernels: of D4M4, D8M8, D8M16, D16M16 and D32fM32f, and of sparse
        D8i8M8, D8i16M8, D16i16M16 and D32fi32M32f.
    seed : int
        Of the columns of sparse data.

    Returns
    -------
    list of Stream

    Raises
    ------
    ValueError
        For what is none of these.
    """
    s = Signature(signature) if isinstance(signature, str) else signature
    if s.dataset is None or s.model is None or s.communication is not None or s.gradient is not None:
        raise wrong_value("signature", "must have D and M, and no G or C: these change neither data nor model", str(s))
    widths = {"D": s.dataset, "M": s.model} | ({"i": s.index} if s.index is not None else {})
    for term, fmt in widths.items():
        if str(fmt) not in (("8", "16", "32") if term == "i" else ("4", "8", "16", "32f")):
            raise wrong_value("signature", f"{term} must be a format of the kernels", str(s))
    n = check_int("n", n, minimum=1, maximum=2**31)
    cores = check_int("cores", cores, minimum=1, maximum=_simulator.MAX_CORES)
    loop = check_choice("loop", loop, ("two-pass", "fused"))
    own = check_choice("update", update, ("own", "load")) == "own"
    shared, ahead = check_bool("shared", shared), _AHEAD if check_bool("prefetch", prefetch) else 0
    model_prefetch = check_int("model_prefetch", model_prefetch, minimum=0, maximum=2**16)
    batch_size = check_int("batch_size", batch_size, minimum=1, maximum=100)
    rng = np.random.default_rng(check_seed(seed))
    if batch_size > 1 and (loop == "fused" or s.index is not None):
        raise wrong_value("batch_size", "must be 1 with sparse data, and with loop='fused'", batch_size)
    if s.index is not None and loop == "fused":
        raise wrong_value("loop", "must be two-pass with sparse data", loop)
    if cost is None:
        cost = instructions(s)
    elif not isinstance(cost, Instructions):
        raise wrong_type("cost", "Instructions", cost)
    streams = []
    for core in range(cores):
        model = MODEL + (0 if shared else core * _MODELS_APART)
        shape = _Shape(n, s.dataset.bits, s.model.bits, model)
        base = _DATA + core * _SHARES_APART
        region = (model, int(shape.w_lines[-1]) + LINE)
        if s.index is not None:
            density = check_finite_scalar("density", density, positive=True)
            entries = max(1, round(n * density))
            if density > 1.0:
                raise wrong_value("density", "must be at most 1", density)
            made, rows, stride = _sparse(n, entries, s.dataset.bits, s.index.bits, s.model.bits, model, cost, own, ahead, rng)
            streams.append(Stream(made, rows, rows * (_ENDLESS // rows), base, stride, rows * entries, region))
            continue
        if streams and shared:
            made = streams[0].accesses  # the same: addresses of data are relative to a core's own
        elif loop == "fused":
            made = _fused(shape, cost, own, ahead, model_prefetch)
        else:
            made = _two_pass(shape, cost, batch_size, own, ahead, model_prefetch)
        rows = batch_size * (_ENDLESS // batch_size)
        streams.append(Stream(made, batch_size, rows, base, shape.x_bytes, n * batch_size, region))
    return streams
