"""A model of training on many machines: what a round computes, codes, and sends; latency and bandwidth.

The link is Hockney's (Parallel Computing 20, 1994): a message of b bytes takes alpha + b / bandwidth. An exchange is a
reduce-scatter by pairs and an all-gather, with the costs of Thakur, Rabenseifner and Gropp (Int. J. High Performance Computing
Applications 19, 2005): 2 (R - 1) messages one after another. With R machines, and k numbers in the largest chunk:

    synchronous    T = compute + coding + 2 (R - 1) alpha + bytes / bandwidth
    asynchronous   T = max(compute + coding, 2 (R - 1) alpha + bytes / bandwidth)
    coding         = (n + k) / encode + (n + R k) / decode         asynchronous: (n + R k) / encode + (n + R k) / decode

``bytes`` are exact, those that docs/architecture.md, Communication, counts for the machine that sends most. One machine sends
nothing and codes nothing: T = compute. A machine here is whatever holds one replica, a process too (`CommunicationModel`, cores).
docs/performance-model.md says what this leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec import kernels
from lowprec.checks import (
    check_bool,
    check_choice,
    check_finite_scalar,
    check_int,
    check_same_length,
    check_vector,
    wrong_type,
    wrong_value,
)
from lowprec.communication.accounting import INTERCEPT, STRIPE, chunk_sizes
from lowprec.communication.codecs import CODECS

__all__ = [
    "CODECS",
    "Coding",
    "CommunicationModel",
    "Link",
    "LinkFit",
    "Round",
    "Work",
    "chunk_sizes",
    "coded_bytes",
    "exchange_bytes",
    "fit_link",
]


def _positive(name: str, value: float) -> float:
    """A positive number; infinity too, for what costs nothing."""
    if isinstance(value, float) and value == math.inf:
        return value
    return check_finite_scalar(name, value, positive=True)


# ---- bytes ---------------------------------------------------------------------------------------------------------


def coded_bytes(numbers: int, C: str) -> int:
    """Bytes of a vector as it is sent, its levels included.

    Parameters
    ----------
    numbers : int
        Its length; 0 takes no bytes.
    C : {"1", "2", "4", "8", "16", "16f", "32f"}

    Returns
    -------
    int
    """
    C = check_choice("C", C, CODECS)
    return int(kernels.coded_bytes(C, check_int("numbers", numbers, minimum=0)))


def exchange_bytes(n: int, machines: int, C: str) -> int:
    """Bytes that one exchange has the busiest machine send; it receives as many.

    A machine sends each of the others their chunk, and to each of them its own merged chunk; machine 0 sends the intercept to
    all, and they to it.

    Parameters
    ----------
    n : int
        Model size.
    machines : int
        One alone sends nothing.
    C : str
        As for `coded_bytes`.

    Returns
    -------
    int
    """
    counts = chunk_sizes(n, machines)
    sizes = {length: coded_bytes(length, C) for length in counts}
    if machines == 1:
        return 0
    vector = sum(count * sizes[length] for length, count in counts.items())
    first = sizes[STRIPE * (-(-n // STRIPE) // machines)]  # floor(s / R) stripes
    # A machine's own chunk is missing from what it gives, and goes out R - 1 times: the vector and R - 2 times that chunk.
    with_first = (machines - 2) * first + INTERCEPT * (machines - 1)
    with_largest = (machines - 2) * max(sizes.values()) + INTERCEPT
    return vector + max(with_first, with_largest)


# ---- what a model is made of ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A link between two machines.

    Parameters
    ----------
    latency : float
        Seconds that every message takes, however short.
    bandwidth : float
        Bytes a second that a machine sends, while it receives as many. ``math.inf``: only latency counts.
    """

    latency: float
    bandwidth: float

    def __post_init__(self) -> None:
        check_finite_scalar("latency", self.latency, nonnegative=True)
        _positive("bandwidth", self.bandwidth)

    def seconds(self, n_bytes: float) -> float:
        """How long a message is under way."""
        return self.latency + n_bytes / self.bandwidth


