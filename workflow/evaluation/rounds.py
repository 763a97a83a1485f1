"""Rounds of the workload of many sessions by one system: a process that is loaded is asked, and a row of the table comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from evaluation.contenders.asking import Asked
from evaluation.contenders.contender import NO_WORKLOAD, Unable

Progress = Callable[[str], None]
WARM_UP = 2  # sessions of an untimed workload before the first round
LONG_S = 30.0  # of a system that has the device alone, a longer round is its last: one of 40 s is nine of Djinn's


class Rounds:
    """What one system's rounds came to, or why there are none."""

    def __init__(
        self,
        system: str,
        setting: dict[str, Any] | None,
        sessions: int,
        asked: Asked | None = None,
        unable: str | None = None,
    ) -> None:
        self.system, self.setting, self.sessions, self.asked, self.unable = system, setting, sessions, asked, unable
        self.done: list[dict[str, Any]] = []  # as `Contender.workload` tells; tokens of the last alone

    @contextmanager
    def or_why_not(self) -> Iterator[None]:
        try:
            yield
        except Unable as reason:
            self.unable = str(reason)

    def hear(self) -> None:
        """Wait until its imports are done; a system without such a workload says so here, before a model of 26 GB is loaded."""
        if not self.unable:
            with self.or_why_not():
                if not self.asked.workload:
                    raise Unable(NO_WORKLOAD)

    def warm_up(self) -> None:
        """Heard, and loaded."""
        if not self.unable:
            with self.or_why_not():
                self.asked.ask("workload", sessions=min(WARM_UP, self.sessions))

    def run(self) -> float:
        """Seconds of one round."""
        with self.or_why_not():  # it takes few sessions, but not as many
            done = self.asked.ask("workload", sessions=self.sessions)
            for before in self.done:
                before.pop("tokens", None)
            self.done.append(done)
            return done["seconds"]
        return 0.0

    @property
    def long(self) -> bool:
        return bool(self.done) and self.done[-1]["seconds"] > LONG_S

    @property
    def tokens(self) -> list[list[int]]:
        return self.done[-1]["tokens"] if self.done else []

    def told(self) -> dict[str, Any]:
        """For a result; `again` makes it what it was."""
        return {"unable": self.unable, "rounds": self.done}

    @classmethod
    def again(cls, system: str, setting: dict[str, Any] | None, sessions: int, told: dict[str, Any]) -> Rounds:
        one = cls(system, setting, sessions, unable=told["unable"])
        one.done = told["rounds"]
        return one

    def row(self, ours: list[list[int]]) -> dict[str, Any]:
        """seconds of every round; the rest as in `Contender.workload`; how much of its tokens are Djinn's, None with other
        weights."""
        if self.unable:
            return {"unable": self.unable, "seconds": []}
        pairs = list(zip(self.tokens, ours, strict=True))
        same = sum(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))
        last = self.done[-1]
        others = last.get("other_weights", False)
        return {
            "unable": None,
            "setting": self.setting,
            "seconds": [one["seconds"] for one in self.done],
            "parts": [one["parts"] for one in self.done],
            "paused": last["paused"],
            "off_device_bytes": last["off_device_bytes"],
            "sessions_as_djinn": None if others else sum(mine == theirs for mine, theirs in pairs),
            "tokens_as_djinn": None if others else same / sum(len(theirs) for _, theirs in pairs),
        }


def in_turn(group: Sequence[Rounds], rounds: int, progress: Progress) -> None:
    """A B C A B C …; one that is alone makes no other behind a long one."""
    for number in range(1, rounds + 1):
        for one in group:
            if not (one.unable or (len(group) == 1 and one.long)):
                seconds = one.run()
                progress(f"workload: round {number} of {rounds}: {one.system}: {one.unable or f'{seconds:.1f} s'}")
