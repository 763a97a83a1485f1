"""Whose pass the device runs next: passes over one token together, one at a time of the others, long prefills in slices.

Requests under way take turns in rounds. A round runs the token of every session that stops at the same layer as the first of
those; then one token of every session that goes through to the end, each from the layer that it stands at; then the
pass of the first of the others: resumed before new, then by arrival. Passes over many tokens get a slice of work between
two rounds of single tokens, since a pass over one token reads all weights however many share it. A pass is left between two
layers when the slice is used up and somebody else waits; it goes on from there in a later round, so nobody waits longer than
a slice and two passes over one token. Cut between layers, never by tokens, no result can tell.

Who shares a pass is chosen in `turns`.

On a card a pass over one token of each is queued ahead, before the host knows the tokens, where the same sessions will want
it whatever they are and nobody else waits who could run: the card need not wait for the host between two tokens, and who comes
then waits for one such pass more.

`deterministic`: every pass over one token runs in the same fixed number of rows, whoever shares it, so that a session's
bits do not depend on its neighbours. Otherwise as many rows as there are sessions to decode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from djinn.engine.launches import Launch, Launches
from djinn.engine.side import Moment, Side
from djinn.engine.steps import Pass
from djinn.engine.task import Task
from djinn.engine.turns import GATHER_S, Turns
from djinn.model.executor import Executor, Finished, Stopped
from djinn.model.loop import Loop
from djinn.model.upload import uploaded
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
SLICE = {"cpu": 8192, "cuda": 1 << 18}  # tokens x layers that passes over many tokens may run while others wait
# Of these, how many single tokens wait for, so that more of them share a pass: on a card one reads all weights for each pass.
TOGETHER = {"cpu": 0, "cuda": 1 << 18}


class Scheduler:
    def __init__(
        self,
        executor: Executor | Loop,
        device: torch.device,
        side: Side,
        timeline: Timeline,
        rows: int,
        deterministic: bool,
        ahead: bool,
        memory_wanted: Callable[[], bool],
    ) -> None:
        """rows: decoded in one pass at most; 0 where the model cannot take several, and one token is a pass like any other. ahead:
        whether tokens may be queued ahead on a card. memory_wanted: as of `Turns`."""
        self.executor, self.device, self.side, self.timeline = executor, device, side, timeline
        self.rows, self.deterministic = rows, deterministic
        self.slice, self.together = SLICE[device.type], TOGETHER[device.type]
        self.ahead = ahead and device.type == "cuda"  # a host that computes itself has nothing to wait for
        self.spent = 0  # of the slice, since single tokens ran last
        self.gather = GATHER_S if device.type == "cuda" else 0.0
        self.turns = Turns(executor, rows, deterministic, memory_wanted)
        self._launches = Launches(side, timeline)

    @property
    def tasks(self) -> list[Task]:
        """Under way, in the order of their ranks."""
        return self.turns.tasks

    def add(self, task: Task) -> None:
        self.turns.add(task)
        task.advance(None)

    def patience(self) -> float | None:
        """Seconds for which there is nothing to do while nobody comes; None: for ever."""
        return self.turns.gathering(self.gather) if self.tasks else None

    def round(self, somebody_came: Callable[[], bool]) -> list[Task]:
        """Queue what is due and hand out what is there; returns the tasks that ended. `somebody_came`: whether a request
        waits that is not here yet.
        """
        try:
            self._play(somebody_came)
        except Exception as error:  # of a device that has failed, as a rule: it raises whatever it is asked
            log.exception("a round broke off")
            # What had been queued is not known any more: all under way are told, and the thread that computes goes on.
            self._broke_off([task for task in self.tasks if not task.over], error)
            self._launches = Launches(self.side, self.timeline)
        ended = [task for task in self.tasks if task.over]
        self.turns.tasks = [task for task in self.tasks if not task.over]
        for task in ended:
            task.steps.close()  # of one that broke off: it leaves its session's lengths true
        return ended

    def _play(self, somebody_came: Callable[[], bool]) -> None:
        queued = False
        if self.spent >= self.together or not self.turns.first_of_the_others():
            here = self.turns.tokens_here()
            for to_the_end in (False, True):
                together = self.turns.sharing(here, to_the_end)
                if together and self.rows:
                    self._run_rows(together)
                elif together:
                    self._run(together[:1], somebody_came)
                queued |= bool(together)
            if queued or not self.turns.tokens_under_way():
                self.spent = 0
        # Whose tokens are under way have the next turn, before more of the others.
        owed = self.spent >= self.slice and self.turns.tokens_under_way()
        if (task := self.turns.first_of_the_others()) and not owed:
            self._run(self.turns.sharing_first(task), somebody_came)
            queued = True
        if self.ahead and not somebody_came():
            queued |= self._run_ahead()
        self._launches.settle(idle=not queued)

    def _run_rows(self, tasks: list[Task]) -> None:
        tasks.sort(key=lambda task: task.step.one.start)
        begin, steps = self.side.moment(), [task.step for task in tasks]
        try:
            found = self.executor.run_rows(
                [step.cache for step in steps],
                [step.one.ids[0] for step in steps],
                [step.one.past for step in steps],
                self.rows if self.deterministic else len(steps),
                starts=[step.one.start for step in steps],
                hidden=[step.one.hidden for step in steps],
                stop=steps[0].stop,
                taps=steps[0].taps,
                on_first=lambda start: [step.on_first() for step in steps if step.one.start == start],
            )
            end = self.executor.depth
            if isinstance(found, Stopped):
                end, rows = found.layer, found.hidden.split(1)
                found = [Stopped(hidden, end) for hidden in rows]
            self._launched(tasks, found, False, begin, f"decode {len(tasks)}", (steps[0].one.start, end))
        except Exception as error:  # noqa: BLE001  as in Task.advance
            self._broke_off(tasks, error)

    def _run_ahead(self) -> bool:
        """Queue the next token of those whose last one is under way, from what the device has found; whether that was done."""
        last = self._launches.only_result()
        rows = self.turns.going_on(last.tasks) if last and last.brought and self.rows else []
        if not rows:
            return False
        tasks, tokens = [last.tasks[row] for row in rows], last.brought.there
        begin, steps = self.side.moment(), [task.step for task in tasks]
        try:
            if len(rows) < len(last.tasks):  # the others end with it
                tokens = tokens[uploaded([rows], self.device)[0]]
            found = self.executor.run_rows(
                [step.cache for step in steps],
                tokens,
                [step.one.past + 1 for step in steps],
                self.rows if self.deterministic else len(steps),
                counted=False,
            )
            name, layers = f"decode {len(steps)}", (0, self.executor.depth)
            last.ahead = self._launched(tasks, found, False, begin, name, layers)
        except Exception as error:  # noqa: BLE001  as in Task.advance
            self._broke_off(tasks, error)
        return True

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
        ids = [self._ids(step.one, start) for step in steps]
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

    def _ids(self, one: Pass, start: int) -> torch.Tensor:
        """On the device: bringing 2,048 there takes a millisecond of the host before the first kernel of a resume."""
        if self.executor.reads(len(one.ids), one.past, start):
            return uploaded([one.ids], self.device)
        return torch.empty((1, len(one.ids)), dtype=torch.int64, device=self.device)

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
    ) -> Launch:
        """What follows a pass in the device's queue: states that are kept, logits that go to the host."""
        brought = None
        if isinstance(found, Finished):
            brought, found = self.side.bring(found.logits), []
        elif not cut:
            for task, one in zip(tasks, found, strict=True):
                task.step.on_stop(one.hidden)
        about = {"layers": "{}..{}".format(*layers)}
        launch = Launch(tasks, found, brought, cut, begin, self.side.moment(), name, about)
        self._launches.add(launch)
        return launch
