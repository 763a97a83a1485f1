"""Passes that the device was given, in their order, until their results have been handed out.

The next pass is queued before the last one's result is read, so that the device need not wait for the host in between; where
all that it wants of that result are the likeliest tokens, it is of the same sessions, but for those that end. A host that
computes itself is done with a pass when it has been given, and nothing is ever behind.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from djinn.engine.side import Brought, Moment, Side
from djinn.engine.steps import Ran
from djinn.engine.task import Task
from djinn.model.executor import Stopped
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
AHEAD = 1  # results that may be under way when the next round begins


@dataclass
class Launch:
    """One pass of the tasks, and what came of it: where each stopped, or what `Side.bring` gave, which is there by `end`."""

    tasks: list[Task]
    found: list[Stopped]
    brought: Brought | None
    cut: bool  # left between two layers for the sake of others: there is no result yet
    begin: Moment
    end: Moment
    name: str
    about: dict[str, Any] = field(default_factory=dict)  # for the timeline
    ahead: Launch | None = None  # that of those who go on, queued behind it before its result was known


class Launches:
    def __init__(self, side: Side, timeline: Timeline) -> None:
        self.side, self.timeline = side, timeline
        self._queued: deque[Launch] = deque()
        self._untold: list[Launch] = []  # to the timeline

    def add(self, launch: Launch) -> None:
        if not launch.cut:
            for task in launch.tasks:
                task.launched = True
        self._queued.append(launch)
        self._tell()

    def only_result(self) -> Launch | None:
        """The pass whose result is under way, where it is the only one and the last that was queued."""
        return self._queued[-1] if self._results() == 1 and not self._queued[-1].cut else None

    def settle(self, idle: bool) -> None:
        """Hand out what has been reached. `idle`: nothing could be queued, so the oldest is waited for; else until AHEAD
        passes with a result are left.
        """
        while self._queued and (idle or self._queued[0].end.reached() or self._results() > AHEAD):
            self._hand_out(self._queued.popleft())
            idle = False

    def _results(self) -> int:
        return sum(not launch.cut for launch in self._queued)

    def _hand_out(self, launch: Launch) -> None:
        """While this goes on the device stands still, where everybody decodes: what can wait until more is queued, does."""
        try:
            launch.end.wait()
            found: Sequence[Stopped | Ran] = self._ran(launch.brought) if launch.brought else launch.found
        except Exception as error:  # noqa: BLE001  of the device; reported by the engine, to those whose passes it ran
            for task in launch.tasks:
                task.error = error
            if launch.ahead:
                self._count(launch.ahead)
            return
        self._untold.append(launch)
        if launch.cut:
            return
        for task, one in zip(launch.tasks, found, strict=True):
            if not task.over:  # else its session had ended when this pass of it was under way already
                task.launched = False
                task.advance(one)
        if launch.ahead:
            self._count(launch.ahead)
        if any(task.over for task in launch.tasks):  # its client may look at the timeline
            self._tell()

    def _count(self, ahead: Launch) -> None:
        """The pass that was queued ahead is that of whoever goes on. Who ended (was cancelled, or has a result that could not be
        read) is about to give memory back that it writes to: then it is waited for."""
        for task in ahead.tasks:
            if not task.over:
                task.launched = True
                task.step.cache.count_one()
        if any(task.over for task in ahead.tasks):
            # Where the device failed nothing runs on it any more, and whoever goes on is told next.
            with suppress(RuntimeError):
                ahead.end.wait()

    def _ran(self, brought: Brought) -> list[Ran]:
        """All rows at once: a view of one row costs as much as of all."""
        logits = self.side.fetch(brought.logits)
        last, tokens = logits[:, -1], brought.likeliest.numpy()
        largest = last.numpy()[np.arange(len(tokens)), tokens].tolist()
        return [Ran(*row) for row in zip(logits.unbind(), last.unbind(), tokens.tolist(), largest, strict=True)]

    def _tell(self) -> None:
        """The timeline, of what was handed out: the device's clock is asked twice for each."""
        for launch in self._untold:
            try:
                begin, end = launch.begin.ns(), launch.end.ns()
            except RuntimeError:  # the device failed: the next pass finds that too, and its tasks are told
                log.exception("a pass is missing in the timeline")
                continue
            self.timeline.add("compute", launch.name, begin, end, rows=len(launch.tasks), **launch.about)
        self._untold.clear()
