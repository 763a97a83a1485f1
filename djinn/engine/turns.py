"""Who shares the device's next pass. It chooses among the tasks under way, and changes none of them.

Passes over one token are shared by sessions that stop behind the same layers, and by all that go on to the end, whatever layer
they stand at: each joins the others there. Who decodes keeps its row for TURN tokens before somebody else who waits gets it, and to
its end where less than a turn would be left: those who end give their memory back early. Where somebody waits for that, and all
that decode end within their turn, half of them do so first: copies begin earlier, and what is left of the decoding goes on beside
them.

Prompts whose first passes go through the same layers share one, up to as many tokens as the executor was told: a few short
ones take the time of one, and of 1,600 tokens each two take 3 % less than one after the other, both as late as the second;
from LONG tokens on nothing is won. Those that were stopped behind the last layer want their last row's logits alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from djinn.engine.task import Task
from djinn.model.executor import Executor
from djinn.model.loop import Loop

TURN = 16  # tokens
# Seconds behind the last arrival for which who has had its first pass waits for those who come with it: who asks for many sends
# them one by one, and a pass over one token takes a card twelve times as long, whoever shares it.
GATHER_S = 1e-3
FEWEST = 16  # rows of a pass while memory is wanted: it reads all weights, however few share it
LONG = 2048  # tokens of a prompt that is prefilled alone


class Turns:
    def __init__(
        self,
        executor: Executor | Loop,
        rows: int,
        deterministic: bool,
        memory_wanted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """rows: decoded in one pass at most. deterministic: prompts share a pass only where no bit tells. memory_wanted: whether
        somebody waits for memory that only those have who run."""
        self.executor, self.rows, self.deterministic = executor, rows, deterministic
        self.memory_wanted, self._clock = memory_wanted, clock
        self.tasks: list[Task] = []  # in the order of their ranks
        self._came = 0.0  # the last of them

    def add(self, task: Task) -> None:
        self._came = self._clock()
        self.tasks.append(task)
        self.tasks.sort(key=lambda t: t.rank)

    def gathering(self, seconds: float) -> float:
        """For how much of `seconds` behind the last arrival all wait for more: nobody for its first pass, nor for one under way."""
        if len(self.tasks) >= self.rows:
            return 0.0
        if not all(task.waits and task.step.span and task.served for task in self.tasks):
            return 0.0
        return max(0.0, self._came + seconds - self._clock())

    def first_of_the_others(self) -> Task | None:
        """Whose pass over many tokens is next."""
        return next((task for task in self.tasks if task.waits and task.step.span is None), None)

    def tokens_under_way(self) -> bool:
        return any(task.launched and task.step.span for task in self.tasks)

    def sharing(self, here: list[Task], to_the_end: bool) -> list[Task]:
        """Whose tokens run in one pass now: of those who go to the end, or to where the first of the others stops.

        Nobody's, while such a pass is under way of somebody who wants another: who missed it would read all weights alone.
        """
        found = [task for task in here if (task.step.stop is None) == to_the_end]
        if any(task.launched and not task.step.ends for task in found):
            return []
        waiting = sorted((task for task in found if not task.launched), key=_order)
        first = waiting[0].step if waiting else None
        if first and first.taps:  # what is kept on the way is kept of one session
            return waiting[:1]
        plain = [task for task in waiting if not task.step.taps and (to_the_end or task.step.span == first.span)]
        some_end = len(waiting) < len(found)  # their last tokens are under way: room comes from them
        return plain[: (self.rows or 1) if some_end or not to_the_end else self._most(waiting)]

    def _most(self, tasks: Sequence[Task]) -> int:
        """Rows of a pass to the end, of those who could have one."""
        half = max(FEWEST, -(-len(tasks) // 2))
        gains = half < min(self.rows, len(tasks)) and all(_last_turn(task) for task in tasks)
        return half if gains and self.memory_wanted() else self.rows or 1

    def tokens_here(self) -> list[Task]:
        """Who wants a pass over one token: those whose sessions are all here, or all of them where none is.

        In a pass with one that is on its way everybody waits for its layers: of 50 sessions on a card, 7 for 255 ms.
        """
        every = [task for task in self.tasks if not task.over and task.step.span]
        return [task for task in every if not task.on_its_way] or every

    def sharing_first(self, first: Task) -> list[Task]:
        """`first`, and those behind it whose prompts can go through the same layers with its own."""
        found, rows = [first], self._rows_of(first)
        for task in self.tasks if self._may_share(first) else ():
            same = task.waits and (task.done, task.step.stop) == (first.done, first.step.stop)
            if task is first or not same or not self._may_share(task):
                continue
            more = self._rows_of(task)
            alike = first.done == self.executor.depth or self._alike(rows, more, rows + more)
            if rows + more <= self.executor.together and alike:
                found, rows = [*found, task], rows + more
        return found

    def _may_share(self, task: Task) -> bool:
        """Whether it wants a first pass, of which nothing but its last logits or its pause comes."""
        step = task.step
        plain = step.span is None and not (step.one.past or step.taps or step.all_logits)
        return plain and self._rows_of(task) < min(LONG, self.executor.together)

    def _rows_of(self, task: Task) -> int:
        """Of the products that are left of its pass."""
        return len(task.step.one.ids) if task.done < self.executor.depth else 1

    def _alike(self, *tokens: int) -> bool:
        return not self.deterministic or all(map(self.executor.alike, tokens))

    def going_on(self, tasks: list[Task]) -> list[int]:
        """Of the tasks whose pass is under way, which have the next one whatever their tokens are: all that want another, where
        nobody else gets a row before them. Else none."""
        going = [row for row, task in enumerate(tasks) if task.step.followed]
        known = all(not task.over and task.step.span and (task.step.followed or task.step.ends) for task in tasks)
        if not (going and known) or self.first_of_the_others() or any(tasks[row].on_its_way for row in going):
            return []
        others = [task for task in self.tokens_here() if task.waits]
        last = max(_order(tasks[row], ahead=1) for row in going)
        first = min(map(_order, others), default=last)
        alone = not others or (last < first and len(going) == self._most([*tasks, *others]))
        return going if alone else []


def _order(task: Task, ahead: int = 0) -> tuple[int, int]:
    """Who gets a row first: the turn that a task is in, or will be so many tokens later, and its rank."""
    return min((task.served + ahead) // TURN, _turns(task) - 1), task.rank


def _turns(task: Task) -> int:
    """Of a request, at most: what is left behind the last whole one belongs to it."""
    return max(1, (task.served + 1 + task.step.left) // TURN)


def _last_turn(task: Task) -> bool:
    return _order(task)[0] == _turns(task) - 1
