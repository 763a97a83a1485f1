"""Copies between device and host, counted, each batch complete when the call returns.

On CUDA a copy goes through a stream of its own, so compute goes on beside it; the caller (the pager's thread) waits,
never the compute thread. On a CPU it is a memcpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch

Move = tuple[torch.Tensor, torch.Tensor]  # (destination, source), same shape and dtype


class Copier:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, moves: Iterable[Move]) -> int:
        """Carry out every move, in order, and wait for the last; returns the bytes moved."""
        total = 0
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for destination, source in moves:
                destination.copy_(source, non_blocking=True)
                total += source.nbytes
        if self._stream:
            self._stream.synchronize()
        return total
