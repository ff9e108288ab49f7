"""What explicit communication cost: bytes and time of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from .. import checks
from ..kernels import coded_bytes

__all__ = ["INTERCEPT", "STRIPE", "CommunicationInfo", "bytes_per_exchange", "chunk_sizes"]

#: Columns of a model that are never split between owners (LP_SPAN of kernels/driver.h); bytes of an intercept.
STRIPE, INTERCEPT = 64, 8


@dataclass(frozen=True)
class CommunicationInfo:
    """What the C term of a run cost.

    Attributes
    ----------
    codec : str
        "1", "2", "4", "8", "16", "16f" or "32f".
    synchronous, error_feedback : bool
    workers : int
        Ranks of the communicator, or threads.
    rank : int or None
        Of this process; None: workers are threads, and nothing really crossed a wire.
    sync_every : int
        Examples of a worker's round: what was asked for, or chosen.
    exchanges : int
        How often each worker exchanged with the others.
    bytes_per_exchange : float
        Sent in one by a worker, the mean over the workers, levels and intercepts included: what `bytes_per_exchange` says.
    bytes_sent : int
        By this rank in the whole run, also before, between and after exchanges; of threads, what the mean worker would have sent.
    float32_bytes : float
        What the mean worker would have sent in as many exchanges of C32f.
    ratio : float
        Of `float32_bytes` to what the mean worker sent in the exchanges.
    seconds : float
        In exchanges: coding, sending, and waiting for others. Of asynchronous threads the mean over the workers.
    waiting : float or None
        The part of `seconds` in which this rank waited for messages, the rest being the work of coding; None of threads.
    """

    codec: str
    synchronous: bool
    error_feedback: bool
    workers: int
    rank: int | None
    sync_every: int
    exchanges: int
    bytes_per_exchange: float
    bytes_sent: int
    float32_bytes: float
    ratio: float
    seconds: float
    waiting: float | None


def chunk_sizes(n: int, machines: int) -> dict[int, int]:
    """How long the owners' chunks of a model are, and how many owners have one so long.

    Owner q of R has the columns from 64 floor(s q / R) to 64 floor(s (q + 1) / R) of the n, s = ceil(n / 64). So all chunks have
    floor(s / R) or ceil(s / R) times 64 columns; the last one is of the longer kind, and ends with the model.

    Parameters
    ----------
    n : int
        Model size.
    machines : int

    Returns
    -------
    dict of int to int
        How many, by length.
    """
    n, machines = checks.check_int("n", n, minimum=1), checks.check_int("machines", machines, minimum=1)
    stripes = -(-n // STRIPE)
    short, longer = divmod(stripes, machines)
    found: dict[int, int] = {}
    last = STRIPE * (short + (longer > 0)) - (STRIPE * stripes - n)
    for length, count in (
        (STRIPE * short, machines - longer - (longer == 0)),
        (STRIPE * (short + 1), max(longer - 1, 0)),
        (last, 1),
    ):
        if count:
            found[length] = found.get(length, 0) + count
    return found


def bytes_per_exchange(codec: str, n: int, workers: int, *, models: int = 1, intercept: bool = False) -> float:
    """Bytes that a worker sends in one exchange, the mean over the workers.

    Parameters
    ----------
    codec : str
    n : int
        Weights of a model.
    workers : int
    models : int
    intercept : bool
        Whether each model has one.

    Returns
    -------
    float
        2 (R - 1) / R times the coded chunks of all R workers, and 16 (R - 1) / R for an intercept. A chunk of k numbers has
        ceil(k b / 8) + 4 l ceil(k / 2048) bytes; chunks are as equal as multiples of 64 columns can be.
    """
    vector = sum(count * coded_bytes(codec, length) for length, count in chunk_sizes(n, workers).items())
    return 2.0 * (workers - 1) / workers * models * (vector + (INTERCEPT if intercept else 0))
