"""Small numbers between host and device, past whatever the copy engines have to do.

An engine stays with a stream as long as that has more for it: the few kilobytes that a pass begins with waited until no session
was on its way back any more (an H100's timeline: a pass of 15 ms took 237 while eleven came, one behind the other). So a
kernel reads and writes pinned memory itself, where Triton is; elsewhere they are copies like any other.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Sequence

import torch

log = logging.getLogger(__name__)
# Larger ones are the engines' work: a kernel that waits for the host's memory takes room on the card.
SMALL_BYTES = 1 << 23
Copy = Callable[[torch.Tensor, torch.Tensor], object]


def uploaded(numbers: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """int64 on `device`, from pinned memory: for a copy from any other torch waits until the stream is empty."""
    if device.type != "cuda":
        return torch.tensor(numbers)
    pinned = torch.tensor(numbers, pin_memory=True)
    there = torch.empty_like(pinned, device=device)
    small(device).up(there, pinned)
    return there


class Small:
    """Of one CUDA device, for the thread that computes, on its stream."""

    def __init__(self, device: torch.device) -> None:
        self._copy: Copy = _kernel(device) or _plain
        self._under_way: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()

    def up(self, there: torch.Tensor, pinned: torch.Tensor) -> torch.cuda.Event:
        """Queue the copy of `pinned` to the device; its memory is kept until that has been made, which the event tells."""
        self._copy(there, pinned)
        made = torch.cuda.Event()
        made.record()
        self._under_way.append((made, pinned))
        while self._under_way and self._under_way[0][0].query():
            self._under_way.popleft()
        return made

    def down(self, there: torch.Tensor) -> torch.Tensor:
        """On the host when a later point of the stream is reached; the caller keeps it until then."""
        if there.nbytes > SMALL_BYTES:
            return there.to("cpu", non_blocking=True)
        here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
        self._copy(here, there.contiguous())
        return here


@functools.cache
def small(device: torch.device) -> Small:
    return Small(device)


def _plain(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source, non_blocking=True)


def _kernel(device: torch.device) -> Copy | None:
    """A copy by a kernel, compiled, if numbers come back from there as they went; None where they do not."""
    try:
        from djinn.model.small_copy import copy  # needs Triton, and that a compiler

        came = [_there_and_back(copy, device, dtype) for dtype in (torch.int64, torch.float32)]
    except (ImportError, RuntimeError, ValueError) as reason:
        log.info("small numbers go by the copy engines: %s: %s", type(reason).__name__, reason)
        return None
    if not all(came):
        log.info("small numbers go by the copy engines: a kernel brought others back")
        return None
    return copy


def _there_and_back(copy: Copy, device: torch.device, dtype: torch.dtype) -> bool:
    went = torch.arange(2000, dtype=dtype, pin_memory=True)
    back, there = torch.zeros_like(went, pin_memory=True), torch.zeros_like(went, device=device)
    copy(there, went)
    copy(back, there)
    torch.cuda.synchronize(device)
    return torch.equal(back, went)
