"""The package's random words in plain Python: see "Random words" and "Seeding" in docs/architecture.md."""

from __future__ import annotations

import numpy as np

__all__ = ["Words", "lane_states"]

_MASK = (1 << 64) - 1
_ZERO = 0x9E3779B97F4A7C15


def _splitmix64(state: int) -> tuple[int, int]:
    """Steele, Lea, Flood, OOPSLA 2014: the next state, and an output."""
    state = (state + _ZERO) & _MASK
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return state, z ^ (z >> 31)


def lane_states(seed: int, stream: int = 0) -> list[int]:
    """The first states of the eight generators of a block."""
    state = _splitmix64(seed)[1] ^ _splitmix64(stream ^ 0xD1B54A32D192ED03)[1]
    states = []
    for _ in range(8):
        state, z = _splitmix64(state)
        states.append(z or _ZERO)
    return states


def _drawn(x: int) -> int:
    x ^= (x << 13) & _MASK
    x ^= x >> 7
    return x ^ (x << 17) & _MASK


class Words:
    """The random words of one write after the other.

    Parameters
    ----------
    source : {"nearest", "shared", "xorshift"}
    bits : {16, 32}
        Of a word.
    seed : int
    """

    def __init__(self, source: str, bits: int, seed: int) -> None:
        self.source, self.bits, self.states = source, bits, lane_states(seed)

    def _block(self) -> np.ndarray:
        self.states = [_drawn(x) for x in self.states]
        return np.array(self.states, np.uint64).astype("<u8").view(f"<u{self.bits // 8}").astype(np.int64)

    def of(self, n: int) -> np.ndarray:
        """The words of a write of n numbers, int64."""
        per_block = 512 // self.bits
        if self.source == "nearest":
            return np.full(n, 1 << self.bits - 1, np.int64)
        blocks = -(-n // per_block)
        if self.source == "shared":
            return np.tile(self._block(), blocks)[:n]
        return np.concatenate([self._block() for _ in range(blocks)])[:n]
