"""Whose pass the device runs next: passes over one token together, one at a time of the others, long prefills in slices.

Requests under way take turns in rounds. A round runs the token of every session that goes on from, or stops at, the same
layers as the first of those; then one token of every session that decodes through all layers, those among them; then the
pass of the first of the others: resumed before new, then by arrival. Passes over many tokens get a slice of work between
two rounds of single tokens, since a pass over one token reads all weights however many share it. A pass is left between two
layers when the slice is used up and somebody else waits; it goes on from there in a later round, so nobody waits longer than
a slice and two passes over one token. Cut between layers, never by tokens, no result can tell.

Prompts whose first passes go through the same layers share one, up to as many tokens as the executor was told: a few short
ones take the time of one, and of 1,600 tokens each two take 3 % less than one after the other, both as late as the second;
from LONG tokens on nothing is won.

Who decodes keeps its row for TURN tokens before somebody else who waits gets it: those who end give their memory back early.

`deterministic`: every pass over one token runs in the same fixed number of rows, whoever shares it, so that a session's
bits do not depend on its neighbours. Otherwise as many rows as there are sessions to decode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from djinn.engine.launches import Launch, Launches
from djinn.engine.side import Moment, Side
from djinn.engine.task import Task
from djinn.model.executor import Executor, Finished, Stopped
from djinn.model.loop import Loop
from djinn.model.upload import uploaded
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
WHOLE = (0, None)  # layers of a pass that starts at the first and stops nowhere
SLICE = {"cpu": 8192, "cuda": 1 << 18}  # tokens x layers that passes over many tokens may run while others wait
# Of these, how many single tokens wait for, so that more of them share a pass: on a card one reads all weights for each pass.
TOGETHER = {"cpu": 0, "cuda": 1 << 18}
TURN = 16  # tokens
LONG = 2048  # tokens of a prompt that is prefilled alone


class Scheduler:
    def __init__(
        self,
        executor: Executor | Loop,
        device: torch.device,
        side: Side,
        timeline: Timeline,
        rows: int,
        deterministic: bool,
    ) -> None:
        """rows: decoded in one pass at most; 0 where the model cannot take several, and one token is a pass like any other."""
        self.executor, self.device, self.side, self.timeline = executor, device, side, timeline
        self.rows, self.deterministic = rows, deterministic
        self.slice, self.together = SLICE[device.type], TOGETHER[device.type]
        self.spent = 0  # of the slice, since single tokens ran last
        self.tasks: list[Task] = []
        self._launches = Launches(side, timeline)

    def add(self, task: Task) -> None:
        self.tasks.append(task)
        self.tasks.sort(key=lambda t: t.rank)
        task.advance(None)

    def round(self, somebody_came: Callable[[], bool]) -> list[Task]:
        """Queue what is due and hand out what is there; returns the tasks that ended. `somebody_came`: whether a request
        waits that is not here yet.
        """
        queued = False
        if self.spent >= self.together or not self._first_of_the_others():
            here = self._tokens_here()
            for whole in (False, True):
                together = self._sharing(here, whole)
                if together and self.rows:
                    self._run_rows(together)
                elif together:
                    self._run(together[:1], somebody_came)
                queued |= bool(together)
            if queued or not self._tokens_under_way():
                self.spent = 0
        owed = (
            self.spent >= self.slice and self._tokens_under_way()
        )  # theirs is the next turn, before more of the others
        if (task := self._first_of_the_others()) and not owed:
            self._run(self._sharing_first(task), somebody_came)
            queued = True
        self._launches.settle(idle=not queued)
        ended = [task for task in self.tasks if task.over]
        self.tasks = [task for task in self.tasks if not task.over]
        for task in ended:
            task.steps.close()  # of one that broke off: it leaves its session's lengths true
        return ended

    def _first_of_the_others(self) -> Task | None:
        """Whose pass over many tokens is next."""
        return next((task for task in self.tasks if task.waits and task.step.span is None), None)

    def _tokens_under_way(self) -> bool:
        return any(task.launched and task.step.span for task in self.tasks)

    def _sharing(self, here: list[Task], whole: bool) -> list[Task]:
        """Whose tokens run in one pass now: through all layers, or through the layers that the first of the others needs.

        Nobody's, while such a pass is under way: who missed it would read all weights alone.
        """
        found = [task for task in here if (task.step.span == WHOLE) == whole]
        if any(task.launched for task in found):
            return []
        found.sort(key=lambda task: (task.served // TURN, task.rank))
        first = found[0].step if found else None
        if first and first.taps:  # what is kept on the way is kept of one session
            return found[:1]
        return [task for task in found if task.step.span == first.span and not task.step.taps][: self.rows or 1]

    def _tokens_here(self) -> list[Task]:
        """Who wants a pass over one token: those whose sessions are all here, or all of them where none is.

        In a pass with one that is on its way everybody waits for its layers: of 50 sessions on a card, 7 for 255 ms.
        """
        every = [task for task in self.tasks if not task.over and task.step.span]
        return [task for task in every if not task.on_its_way] or every

    def _sharing_first(self, first: Task) -> list[Task]:
        """`first`, and those behind it whose prompts can go through the same layers with its own."""
        found, tokens = [first], len(first.step.one.ids)
        for task in self.tasks if self._may_share(first) else ():
            same = task.waits and (task.done, task.step.stop) == (first.done, first.step.stop)
            if task is first or not same or not self._may_share(task):
                continue
            more = len(task.step.one.ids)
            if tokens + more <= self.executor.together and self._alike(tokens, more, tokens + more):
                found, tokens = [*found, task], tokens + more
        return found

    def _may_share(self, task: Task) -> bool:
        """Whether it wants a first pass, of which nothing but its last logits or its pause comes."""
        step = task.step
        plain = step.span is None and not (step.one.past or step.taps or step.all_logits)
        return plain and len(step.one.ids) < min(LONG, self.executor.together)

    def _alike(self, *tokens: int) -> bool:
        return not self.deterministic or all(map(self.executor.alike, tokens))

    def _run_rows(self, tasks: list[Task]) -> None:
        begin, steps, (start, stop) = self.side.moment(), [task.step for task in tasks], tasks[0].step.span
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
            end = self.executor.depth
            if isinstance(found, Stopped):
                end, rows = found.layer, found.hidden.split(1)
                found = [Stopped(hidden, end) for hidden in rows]
            self._launched(tasks, found, False, begin, f"decode {len(tasks)}", (start, end))
        except Exception as error:  # noqa: BLE001  as in Task.advance
            self._broke_off(tasks, error)

    def _run(self, tasks: list[Task], somebody_came: Callable[[], bool]) -> None:
        """One pass over many tokens, of one task or of several whose first passes it is, or a slice of it."""
        begin, steps, start = self.side.moment(), [task.step for task in tasks], tasks[0].done
        tokens, wanted = sum(len(step.one.ids) for step in steps), steps[0].stop
        share = start + max(1, (self.slice - self.spent) // tokens)

        def stop(layer: int) -> bool:
            waits = len(self.tasks) > len(tasks) or somebody_came()
            return layer == wanted or (share <= layer < self.executor.depth and waits)

        try:
            found = self._passed(tasks, start, stop)
            end = self.executor.depth if isinstance(found, Finished) else found[0].layer
            cut = not isinstance(found, Finished) and end != wanted
            whom = f"{len(tasks)} prompts" if len(tasks) > 1 else tasks[0].work.session.key[:8]
            name = f"{'decode' if tokens == 1 else 'prefill'} {whom}"
            self._launched(tasks, found, cut, begin, name, (start, end))
        except Exception as error:  # noqa: BLE001  as in Task.advance
            self._broke_off(tasks, error)
            return
        for task, one in zip(tasks, found, strict=True) if cut else ():
            task.done, task.hidden = end, one.hidden
        self.spent += (end - start) * tokens

    def _passed(self, tasks: list[Task], start: int, stop: Callable[[int], bool]) -> list[Stopped] | Finished:
        steps = [task.step for task in tasks]
        ids = [uploaded([step.one.ids], self.device) for step in steps]
        if len(tasks) > 1:
            return self.executor.run_prompts(
                [step.cache for step in steps],
                ids,
                start=start,
                hidden=[task.hidden for task in tasks] if start else None,
                stop=stop,
                on_first=lambda: [step.on_first() for step in steps],
            )
        step = steps[0]
        found = self.executor.run(
            step.cache,
            ids[0],
            step.one.past,
            start=start,
            hidden=tasks[0].hidden,
            stop=stop,
            taps=step.taps,
            all_logits=step.all_logits,
            on_first=step.on_first,
        )
        return found if isinstance(found, Finished) else [found]

    def _broke_off(self, tasks: list[Task], error: Exception) -> None:
        """Their memory is about to be given to others, so what they had queued must be over."""
        for task in tasks:
            task.error = error
        try:
            self.side.moment().wait()
        except RuntimeError:  # the device failed: nothing runs on it any more
            log.exception("the device failed")

    def _launched(
        self,
        tasks: list[Task],
        found: list[Stopped] | Finished,
        cut: bool,
        begin: Moment,
        name: str,
        layers: tuple[int, int],
    ) -> None:
        """What follows a pass in the device's queue: states that are kept, logits that go to the host."""
        brought = None
        if isinstance(found, Finished):
            brought, found = self.side.bring(found.logits), []
        elif not cut:
            for task, one in zip(tasks, found, strict=True):
                task.step.on_stop(one.hidden)
        about = {"layers": "{}..{}".format(*layers)}
        self._launches.add(Launch(tasks, found, brought, cut, begin, self.side.moment(), name, about))
