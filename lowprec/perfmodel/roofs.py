"""What a machine can do: roofs, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowprec.checks import check_finite_scalar, check_int, wrong_value

__all__ = ["LINE", "Roofs"]

#: Bytes of a cache line.
LINE = 64


@dataclass(frozen=True)
class Roofs:
    """The roofs of one machine.

    Parameters
    ----------
    read : tuple of (int, float)
        Reading the same bytes again and again on one thread: by their number, ascending, the nanoseconds for a cache line. The
        first entry lies in the first-level cache.
    stream_gbps : float
        Reading memory that no cache holds on one thread, 10^9 bytes a second.
    stream_all_gbps : float
        The same on all threads together.
    threads : int
        How many "all" are.
    line_ns : float, optional
        A cache line that two threads send to and fro: from the one core to the other. None where there is one thread.
    contended_ns : float, optional
        Two threads that both change the same bytes, front to back, again and again: nanoseconds for a cache line and thread.
    vector_gops : float, optional
        10^9 vector operations a second in registers, one thread.
    """

    read: tuple[tuple[int, float], ...]
    stream_gbps: float
    stream_all_gbps: float
    threads: int = 1
    line_ns: float | None = None
    contended_ns: float | None = None
    vector_gops: float | None = None

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.read]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise wrong_value("read", "must be pairs of bytes, ascending, and nanoseconds", self.read)
        for size, ns in self.read:
            check_finite_scalar(f"read: {size}", ns, positive=True)
        for name in ("stream_gbps", "stream_all_gbps"):
            check_finite_scalar(name, getattr(self, name), positive=True)
        check_int("threads", self.threads, minimum=1)
        for name in ("line_ns", "contended_ns", "vector_gops"):
            if getattr(self, name) is not None:
                check_finite_scalar(name, getattr(self, name), positive=True)

    def read_ns(self, n_bytes: float) -> float:
        """Nanoseconds for a cache line of `n_bytes` that are read again and again, between two sizes measured log-linear."""
        if n_bytes <= self.read[0][0]:
            return self.read[0][1]
        for (a, ns_a), (b, ns_b) in zip(self.read, self.read[1:], strict=False):
            if n_bytes <= b:
                share = math.log(n_bytes / a) / math.log(b / a)
                return ns_a * (ns_b / ns_a) ** share
        return self.read[-1][1]

    def beyond_first_ns(self, n_bytes: float) -> float:
        """What a cache line costs more, of `n_bytes` in turn, than one in the first-level cache; at least 0."""
        return max(0.0, self.read_ns(n_bytes) - self.read[0][1])

    def stream_ns(self, threads: int) -> float:
        """Nanoseconds for a cache line from memory, for each of `threads` threads that read at once."""
        return LINE / min(self.stream_gbps, self.stream_all_gbps / threads)
