"""How many threads PyTorch may use, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Let PyTorch have so many threads (None: as many as it has) until the end of the block.

    It may share its OpenMP runtime with our kernels, and what it is told would hold for them too, for the rest of the process.
    """
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
