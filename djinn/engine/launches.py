"""Passes that the device was given, in their order, until their results have been handed out.

The next pass is queued before the last one's result is read, so that the device need not wait for the host in between. A
host that computes itself is done with a pass when it has been given, and nothing is ever behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn.engine.side import Moment, Side
from djinn.engine.task import Task
from djinn.model.executor import Finished, Stopped
from djinn.timeline import Timeline

AHEAD = 1  # results that may be under way when the next round begins


@dataclass
class Launch:
    """One pass of the tasks, and what came of it for each. Logits, and who is `likeliest`, are brought to the host by `end`."""

    tasks: list[Task]
    found: list[Stopped] | list[Finished]
    likeliest: torch.Tensor | None  # (tasks,) where the pass ran to its end
    cut: bool  # left between two layers for the sake of others: there is no result yet
    begin: Moment
    end: Moment
    name: str
    about: dict[str, Any] = field(default_factory=dict)  # for the timeline


class Launches:
    def __init__(self, side: Side, timeline: Timeline) -> None:
        self.side, self.timeline = side, timeline
        self._queued: deque[Launch] = deque()

    def add(self, launch: Launch) -> None:
        if not launch.cut:
            for task in launch.tasks:
                task.launched = True
        self._queued.append(launch)

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
        try:
            launch.end.wait()
            found = launch.found
            if launch.likeliest is not None:
                ended = zip(found, launch.likeliest.tolist(), strict=True)
                found = [Finished(self.side.fetch(one.logits), token) for one, token in ended]
            about = {"rows": len(launch.tasks), **launch.about}
            self.timeline.add("compute", launch.name, launch.begin.ns(), launch.end.ns(), **about)
        except Exception as error:  # noqa: BLE001  of the device; reported by the engine, to those whose passes it ran
            for task in launch.tasks:
                task.error = error
            return
        if launch.cut:
            return
        for task, one in zip(launch.tasks, found, strict=True):
            task.launched = False
            task.advance(one)
