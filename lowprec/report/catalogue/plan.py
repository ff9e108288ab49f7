"""What is measured: the paper's figures as pieces, each a few cases at one model size that take turns against each other."""

from __future__ import annotations

import functools
import importlib.util
import zlib
from dataclasses import dataclass, field, replace

from lowprec.report import machine, paper
from lowprec.report.rows import FLOAT, split
from lowprec.report.workload import PREFETCH

__all__ = ["FLOAT", "FULL", "LADDER_SIZE", "QUICK", "SMALL", "Options", "Piece", "Setup", "float_of", "pieces", "published"]

#: Column numbers of sparse data have the width of the data, as in the paper's Table 2.
_INDEX = {"8": "8", "16": "16", "32f": "32"}

#: The paper's sparse figures begin here: smaller examples would have a handful of numbers.
_SPARSE_FROM = 2**10

#: Of Table 2, and where the rounding ladder is always measured.
LADDER_SIZE = 2**14

#: Of the models that two workers quarrel over.
SMALL = 2**8


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Parameters
    ----------
    n_bytes : int
        Size of the dense data set; a sparse one has an eighth as many numbers.
    sizes : tuple of int
        Model sizes of every figure.
    threads : tuple of int
        Numbers of threads; empty: powers of two below the number that this process may use, and that number.
    peer_sizes : tuple of int
        Model sizes at which scikit-learn is measured on sparse data; empty for none.
    seconds : float
        Time for measuring; making the data and the turns that have begun come on top.
    run_seconds : float
        About how long one run takes.
    seed : int
        Of data and rounding.
    """

    n_bytes: int = 256 * 2**20
    sizes: tuple[int, ...] = tuple(2**k for k in range(8, 21, 2))
    threads: tuple[int, ...] = ()
    peer_sizes: tuple[int, ...] = (2**14, 2**17, 2**20)
    seconds: float = 780.0
    run_seconds: float = 0.04
    seed: int = 1

    def resolved(self) -> Options:
        """With the numbers of threads of this machine."""
        from lowprec import runtime

        many = runtime.effective_n_threads()
        powers = tuple(2**k for k in range(many.bit_length()) if 2**k < many)
        return self if self.threads else replace(self, threads=(*powers, many))


FULL = Options()
QUICK = replace(FULL, n_bytes=64 * 2**20, sizes=(2**8, 2**14, 2**20), seconds=36.0, run_seconds=0.008)


@dataclass(frozen=True)
class Setup:
    """One thing that is timed. `signature` has no index term; of sparse data, `piece` says so."""

    signature: str
    engine: str = "lowprec"
    random: str = "shared"
    threads: int = 1
    batch_size: int = 1
    prefetch: str = "on"
    sync_every: int | None = None

    @property
    def formats(self) -> tuple[str, str]:
        """D and M."""
        return split(self.signature)

    def index(self, sparse: bool) -> str | None:
        """Width of the column numbers, None for dense data."""
        return _INDEX[self.formats[0]] if sparse else None


def float_of(setup: Setup) -> Setup:
    """Our float32 under the same conditions: the measure of what precision brings."""
    return replace(setup, signature=FLOAT, engine="lowprec", random="shared")


@dataclass(frozen=True)
class Piece:
    """Cases that take turns: what is stopped and gone on with as a whole.

    Parameters
    ----------
    figure : str
        ``table2``, ``fig3``, ``fig4``, ``fig5b``, ``fig5c``, ``fig6ab``, ``fig6d``, ``threads``, ``peer_sparse`` or ``roof``.
    n : int
        Model size.
    sparse : bool
    setups : dict of Setup to Setup
        What is timed, and for each what its `ratio` is over; float32 under the same conditions is always among them.
    """

    figure: str
    n: int
    sparse: bool = False
    setups: dict[Setup, Setup] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in the journal, which tells other cases apart: a machine may learn to switch its prefetcher off."""
        cases = zlib.crc32(repr(list(self.setups.items())).encode())
        return f"{self.figure} {'sparse' if self.sparse else 'dense'} n={self.n} {cases:08x}"


def _piece(figure: str, n: int, sparse: bool, setups: dict[Setup, Setup]) -> Piece:
    """A piece, completed by what the ratios are over."""
    whole = dict(setups)
    for setup, over in setups.items():
        for other in (over, float_of(setup)):
            whole.setdefault(other, other)
    return Piece(figure, n, sparse, whole)


def _ends(o: Options) -> tuple[int, ...]:
    """One thread, and all of them."""
    return tuple(dict.fromkeys((1, o.threads[-1])))


# ---- the figures ---------------------------------------------------------------------------------------------------


def _table2(sparse: bool) -> Piece:
    """Base throughput of one thread; over float32."""
    order = sorted(paper.base_throughput(), key=lambda s: -paper.base_throughput()[s])
    return _piece("table2", LADDER_SIZE, sparse, {Setup(s): Setup(FLOAT) for s in order})


def _fig3(o: Options, n: int, sparse: bool) -> Piece:
    """Throughput over model size and threads; over one thread."""
    signatures = ("D8M8", "D8M16", "D16M16", FLOAT)
    return _piece("fig3", n, sparse, {Setup(s, threads=t): Setup(s) for t in o.threads for s in signatures})


def _fig4(o: Options, n: int, sparse: bool) -> Piece:
    """Hand-written against the compiler; over the compiler."""
    setups = {}
    for t in _ends(o):
        for s in ("D8M8", "D16M8", "D8M16", "D16M16"):
            compiler = Setup(s, engine="compiler", threads=t)
            setups |= {Setup(s, threads=t): compiler, compiler: compiler}
    return _piece("fig4", n, sparse, setups)


