"""The workload of many sessions, all systems in turn (A B C A B C …), so that a slow moment of the machine meets them all.

Each has the setting that its own rule found best. Djinn and the hand-written swaps put every session aside before any
goes on; what cannot pause is asked for the same tokens without. Where the device holds one system at a time
(`peers.together: false`) each has made its rounds in its own rule, by the process that was tuned, and they are put together
here: to load a system again for them alone takes as long as half of its rule. Else their processes are all started at once,
and import while the first of them loads: until it loads, a process holds nothing of the device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.contenders.asking import Asked
from evaluation.contenders.contender import Job
from evaluation.peers import MODULES, PEERS, interpreters, job_for
from evaluation.prompts import load_prompts
from evaluation.rounds import Progress, Rounds, in_turn


class NothingToCompare(RuntimeError):
    """Djinn itself did not do what the others are held against."""


def measure(settings: Any, progress: Progress, results: Path) -> dict[str, Any]:
    """results: the folder with peer_SYSTEM.json of every system."""
    wanted = settings.oversubscription
    peers = {system: json.loads((results / f"peer_{system}.json").read_text())["result"] for system in PEERS}
    if settings.peers.together:
        every = together(settings, peers, progress)
    else:
        progress("workload: each system's rounds are in its own result")
        every = [Rounds.again(name, peer["setting"], wanted.sessions, made(peer)) for name, peer in peers.items()]
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


def made(peer: dict[str, Any]) -> dict[str, Any]:
    """The rounds of a system's own rule."""
    return peer["workload"] if peer["ran"] else {"unable": peer["reason"], "rounds": []}


def together(settings: Any, peers: dict[str, dict[str, Any]], progress: Progress) -> Sequence[Rounds]:
    wanted = settings.oversubscription
    prompts = load_prompts(settings.model, wanted.sessions, wanted.prompt_tokens)
    able = [system for system, peer in peers.items() if peer["ran"]]
    with job_for(settings, prompts, able) as job, interpreters(settings.peers) as python, ExitStack() as stack:
        every = [stack.enter_context(Timed(system, peer, job, python(system))) for system, peer in peers.items()]
        loaded_in_turn(every, settings.peers.rounds, progress)
    return every


class Timed(Rounds):
    """A system's rounds by a process of their own, which starts with it, and ends with the block."""

    def __init__(self, system: str, peer: dict[str, Any], job: Job, python: str) -> None:
        super().__init__(system, peer["setting"], len(job.prompts), unable=peer["reason"])
        self.job = job
        if not self.unable:
            with self.or_why_not():
                self.asked = Asked(MODULES[system], None, python)

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its process. A second close does nothing."""
        if self.asked is not None:
            self.asked.close()

    def load(self) -> None:
        """And warm up."""
        self.hear()
        if not self.unable:
            with self.or_why_not():
                self.asked.begin(replace(self.job, setting=self.setting), choice=None)
        self.warm_up()


def loaded_in_turn(group: Sequence[Timed], rounds: int, progress: Progress) -> None:
    """All are loaded before any is timed, and none imports then."""
    with ExitStack() as stack:
        for one in group:
            progress(f"workload: {one.system} is loaded")
            stack.callback(one.close)
            one.load()
        in_turn(group, rounds, progress)
