"""What explicit communication cost: bytes and time of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..kernels import coded_bytes

__all__ = ["CommunicationInfo", "bytes_per_exchange"]

# Columns of a model that belong to one owner together (LP_SPAN of kernels/driver.h).
_SPAN = 64


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
    exchanges : int
        How often each worker exchanged with the others.
    bytes_per_exchange : float
        Sent in one by a worker, the mean over the workers, everything included: what `bytes_per_exchange` says.
    bytes_sent : int
        By this rank in the whole run, also before and between exchanges; of threads, what the mean worker would have sent.
    float32_bytes : float
        What the mean worker would have sent in as many exchanges of C32f.
    ratio : float
        Of `float32_bytes` to what the mean worker sent in the exchanges.
    seconds : float
        In exchanges: coding, sending, and waiting for others. Of asynchronous threads the mean over the workers.
    waiting : float or None
        The part of it in which this rank waited for messages, the rest being the work of coding; None of threads.
    """

    codec: str
    synchronous: bool
    error_feedback: bool
    workers: int
    rank: int | None
    exchanges: int
    bytes_per_exchange: float
    bytes_sent: int
    float32_bytes: float
    ratio: float
    seconds: float
    waiting: float | None


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
    spans = -(-n // _SPAN)
    ends = [min(n, spans * q // workers * _SPAN) for q in range(workers + 1)]
    vector = sum(coded_bytes(codec, b - a) for a, b in pairwise(ends)) + (8 if intercept else 0)
    return 2.0 * (workers - 1) / workers * models * vector
