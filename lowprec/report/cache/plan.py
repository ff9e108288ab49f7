"""What `lowprec cache` simulates: every point, with all that is decided about it.

Decided in advance, by no look at Fig 6c: the machine is the paper's, its latencies the paper's and, where it has none, those of
ZSim's
defaults; the directory drops a sharer when it sends the invalidation and each cache has a coin of its own, as ZSim's classes do;
computing costs the instructions of our own kernels, one cycle each, as ZSim's simple core has it.

Decided by what is learned (Fig 6f): the algorithm is the paper's Fig 1, a product and then an update, and the update asks for a
line before it reads it. One that does not loses what others have learned.

Fitted: the prefetching core's distance. All of the distances that are shown fade with n as the paper's figure does; of those up
to 16 lines, the longest comes nearest to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lowprec.cachesim import Core, MachineConfig, Obstinate, Protocol, model_region
from lowprec.checks import check_int, wrong_value

__all__ = ["CORES", "DEFAULT", "QUICK", "Here", "Options", "Point", "Training", "plan", "protocol"]

#: Fig 6c's and 6f's obstinacies.
PAPER_Q = (0.0, 0.25, 0.5, 0.75, 0.95)

#: The prefetching core's distance in the model, in lines, and its store buffer.
PREFETCH_LINES, STORE_BUFFER = 16, 16

#: Names of the core models. "out-of-order": two real cores' stand-in, with the line fill buffers and store buffer of a large
#: core.
CORES = {
    "in-order": Core(),
    "prefetch": Core(store_buffer=STORE_BUFFER),
    "out-of-order": Core(overlap=10, store_buffer=48),
}


@dataclass(frozen=True)
class Here:
    """Two cores of this machine, as they were measured with private models: what the simulation of shared ones starts from.

    Parameters
    ----------
    example_ns : float
        Of an example of n = 256 on one of two cores that share nothing.
    line_ns : float
        Of a cache line from one core to the other.
    first, second, third : (int, int)
        Bytes and ways of the caches.
    """

    example_ns: float
    line_ns: float
    first: tuple[int, int]
    second: tuple[int, int]
    third: tuple[int, int]


@dataclass(frozen=True)
class Point:
    """A throughput to be simulated.

    Parameters
    ----------
    figure : str
        "6c": the paper's. "6c-here": the same on two cores like this machine's. "sensitivity": what the figure depends on.
    core : str
        One of `CORES`.
    signature : str
    n : int
    q : float
    variant, value : str
        "sensitivity": what is other than in Fig 6c, and how.
    loop, update, coin, directory : str
        As `sgd_streams` and `Obstinate` have them.
    overlap, store_buffer : int or None
        The core's, where they are not those of its name.
    model_prefetch : int
    remote : float
        Cycles.
    compute : float
        Times the counted instructions.
    """

    figure: str
    core: str
    signature: str
    n: int
    q: float
    variant: str = ""
    value: str = ""
    loop: str = "two-pass"
    update: str = "own"
    coin: str = "level"
    directory: str = "drops"
    overlap: int | None = None
    store_buffer: int | None = None
    model_prefetch: int = 0
    remote: float = MachineConfig.remote
    compute: float = 1.0

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return repr(self)

    @property
    def model(self) -> Core:
        """The core."""
        core = CORES[self.core]
        changed = {name: value for name in ("overlap", "store_buffer") if (value := getattr(self, name)) is not None}
        return replace(core, **changed)


@dataclass(frozen=True)
class Training:
    """A training run to be simulated.

    Parameters
    ----------
    figure : str
        "6f", or "6f-variants".
    signature : str
    n, m, passes, batch_size : int
    q : float
    update : str
    step_factor : float
        The step size times n.
    """

    figure: str
    signature: str
    n: int
    m: int
    passes: int
    q: float
    step_factor: float
    update: str = "own"
    batch_size: int = 1

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return repr(self)


@dataclass(frozen=True)
class Options:
    """What is simulated.

    Parameters
    ----------
    signatures : tuple of str
        Of Fig 6c; the first is also that of the machine at hand and of the sensitivities.
    sizes : tuple of int
        Model sizes of Fig 6c.
    q : tuple of float
        Obstinacies; 0 among them, which speedups are over.
    accesses : int
        For a point, about, after as many to warm up.
    sensitivity_sizes : tuple of int
    learn_n, learn_m, learn_passes : int
        Fig 6f's problem.
    learn_q : tuple of float
    variants : bool
        Also train with updates that do not ask for their lines, with mini-batches, and in 8 bits.
    hardware_seconds : float
        For measuring two real cores; 0: not at all.
    seed : int
        Of data, columns, rounding, and the caches' coins.
    """

    signatures: tuple[str, ...] = ("D8M8", "D16M16", "D32fM32f", "D8i8M8")
    sizes: tuple[int, ...] = tuple(2**k for k in range(8, 18))
    q: tuple[float, ...] = PAPER_Q
    accesses: int = 800_000
    sensitivity_sizes: tuple[int, ...] = (2**8, 2**11, 2**14)
    learn_n: int = 2**10
    learn_m: int = 2**16
    learn_passes: int = 10
    learn_q: tuple[float, ...] = (*PAPER_Q, 1.0)
    variants: bool = True
    hardware_seconds: float = 8.0
    seed: int = 1

    def checked(self) -> Options:
        """The same, after a look at what a user may have chosen."""
        if not all(isinstance(q, (int, float)) and 0.0 <= q <= 1.0 for q in self.q):
            raise wrong_value("q", "must lie in [0, 1]: they are probabilities", list(self.q))
        for signature in self.signatures:
            _counted(signature)
        check_int("accesses", self.accesses, minimum=1000)
        return replace(self, q=tuple(sorted({0.0, *map(float, self.q)})))


DEFAULT = Options()
QUICK = Options(
    signatures=("D8M8",),
    sizes=(2**8, 2**10, 2**12, 2**13, 2**14),
    q=(0.0, 0.5, 0.95),
    accesses=300_000,
    sensitivity_sizes=(2**8, 2**13),
    learn_m=2**12,
    learn_passes=4,
    learn_q=(0.0, 0.95),
    variants=False,
    hardware_seconds=3.0,
)


def _counted(signature: str) -> None:
    from lowprec.cachesim import instructions

    instructions(signature)


def protocol(point: Point) -> Protocol:
    """The protocol of a point."""
    region = model_region(point.signature, point.n)
    return Obstinate(point.q, [region], coin=point.coin, directory=point.directory)


#: What Fig 6c may depend on: name, value, and the fields that are other. Of the prefetching core, where the name says so.
_VARIANTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("as in Fig 6c", "", "in-order", {}),
    ("computing", "x 0.5", "in-order", {"compute": 0.5}),
    ("computing", "x 2", "in-order", {"compute": 2.0}),
    ("remote latency", "0", "in-order", {"remote": 0.0}),
    ("remote latency", "36", "in-order", {"remote": 36.0}),
    ("remote latency", "100", "in-order", {"remote": 100.0}),
    ("overlap of loads", "2", "in-order", {"overlap": 2}),
    ("overlap of loads", "4", "in-order", {"overlap": 4}),
    ("overlap of loads", "10", "in-order", {"overlap": 10}),
    ("coin", "one a core", "in-order", {"coin": "core"}),
    ("directory", "keeps the sharer", "in-order", {"directory": "keeps"}),
    ("update", "as any load", "in-order", {"update": "load"}),
    ("loop", "fused, as any load", "in-order", {"loop": "fused", "update": "load"}),
    ("loop", "fused", "in-order", {"loop": "fused"}),
    *(("prefetch distance", str(d), "prefetch", {"model_prefetch": d, "store_buffer": STORE_BUFFER}) for d in (1, 2, 4, 8, 16)),
    ("prefetch, update as any load", "2", "prefetch", {"model_prefetch": 2, "update": "load"}),
    ("prefetch, update as any load", "16", "prefetch", {"model_prefetch": 16, "update": "load"}),
)


def plan(options: Options, here: Here | None, step_factor: float) -> list[Point | Training]:
    """Every point and training run.

    Parameters
    ----------
    options : Options
    here : Here or None
        None: without two cores like this machine's.
    step_factor : float
        Of Fig 6f, times n.
    """
    o = options
    made: list[Point | Training] = []
    # The longest first: what is left at the end is short, and all cores are busy until then.
    common = {"n": o.learn_n, "m": o.learn_m, "passes": o.learn_passes, "step_factor": step_factor}
    made += [Training("6f", "D16M16", q=q, **common) for q in o.learn_q]
    if o.variants:
        ends = (0.0, 0.95, 1.0)
        made += [Training("6f-variants", "D16M16", q=q, update="load", **common) for q in ends]
        made += [Training("6f-variants", "D16M16", q=q, batch_size=16, **common) for q in ends]
        made += [Training("6f-variants", "D8M8", q=q, **common) for q in ends]
    cores: Sequence[tuple[str, int]] = (("in-order", 0), ("prefetch", PREFETCH_LINES))
    for signature in o.signatures:
        for core, lines in cores:
            if lines and "i" in signature:
                continue  # where a sparse row's next lines are, only its index says
            made += [Point("6c", core, signature, n, q, model_prefetch=lines) for n in o.sizes for q in o.q]
    first = o.signatures[0]
    if here is not None:
        made += [Point("6c-here", "out-of-order", first, n, q) for n in o.sizes for q in o.q]
    for variant, value, core, changed in _VARIANTS if "i" not in first else ():
        made += [
            Point("sensitivity", core, first, n, q, variant=variant, value=value, **changed)
            for n in o.sensitivity_sizes
            for q in (0.0, 0.5, 0.95)
        ]
    return made
