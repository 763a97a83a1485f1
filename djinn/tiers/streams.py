"""Copies that go on beside the compute, in order within a stream: the one way in which bytes change their tier.

Every wait between a stream, the compute and the host has a name (`Wait`), so that it can be counted, seen in the
timeline, and left out by a test that wants to see what breaks without it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

import torch

from djinn.errors import ServerFault
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
Copies = Sequence[tuple[torch.Tensor, torch.Tensor]]  # (destination, source), same shape and dtype


class Wait(StrEnum):
    OUT_AFTER_COMPUTE = "out_after_compute"  # a layer is copied out when it has been computed
    COMPUTE_AFTER_IN = "compute_after_in"  # a layer computes when its keys and values are back
    READY_AFTER_IN = "ready_after_in"  # a session is READY when what its next layer needs is back
    FREE_AFTER_OUT = "free_after_out"  # device bytes are free when they have been copied out
    FREE_AFTER_IN = "free_after_in"  # places left behind are free when they have been copied from


class Mark(ABC):
    """A point in the work of a stream or of the compute."""

    @abstractmethod
    def hold(self, wait: Wait) -> None:
        """What this thread computes from now on comes after the point."""

    @abstractmethod
    def wait(self) -> None:
        """Block this thread until the point is reached."""


class Stream(ABC):
    """A queue of copies. Its methods do not block; they are called by one thread."""

    @abstractmethod
    def after(self, mark: Mark, wait: Wait) -> None:
        """What is queued from now on starts when `mark` is reached."""

    @abstractmethod
    def copy(self, name: str, copies: Copies) -> None:
        """Queue copies; `name` is what the timeline shows."""

    @abstractmethod
    def mark(self) -> Mark:
        """The point behind everything queued so far."""

    @abstractmethod
    def call(self, done: Callable[[Exception | None], None], wait: Wait) -> None:
        """Call `done`, on a thread of the stream, when everything queued so far has completed: with the error of the first
        copy that failed since the last `call`, if one did."""

    @abstractmethod
    def close(self) -> None:
        """End its threads; what is queued is completed first."""


class Device(ABC):
    """Where the compute is, and its streams. `waited`: how often each wait was really waited for, and how long."""

    out: Stream
    into: Stream
    across: Stream  # within the device: who only needs a larger place does not wait behind those who come back

    def __init__(self, place: torch.device, timeline: Timeline) -> None:
        self.place, self.timeline = place, timeline
        self.waited: Counter[str] = Counter()
        self.waited_ns: Counter[str] = Counter()

    def count(self, wait: Wait, since_ns: int) -> None:
        self.waited[wait] += 1
        self.waited_ns[wait] += time.monotonic_ns() - since_ns

    @abstractmethod
    def computed(self) -> Mark:
        """The point behind everything that this thread has computed so far."""

    def close(self) -> None:
        self.out.close()
        self.into.close()
        self.across.close()


def call_safely(done: Callable[[], None]) -> None:
    try:
        done()
    except Exception:  # a defect must not end the thread that all sessions share; it is reported
        log.exception("a copy's completion failed")


def call_at_end(stream: Stream, ended: Callable[[Exception | None], None], wait: Wait) -> None:
    """A stream that cannot say when its copies have ended is broken: they end at once, with that."""
    try:
        stream.call(ended, wait)
    except Exception as error:  # noqa: BLE001  told to whom they are for
        ended(error)


# -- a device without streams: a thread copies -----------------------------------------------------------


class HostMark(Mark):
    def __init__(self, device: Device) -> None:
        self._device, self._reached = device, threading.Event()
        self._problem: Exception | None = None

    def reach(self, problem: Exception | None = None) -> None:
        """The copies before it have ended, or one of them failed."""
        self._problem = problem
        self._reached.set()

    def wait(self) -> None:
        self._reached.wait()

    def hold(self, wait: Wait) -> None:
        if not self._reached.is_set():
            began = time.monotonic_ns()
            self._reached.wait()
            self._device.count(wait, began)
        if self._problem:
            raise ServerFault(f"a copy failed: {type(self._problem).__name__}: {self._problem}")


class HostStream(Stream):
    """Copies made by a thread of their own, in order."""

    def __init__(self, track: str, device: Device) -> None:
        self.track, self.device = track, device
        self._problem: Exception | None = None  # since the last call; of the thread alone
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=track, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call_safely(work)

    def after(self, mark: Mark, wait: Wait) -> None:
        self._work.put(mark.wait)

    def copy(self, name: str, copies: Copies) -> None:
        def work() -> None:
            began = time.monotonic_ns()
            try:
                self.carry_out(copies)
            except Exception as error:  # noqa: BLE001  told by `call` and the marks behind it
                self._problem = self._problem or error
            nbytes = sum(source.nbytes for _, source in copies)
            self.device.timeline.add(self.track, name, began, time.monotonic_ns(), bytes=nbytes)

        self._work.put(work)

    def carry_out(self, copies: Copies) -> None:
        for destination, source in copies:
            destination.copy_(source)

    def mark(self) -> Mark:
        mark = HostMark(self.device)
        self._work.put(lambda: mark.reach(self._problem))
        return mark

    def call(self, done: Callable[[Exception | None], None], wait: Wait) -> None:
        def work() -> None:
            problem, self._problem = self._problem, None
            done(problem)

        self._work.put(work)

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()


class HostDevice(Device):
    """A CPU: compute is done when the call that computes returns."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(torch.device("cpu"), timeline)
        self.out, self.into = HostStream("copy out", self), HostStream("copy in", self)
        self.across = HostStream("copy across", self)

    def computed(self) -> Mark:
        mark = HostMark(self)
        mark.reach()
        return mark
