"""Stamps of work that the device does later, on the server's monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Clock:
    """`mark()` now, read later: on CUDA a mark is an event, so taking it does not stop the queue of kernels."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._base_ns = 0

    def start(self) -> None:
        """Tie the device's time to the host's. The device's queue should be empty."""
        if self._cuda:
            self._base = torch.cuda.Event(enable_timing=True)
            self._base.record()
            self._base_ns = time.monotonic_ns()

    def mark(self) -> Callable[[], int]:
        """A function that gives this moment (ns), waiting for the device if it has not got there."""
        if not self._cuda:
            now = time.monotonic_ns()
            return lambda: now
        event = torch.cuda.Event(enable_timing=True)
        event.record()

        def read() -> int:
            event.synchronize()
            return self._base_ns + int(self._base.elapsed_time(event) * 1e6)

        return read
