"""Stamps of work that the device does later, on the server's monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def mark(device: torch.device) -> Callable[[], int]:
    """This moment in the device's work; the function returned gives its time (ns), waiting for the device where it must.

    On CUDA the mark is an event, so taking it does not stop the queue of kernels; its time is counted back from a second
    event, taken when it is asked for, so that no clock of the device has to keep step with the host's.
    """
    if device.type != "cuda":
        now = time.monotonic_ns()
        return lambda: now
    event = torch.cuda.Event(enable_timing=True)
    event.record()

    def read() -> int:
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        end.synchronize()
        return time.monotonic_ns() - int(event.elapsed_time(end) * 1e6)

    return read