@dataclass(frozen=True)
class Work:
    """What a machine does between two exchanges.

    Parameters
    ----------
    n : int
        Model size.
    examples : int
        Of a round and machine: `sync_every`.
    numbers : float
        Dataset numbers of these examples; of sparse data, nonzeros.
    seconds : float
        Of training on them, nothing exchanged.
    """

    n: int
    examples: int
    numbers: float
    seconds: float

    def __post_init__(self) -> None:
        check_int("n", self.n, minimum=1)
        check_int("examples", self.examples, minimum=1)
        check_finite_scalar("numbers", self.numbers, positive=True)
        check_finite_scalar("seconds", self.seconds, positive=True)


@dataclass(frozen=True)
class Coding:
    """A codec, and how fast a machine is at it.

    Parameters
    ----------
    C : {"1", "2", "4", "8", "16", "16f", "32f"}
    encode : float
        Numbers a second, residuals and all else that goes with it included. ``math.inf``: it takes no time.
    decode : float
        Numbers a second, decoded and added.
    """

    C: str
    encode: float = math.inf
    decode: float = math.inf

    def __post_init__(self) -> None:
        check_choice("C", self.C, CODECS)
        _positive("encode", self.encode)
        _positive("decode", self.decode)


# ---- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """Where the time of one round goes, in seconds.

    Attributes
    ----------
    compute, coding : float
        The machine's own work.
    latency, transfer : float
        Of messages: 2 (R - 1) alpha, and bytes / bandwidth.
    overlapped : bool
        Whether messages are under way while the machine works.
    """

    compute: float
    coding: float
    latency: float
    transfer: float
    overlapped: bool = False

    @property
    def work(self) -> float:
        """Computing and coding."""
        return self.compute + self.coding

    @property
    def communication(self) -> float:
        """Messages."""
        return self.latency + self.transfer

    @property
    def seconds(self) -> float:
        """The whole round."""
        return max(self.work, self.communication) if self.overlapped else self.work + self.communication

    @property
    def bound(self) -> str:
        """The largest term: ``"compute"``, ``"coding"``, ``"latency"`` or ``"bandwidth"``; overlapped, of the longer side."""
        work = [(self.compute, "compute"), (self.coding, "coding")]
        messages = [(self.latency, "latency"), (self.transfer, "bandwidth")]
        terms = work + messages
        if self.overlapped:
            terms = messages if self.communication > self.work else work
        return max(terms, key=lambda term: term[0])[1]


@dataclass(frozen=True)
class CommunicationModel:
    """Throughput on many machines.

    Every machine trains rounds of one length on data of its own. With data for each machine this is weak scaling; strong
    scaling, data that all machines divide among them, differs in the number of rounds alone (`epoch_seconds`).

    Parameters
    ----------
    work : Work
    link : Link
    coding : Coding
    asynchronous : bool
        Messages are under way while the next round is computed, one at a time.
    cores : int, optional
        Machines are processes of one machine that has so many cores. What moves their messages are they themselves: nothing is
        under way while they work. More processes than cores take turns, and everything takes R / cores times as long. Left
        out, each machine has a core of its own, and something that moves its messages.
    """

    work: Work
    link: Link
    coding: Coding
    asynchronous: bool = False
    cores: int | None = None

    def __post_init__(self) -> None:
        for name, kind in (("work", Work), ("link", Link), ("coding", Coding)):
            if not isinstance(getattr(self, name), kind):
                raise wrong_type(name, f"a {kind.__name__}", getattr(self, name))
        check_bool("asynchronous", self.asynchronous)
        if self.cores is not None:
            check_int("cores", self.cores, minimum=1)

    def round(self, machines: int, examples: int | None = None) -> Round:
        """The terms of a round.

        Parameters
        ----------
        machines : int
        examples : int, optional
            Of a round that is cut short, by the end of an epoch for example.

        Returns
        -------
        Round
        """
        machines = check_int("machines", machines, minimum=1)
        n, coding = self.work.n, self.coding
        full = self.work.examples
        part = full if examples is None else check_int("examples", examples, minimum=0, maximum=full)
        compute = self.work.seconds * (part / full)
        overlapped = self.asynchronous and self.cores is None
        if machines == 1:
            return Round(compute, 0.0, 0.0, 0.0, overlapped)
        chunk = max(chunk_sizes(n, machines))
        # An owner answers all at once, or, where nobody waits for all, each worker by itself.
        answers = machines * chunk if self.asynchronous else chunk
        coded = (n + answers) / coding.encode + (n + machines * chunk) / coding.decode
        turns = 1.0 if self.cores is None else max(machines / self.cores, 1.0)
        return Round(
            turns * compute,
            turns * coded,
            turns * (2 * (machines - 1) * self.link.latency),
            turns * (exchange_bytes(n, machines, coding.C) / self.link.bandwidth),
            overlapped,
        )

    def examples_per_second(self, machines: int) -> float:
        """Examples a second of all machines together."""
        return machines * self.work.examples / self.round(machines).seconds

    def gnps(self, machines: int) -> float:
        """10^9 dataset numbers a second of all machines together."""
        return machines * self.work.numbers / self.round(machines).seconds / 1e9

    def efficiency(self, machines: int) -> float:
        """Throughput over that of as many machines that never communicate; at most 1."""
        return self.work.seconds / self.round(machines).seconds

    def speedup_over(self, other: CommunicationModel, machines: int) -> float:
        """Throughput over that of another model, for example one with C32f."""
        return self.examples_per_second(machines) / other.examples_per_second(machines)

    def first_below(self, efficiency: float = 0.5, at_most: int = 2**14) -> int | None:
        """The least number of machines whose efficiency is below `efficiency`.

        Parameters
        ----------
        efficiency : float
            In (0, 1].
        at_most : int
            Where to stop looking.

        Returns
        -------
        int or None
            None if there is none up to `at_most`.
        """
        if not 0 < check_finite_scalar("efficiency", efficiency) <= 1:
            raise wrong_value("efficiency", "must lie in (0, 1]", efficiency)
        # One by one: chunks of whole stripes make efficiency go up and down a little from one number of machines to the next.
        numbers = range(1, check_int("at_most", at_most, minimum=1) + 1)
        return next((machines for machines in numbers if self.efficiency(machines) < efficiency), None)

    def epoch_seconds(self, examples: int, machines: int) -> float:
        """How long one pass over the data takes.

        Rounds end with the epoch: the last one may be shorter, and has its exchange all the same.

        Parameters
        ----------
        examples : int
            Of all machines together, divided evenly. One number for all `machines` is strong scaling, ``machines * m`` weak.
        machines : int

        Returns
        -------
        float
        """
        share = -(-check_int("examples", examples, minimum=1) // check_int("machines", machines, minimum=1))
        rounds, rest = divmod(share, self.work.examples)
        return rounds * self.round(machines).seconds + (self.round(machines, rest).seconds if rest else 0.0)


# ---- links from measurements ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkFit:
    """A link found in measurements.

    Attributes
    ----------
    link : Link
    residuals : tuple of float
        Fitted over measured, less 1, of every message.
    """

    link: Link
    residuals: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest residual, without its sign."""
        return max(abs(r) for r in self.residuals)


