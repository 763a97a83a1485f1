"""What the host reads of a device beside its compute: when something was reached there, and what came of it.

Nothing here waits for work that was queued later, so the next pass can be queued before the last one's result is read.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from djinn.model.upload import small

PINNED_BYTES = 1 << 26  # larger ones are copied pageable: torch keeps pinned memory once it was used


class Moment(ABC):
    """A point in the device's work."""

    @abstractmethod
    def reached(self) -> bool: ...

    @abstractmethod
    def wait(self) -> None:
        """Block this thread until it is reached. Raises RuntimeError when the device failed."""

    @abstractmethod
    def ns(self) -> int:
        """When it was reached, on the server's monotonic clock; waits for it."""


class Past(Moment):
    """Where the host computes itself, all that it was told to do is done."""

    def __init__(self) -> None:
        self._ns = time.monotonic_ns()

    def reached(self) -> bool:
        return True

    def wait(self) -> None:
        return

    def ns(self) -> int:
        return self._ns


class Brought(NamedTuple):
    """A result on its way to the host; there when a later moment has been reached, but for what stays on the device."""

    logits: torch.Tensor  # (rows, positions, vocabulary), float32
    likeliest: torch.Tensor  # int64 (rows,), of each row's last position: the first of equals
    there: torch.Tensor  # the same on the device, for a pass that is queued behind


class Side:
    """A CPU: the host computes, and there is nothing beside it."""

    def moment(self) -> Moment:
        """The point behind everything that this thread has computed or queued so far."""
        return Past()

    def bring(self, logits: torch.Tensor) -> Brought:
        """Queue the way of a result `(rows, positions, vocabulary)` to the host, as float32, and of its likeliest tokens."""
        wide = logits.float()
        likeliest = torch.from_numpy(wide[:, -1].numpy().argmax(-1))  # a third of torch's own time
        return Brought(wide, likeliest, likeliest)

    def fetch(self, brought: torch.Tensor) -> torch.Tensor:
        """Logits that `bring` gave, on the host. Called when that moment has been reached."""
        return brought

    def copy(self, still: torch.Tensor) -> torch.Tensor:
        """A copy on the host of bytes there or on the device, which nothing writes. For any thread."""
        return still.clone()


class CudaMoment(Moment):
    """Its time is counted back from an event on a stream of its own, so that no clock of the device has to keep step with
    the host's, and nothing queued behind it is waited for.
    """

    def __init__(self, aside: torch.cuda.Stream) -> None:
        self._aside = aside
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(aside.device))

    def reached(self) -> bool:
        return self._event.query()

    def wait(self) -> None:
        self._event.synchronize()

    def ns(self) -> int:
        self.wait()
        now = torch.cuda.Event(enable_timing=True)
        now.record(self._aside)
        now.synchronize()
        return time.monotonic_ns() - int(self._event.elapsed_time(now) * 1e6)


class CudaSide(Side):
    def __init__(self, place: torch.device) -> None:
        self._aside, self._small = torch.cuda.Stream(place), small(place)

    def moment(self) -> Moment:
        return CudaMoment(self._aside)

    def bring(self, logits: torch.Tensor) -> Brought:
        wide = logits.to(torch.float32, copy=True)  # decoding in graphs writes every pass's logits in one place
        brought = self._small.down(wide) if wide.nbytes <= PINNED_BYTES else wide
        there = logits[:, -1].argmax(-1)
        return Brought(brought, self._small.down(there), there)

    def fetch(self, brought: torch.Tensor) -> torch.Tensor:
        return brought if brought.device.type == "cpu" else self.copy(brought)

    def copy(self, still: torch.Tensor) -> torch.Tensor:
        if still.device.type == "cpu":
            # Into memory that torch keeps pinned: a fresh clone of 21 MB meets 5,000 page faults.
            return torch.empty_like(still, pin_memory=still.nbytes <= PINNED_BYTES).copy_(still)
        with torch.cuda.stream(self._aside):
            copied = still.to("cpu", non_blocking=still.nbytes <= PINNED_BYTES)
            self._aside.synchronize()
        return copied


def side_of(place: torch.device) -> Side:
    return CudaSide(place) if place.type == "cuda" else Side()