def _fig5b(o: Options, n: int) -> Piece:
    """The rounding ladder; over the shared words."""
    setups = {}
    for t in _ends(o):
        for r in ("nearest", "shared", "xorshift", "mt19937"):
            setups[Setup("D16M16", random=r, threads=t)] = Setup("D16M16", threads=t)
    return _piece("fig5b", n, False, setups)


def _fig5c(o: Options, n: int) -> Piece:
    """4 bits against 8, by our kernels and by the paper's proxies; over our D8M8."""
    setups = {}
    for t in _ends(o):
        ours = Setup("D8M8", threads=t)
        setups |= {ours: ours, Setup("D4M4", threads=t): ours}
        if _has_proxies():
            setups |= {Setup(s, engine="proxy", threads=t): ours for s in ("D8M8", "D4M4")}
    return _piece("fig5c", n, False, setups)


def _fig6ab(o: Options, n: int, sparse: bool) -> Piece:
    """Prefetching off; over on."""
    setups = {}
    for t in _ends(o):
        for s in ("D8M8", "D16M16", FLOAT):
            for way in PREFETCH if hardware_prefetch_switchable() else PREFETCH[:2]:
                setups[Setup(s, threads=t, prefetch=way)] = Setup(s, threads=t)
    return _piece("fig6ab", n, sparse, setups)


def _fig6d(o: Options, n: int) -> Piece:
    """Mini-batches of 16; over single examples."""
    setups = {}
    for t in _ends(o):
        for s in ("D8M8", "D16M16", FLOAT):
            setups |= {Setup(s, threads=t, batch_size=b): Setup(s, threads=t) for b in (1, 16)}
    return _piece("fig6d", n, False, setups)


def _threads(o: Options) -> Piece:
    """All threads on a small model: plainly shared, and with replicas that are merged now and then; over one thread."""
    ways = [Setup("D8M8"), *(Setup("D8M8", threads=o.threads[-1], sync_every=k) for k in (None, 64, 256))]
    return _piece("threads", SMALL, False, dict.fromkeys(ways, ways[0]))


def pieces(o: Options) -> list[Piece]:
    """Everything that is measured, in order: sparse data are made once for each size.

    Parameters
    ----------
    o : Options
        Resolved.
    """
    plain = machine.baseline() is not None
    made = [Piece("roof", 0), _table2(False)]
    made += [_threads(o)] if o.threads[-1] > 1 else []
    for n in o.sizes:
        made += [_fig3(o, n, False), _fig5c(o, n), _fig6ab(o, n, False), _fig6d(o, n)]
        made += [_fig4(o, n, False)] if plain else []
    made += [_fig5b(o, n) for n in sorted({*o.sizes, LADDER_SIZE})]
    if importlib.util.find_spec("scipy") is not None:
        peer = o.peer_sizes if importlib.util.find_spec("sklearn") is not None else ()
        sizes = [n for n in o.sizes if n >= _SPARSE_FROM]
        for n in sorted({*sizes, *peer, LADDER_SIZE}):
            if n in sizes:
                made += [_fig3(o, n, True), _fig6ab(o, n, True), *([_fig4(o, n, True)] if plain else [])]
            made += [_table2(True)] if n == LADDER_SIZE else []
            made += [Piece("peer_sparse", n, True)] if n in peer else []
    return made


# ---- what this machine can do --------------------------------------------------------------------------------------


def _has_proxies() -> bool:
    from lowprec import kernels

    return machine.baseline() is not None and dict(kernels._isas()).get("avx2", False)


@functools.cache
def hardware_prefetch_switchable() -> bool:
    """Whether the hardware's prefetchers can be switched here: seen by switching them off for a moment."""
    from lowprec.prefetch import hardware_prefetcher

    try:
        with hardware_prefetcher(False):
            return True
    except RuntimeError:
        return False


# ---- what the paper has --------------------------------------------------------------------------------------------


def published(piece: Piece, setup: Setup) -> tuple[float | None, int | None]:
    """The paper's GNPS for the same, and the number of threads that it is for; None where it has none.

    Where the paper has no such number of threads, the least that is as large, see `paper.nearest_threads`. One thread of Fig 3 is
    Table 2, whose figures the paper holds for every model size.
    """
    s, sparse, figure = setup.signature, piece.sparse, piece.figure
    part = "b" if sparse else "a"
    threads = paper.MANY_THREADS
    line: dict[int, float] = {}
    if figure == "table2" or (figure == "fig3" and setup.threads == 1):
        return paper.base_throughput(sparse).get(s), 1
    if figure == "fig3":
        threads = paper.nearest_threads(setup.threads)
        line = paper.thread_series(s, threads, sparse)
    elif figure == "fig5c":
        threads = paper.nearest_threads(setup.threads, (4, paper.MANY_THREADS))
        # Its 4 bits are a proxy, its 8 bits are its kernels.
        if setup.engine == ("proxy" if s == "D4M4" else "lowprec"):
            line = paper.series("fig5c", f"{s} t{threads}") or paper.thread_series(s, threads)
    elif figure == "fig6ab":
        off = "all off" if hardware_prefetch_switchable() else "software off"
        line = paper.series(f"fig6{part}", f"{s} { {'on': 'pf', off: 'nopf'}.get(setup.prefetch) }")
    elif figure == "fig6d":
        line = paper.series("fig6d", f"{s} B{setup.batch_size}")
    elif s == FLOAT:
        line = paper.thread_series(s, threads, sparse)
    elif figure == "fig4":
        line = paper.series(f"fig4{part}", f"{s} {'gcc' if setup.engine == 'compiler' else 'hand'}")
    elif figure == "fig5b":
        line = paper.rounding_series(setup.random)
    gnps = line.get(piece.n)
    return (gnps, threads) if gnps is not None else (None, None)