def fit_link(sizes: Any, seconds: Any) -> LinkFit:
    """Latency and bandwidth from the times of messages.

    Least are the squares of the *relative* errors: a microsecond counts where messages are short. A latency that would come out
    negative is 0.

    Parameters
    ----------
    sizes : array-like of shape (k,)
        Bytes, at least two different sizes.
    seconds : array-like of shape (k,)
        Of one message, one way: half a ping-pong.

    Returns
    -------
    LinkFit

    Raises
    ------
    ValueError
        If times are not positive, sizes negative or all the same, or larger messages not slower.
    """
    sizes, seconds = check_vector("sizes", sizes), check_vector("seconds", seconds)
    check_same_length("seconds", len(seconds), "sizes", len(sizes))
    for name, values, good in (("sizes", sizes, sizes >= 0), ("seconds", seconds, seconds > 0)):
        if not good.all():
            rule = "every value must be positive" if name == "seconds" else "no value may be negative"
            raise wrong_value(name, rule, float(values[~good][0]))
    if len(np.unique(sizes)) < 2:
        raise wrong_value("sizes", "must have at least two different values", float(sizes[0]))
    # Relative errors are those of  latency (1 / t) + byte (b / t) = 1; b is scaled, so that both columns count as much.
    largest = sizes.max()
    columns = np.stack([1 / seconds, sizes / largest / seconds], axis=1)
    latency, slope = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)[0]
    if latency < 0:
        latency, slope = 0.0, columns[:, 1].sum() / (columns[:, 1] ** 2).sum()
    if slope <= 0:
        raise wrong_value("seconds", "larger messages must take longer", seconds.tolist())
    link = Link(float(latency), float(largest / slope))
    return LinkFit(link, tuple(float(r) for r in (latency + slope * sizes / largest) / seconds - 1))
