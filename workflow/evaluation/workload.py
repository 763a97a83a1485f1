"""The workload of many sessions, all systems in turn (A B C A B C …), so that a slow moment of the machine meets them all.

Each has the setting that its own rule found best. Djinn and the hand-written swaps put every session aside before any
goes on; what cannot pause is asked for the same tokens without. Where the device holds one system at a time
(`peers.together: false`) each does all its rounds before the next is loaded, and one if that is long. Their processes are
all started at once, and import while the first of them loads: until it loads, a process holds nothing of the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.contenders.asking import Asked
from evaluation.contenders.contender import NO_WORKLOAD, Job, Unable
from evaluation.peers import MODULES, PEERS, interpreters, job_for
from evaluation.prompts import load_prompts

Progress = Callable[[str], None]
WARM_UP = 2  # sessions of an untimed workload before the first round
LONG_S = 30.0  # of a system that has the device alone, a longer round is its last: one of 85 s is seventeen of Djinn's


class NothingToCompare(RuntimeError):
    """Djinn itself did not do what the others are held against."""


def measure(settings: Any, progress: Progress, results: Path) -> dict[str, Any]:
    """results: the folder with peer_SYSTEM.json of every system."""
    wanted = settings.oversubscription
    prompts = load_prompts(settings.model, wanted.sessions, wanted.prompt_tokens)
    peers = {system: json.loads((results / f"peer_{system}.json").read_text())["result"] for system in PEERS}
    able = [system for system, peer in peers.items() if not peer["reason"]]
    with job_for(settings, prompts, able) as job, interpreters(settings.peers) as python, ExitStack() as stack:
        every = [stack.enter_context(Timed(system, peer, job, python(system))) for system, peer in peers.items()]
        for group in [every] if settings.peers.together else [[one] for one in every]:
            in_turn(group, settings.peers.rounds, progress, beside=every)
    djinn = next(one for one in every if one.system == "djinn")
    if djinn.unable:
        raise NothingToCompare(f"Djinn did not do the workload: {djinn.unable}")
    return {
        "sessions": wanted.sessions,
        "prompt_tokens": wanted.prompt_tokens,
        "new_tokens": wanted.new_tokens,
        "rounds": settings.peers.rounds,
        "together": settings.peers.together,
        "systems": {one.system: one.row(djinn.tokens) for one in every},
    }


class Timed:
    """One system's rounds of the workload, or why there are none. Its process starts with it, and ends with the block."""

    def __init__(self, system: str, peer: dict[str, Any], job: Job, python: str) -> None:
        self.system, self.unable, self.setting = system, peer["reason"], peer["setting"]
        self.job = job
        self.rounds: list[dict[str, Any]] = []
        self.tokens: list[list[int]] = []
        self.asked: Asked | None = None
        if not self.unable:
            with self._or_why_not():
                self.asked = Asked(MODULES[system], None, python)

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its process. A second close does nothing."""
        if self.asked is not None:
            self.asked.close()

    @contextmanager
    def _or_why_not(self) -> Iterator[None]:
        try:
            yield
        except Unable as reason:
            self.unable = str(reason)

    def hear(self) -> None:
        """Wait until its imports are done; a system without such a workload says so here, before a model of 26 GB is loaded."""
        if not self.unable:
            with self._or_why_not():
                if not self.asked.workload:
                    raise Unable(NO_WORKLOAD)

    def load(self) -> None:
        """And warm up."""
        self.hear()
        if not self.unable:
            with self._or_why_not():
                self.asked.begin(replace(self.job, setting=self.setting), choice=None)
                self.asked.ask("workload", sessions=min(WARM_UP, len(self.job.prompts)))

    def run(self) -> float:
        """Seconds of one round."""
        with self._or_why_not():  # it takes few sessions, but not as many
            done = self.asked.ask("workload", sessions=len(self.job.prompts))
            self.tokens = done.pop("tokens")
            self.rounds.append(done)
            return done["seconds"]
        return 0.0

    @property
    def long(self) -> bool:
        return bool(self.rounds) and self.rounds[-1]["seconds"] > LONG_S

    def row(self, ours: list[list[int]]) -> dict[str, Any]:
        """seconds of every round; the rest as in `Contender.workload`; how much of its tokens are Djinn's, None with other
        weights."""
        if self.unable:
            return {"unable": self.unable, "seconds": []}
        pairs = list(zip(self.tokens, ours, strict=True))
        same = sum(a == b for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))
        others = self.rounds[-1].get("other_weights", False)
        return {
            "unable": None,
            "setting": self.setting,
            "seconds": [one["seconds"] for one in self.rounds],
            "parts": [one["parts"] for one in self.rounds],
            "paused": self.rounds[-1]["paused"],
            "off_device_bytes": self.rounds[-1]["off_device_bytes"],
            "sessions_as_djinn": None if others else sum(mine == theirs for mine, theirs in pairs),
            "tokens_as_djinn": None if others else same / sum(len(theirs) for _, theirs in pairs),
        }


def in_turn(group: list[Timed], rounds: int, progress: Progress, beside: Sequence[Timed] = ()) -> None:
    """beside: who may be importing: nobody is timed before that is done."""
    with ExitStack() as stack:
        for one in group:
            progress(f"workload: {one.system} is loaded")
            stack.callback(one.close)
            one.load()
        for one in beside:
            one.hear()
        for number in range(1, rounds + 1):
            for one in group:
                if not (one.unable or (len(group) == 1 and one.long)):
                    seconds = one.run()
                    progress(f"workload: round {number} of {rounds}: {one.system}: {one.unable or f'{seconds:.1f} s'}")
