"""Streams of a CUDA device. The copy engines work beside the kernels; nobody's thread waits for them but a watcher's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from djinn.tiers.streams import Copies, Device, Mark, Stream, Wait, call_safely
from djinn.timeline import Timeline


class CudaMark(Mark):
    def __init__(self, device: Device, stream: torch.cuda.Stream) -> None:
        self._device = device
        self.event = torch.cuda.Event()
        self.event.record(stream)

    def hold(self, wait: Wait) -> None:
        if not self.event.query():
            self._device.count(wait, time.monotonic_ns())  # the device waits, not this thread: counted, not timed
        torch.cuda.current_stream(self._device.place).wait_event(self.event)

    def wait(self) -> None:
        self.event.synchronize()


@dataclass
class Copying:
    """Copies queued since the last `call`: one span of the timeline, so that small ones pay for no clock of their own."""

    name: str
    began: torch.cuda.Event
    nbytes: int = 0


class CudaStream(Stream):
    def __init__(self, track: str, device: Device, stream: torch.cuda.Stream) -> None:
        self.track, self.device = track, device
        self._stream = stream
        self._copying: Copying | None = None
        self._watched: queue.SimpleQueue[tuple[torch.cuda.Event, Callable[[Exception | None], None]] | None]
        self._watched = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, name=track, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while (item := self._watched.get()) is not None:
            event, done = item
            problem = None
            try:
                event.synchronize()
            except RuntimeError as error:  # of the device: nothing on it works from then on, but who waits is told
                problem = error
            call_safely(partial(done, problem))

    def after(self, mark: Mark, wait: Wait) -> None:
        self._stream.wait_event(mark.event)

    def copy(self, name: str, copies: Copies) -> None:
        if self._copying is None:
            self._copying = Copying(name, self._event())
        with torch.cuda.stream(self._stream):
            for destination, source in copies:
                destination.copy_(source, non_blocking=True)
        self._copying.nbytes += sum(source.nbytes for _, source in copies)

    def mark(self) -> Mark:
        return CudaMark(self.device, self._stream)

    def call(self, done: Callable[[Exception | None], None], wait: Wait) -> None:
        copying, ended = self._copying, self._event()
        self._copying = None

        def reached(problem: Exception | None) -> None:
            now = time.monotonic_ns()
            done(problem)
            if copying and not problem:
                began = now - int(copying.began.elapsed_time(ended) * 1e6)
                self.device.timeline.add(self.track, copying.name, began, now, bytes=copying.nbytes)

        self._watched.put((ended, reached))

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def close(self) -> None:
        self._watched.put(None)
        self._watcher.join()


class CudaDevice(Device):
    def __init__(self, place: torch.device, timeline: Timeline, overlap: bool = True) -> None:
        """overlap: all three kinds on streams of their own; else in turn with the compute, on its stream."""
        super().__init__(place, timeline)
        self.out, self.into, self.across = (
            CudaStream(f"copy {way}", self, torch.cuda.Stream(place) if overlap else torch.cuda.default_stream(place))
            for way in ("out", "in", "across")
        )

    def computed(self) -> Mark:
        return CudaMark(self, torch.cuda.current_stream(self.place))
