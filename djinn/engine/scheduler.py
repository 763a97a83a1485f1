"""Whose pass the device runs next: passes over one token together, one at a time of the others, long prefills in slices.

Requests under way take turns in rounds. A round runs the token of every session that goes on from, or stops at, the same
layers as the first of those; then one token of every session that decodes through all layers, those among them; then the
pass of the first of the others: resumed before new, then by arrival. Passes over many tokens get a slice of work between
two rounds of single tokens, since a pass over one token reads all weights however many share it. A pass is left between two
layers when the slice is used up and somebody else waits; it goes on from there in a later round, so nobody waits longer than
a slice and two passes over one token. Cut between layers, never by tokens, no result can tell.

Who decodes keeps its row for TURN tokens before somebody else who waits gets it: those who end give their memory back early.

`deterministic`: every pass over one token runs in the same fixed number of rows, whoever shares it, so that a session's
bits do not depend on its neighbours. Otherwise as many rows as there are sessions to decode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from djinn.engine.session import Outcome, Paused, Work
from djinn.engine.steps import Step
from djinn.model.executor import Executor, Finished, Stopped
from djinn.model.loop import Loop
from djinn.timeline import Timeline

WHOLE = (0, None)  # layers of a pass that starts at the first and stops nowhere
SLICE = {"cpu": 8192, "cuda": 1 << 18}  # tokens x layers that passes over many tokens may run while others wait
# Of these, how many single tokens wait for, so that more of them share a pass: on a card one reads all weights for each pass.
TOGETHER = {"cpu": 0, "cuda": 1 << 18}
TURN = 16  # tokens


@dataclass
class Task:
    """A request under way. `step` is the pass it wants next, `done` and `hidden` how far a cut one has come."""

    work: Work
    rank: int
    steps: Generator[Step, Stopped | Finished, Paused | Outcome]
    step: Step | None = None
    done: int = 0
    hidden: torch.Tensor | None = None
    served: int = 0  # passes it has had
    result: Paused | Outcome | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None

    def advance(self, outcome: Stopped | Finished | None) -> None:
        """Hand it what its pass gave; it says what it wants next, or ends."""
        self.served += 1
        try:
            self.step = self.steps.send(outcome)
            self.done, self.hidden = self.step.one.start, self.step.one.hidden
        except StopIteration as end:
            self.result = end.value
        except Exception as error:  # noqa: BLE001  reported by the engine, to the one whose request it was
            self.error = error


class Scheduler:
    def __init__(
        self, executor: Executor | Loop, device: torch.device, timeline: Timeline, rows: int, deterministic: bool
    ) -> None:
        """rows: decoded in one pass at most; 0 where the model cannot take several, and one token is a pass like any other."""
        self.executor, self.device, self.timeline = executor, device, timeline
        self.rows, self.deterministic = rows, deterministic
        self.slice, self.together = SLICE[device.type], TOGETHER[device.type]
        self.spent = 0  # of the slice, since single tokens ran last
        self.tasks: list[Task] = []

    def add(self, task: Task) -> None:
        self.tasks.append(task)
        self.tasks.sort(key=lambda t: t.rank)
        task.advance(None)

    def round(self, somebody_came: Callable[[], bool]) -> list[Task]:
        """Run what is due; returns the tasks that ended. `somebody_came`: whether a request waits that is not here yet."""
        if self.spent >= self.together or not self._first_of_the_others():
            self.spent = 0
            for whole in (False, True):
                together = self._sharing(whole)
                if together and self.rows:
                    self._run_rows(together)
                elif together:
                    self._run(together[0], somebody_came)
        if task := self._first_of_the_others():
            self._run(task, somebody_came)
        ended = [task for task in self.tasks if task.over]
        self.tasks = [task for task in self.tasks if not task.over]
        for task in ended:
            task.steps.close()  # of one that broke off: it leaves its session's lengths true
        return ended

    def _first_of_the_others(self) -> Task | None:
        """Whose pass over many tokens is next."""
        return next((task for task in self.tasks if not task.over and task.step.span is None), None)

    def _sharing(self, whole: bool) -> list[Task]:
        """Whose tokens run in one pass now: through all layers, or through the layers that the first of the others needs."""
        found = [task for task in self.tasks if not task.over and task.step.span and (task.step.span == WHOLE) == whole]
        found.sort(key=lambda task: (task.served // TURN, task.rank))
        first = found[0].step if found else None
        if first and first.taps:  # what is kept on the way is kept of one session
            return found[:1]
        return [task for task in found if task.step.span == first.span and not task.step.taps][: self.rows or 1]

    def _run_rows(self, tasks: list[Task]) -> None:
        began = time.monotonic_ns()
        steps, (start, stop) = [task.step for task in tasks], tasks[0].step.span
        try:
            found = self.executor.run_rows(
                [step.cache for step in steps],
                [step.one.ids[0] for step in steps],
                [step.one.past for step in steps],
                self.rows if self.deterministic else len(steps),
                start=start,
                hidden=torch.cat([step.one.hidden for step in steps]) if start else None,
                stop=stop,
                taps=steps[0].taps,
                on_first=lambda: [step.on_first() for step in steps],
            )
            if isinstance(found, Finished):
                found = Finished(found.logits.float().cpu())  # one copy for all of them, if they are not there yet
        except Exception as error:  # noqa: BLE001  as above
            for task in tasks:
                task.error = error
            return
        layers = f"{start}..{self.executor.depth if stop is None else stop}"
        self.timeline.add("compute", f"decode {len(tasks)}", began, time.monotonic_ns(), rows=len(tasks), layers=layers)
        for row, task in enumerate(tasks):
            one = slice(row, row + 1)
            task.advance(
                Stopped(found.hidden[one], found.layer) if isinstance(found, Stopped) else Finished(found.logits[one])
            )

    def _run(self, task: Task, somebody_came: Callable[[], bool]) -> None:
        step, began, start = task.step, time.monotonic_ns(), task.done
        share = start + max(1, (self.slice - self.spent) // len(step.one.ids))

        def stop(layer: int) -> bool:
            waits = len(self.tasks) > 1 or somebody_came()
            return layer == step.stop or (share <= layer < self.executor.depth and waits)

        try:
            ids = torch.tensor([step.one.ids], device=self.device)
            found = self.executor.run(
                step.cache,
                ids,
                step.one.past,
                start=start,
                hidden=task.hidden,
                stop=stop,
                taps=step.taps,
                all_logits=step.all_logits,
                on_first=step.on_first,
            )
        except Exception as error:  # noqa: BLE001  as above
            task.error = error
            return
        cut = isinstance(found, Stopped) and found.layer != step.stop
        name = f"{'decode' if len(step.one.ids) == 1 else 'prefill'} {task.work.session.key[:8]}"
        if cut:
            task.done, task.hidden = found.layer, found.hidden
        end = found.layer if isinstance(found, Stopped) else self.executor.depth
        self.spent += (end - start) * len(step.one.ids)
        self.timeline.add("compute", name, began, time.monotonic_ns(), layers=f"{start}..{end}")
        if not cut:
            task.advance(found)
