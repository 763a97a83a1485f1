"""A request under way, as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch

from djinn.engine.session import Outcome, Paused, Work
from djinn.engine.steps import Ran, Step
from djinn.model.executor import Stopped


@dataclass
class Task:
    """`step` is the pass it wants next, `done` and `hidden` how far a cut one has come."""

    work: Work
    rank: int
    steps: Generator[Step, Stopped | Ran, Paused | Outcome]
    step: Step | None = None
    done: int = 0
    hidden: torch.Tensor | None = None
    launched: bool = False  # all of that pass has been queued, and its result has not been handed out
    served: int = 0  # passes it has had
    result: Paused | Outcome | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def on_its_way(self) -> bool:
        """Whether keys and values of its session are still being copied back: a pass waits on the device for those it reads."""
        return not self.work.session.residence.resident.is_set()

    @property
    def waits(self) -> bool:
        """Whether its pass, or a slice of it, can be queued now."""
        return not self.over and not self.launched

    def advance(self, outcome: Stopped | Ran | None) -> None:
        """Hand it what its pass gave; it says what it wants next, or ends."""
        self.served += outcome is not None
        try:
            self.step = self.steps.send(outcome)
            self.done, self.hidden = self.step.one.start, self.step.one.hidden
        except StopIteration as end:
            self.result = end.value
        except Exception as error:  # noqa: BLE001  reported by the engine, to the one whose request it was
            self.error = error
