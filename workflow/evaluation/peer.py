"""One system of the comparison, alone: tuned, a put-aside session gone on with, a layer edited, and the capability probes; where
the device holds one system at a time (`peers.together: false`), its rounds of the workload too."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evaluation.contenders.asking import Asked
from evaluation.contenders.contender import PROBES, Job, Unable
from evaluation.peers import MODULES, interpreters, job_for, missing
from evaluation.prompts import load_prompts
from evaluation.rounds import WARM_UP, Rounds, in_turn

Progress = Callable[[str], None]
SEVERAL = 8  # prompts for the questions about one session; some take six at once, and a swap makes room for each


class PeerMissing(RuntimeError):
    """A system that the config asks for cannot be had."""


def measure(settings: Any, progress: Progress, system: str) -> dict[str, Any]:
    """system: one of peers.PEERS. A system that is off or cannot be run is "not run" with its reason; one that breaks raises."""
    nothing = {
        "versions": {},
        "tuning": [],
        **dict.fromkeys(("settings_offered", "setting", "workload", "continued", "edited", "capabilities")),
    }
    if system == "vllm" and settings.peers.vllm == "off":
        return {"system": system, "ran": False, "reason": missing(system, settings.peers), **nothing}
    wanted = settings.oversubscription
    prompts = load_prompts(settings.model, wanted.sessions, wanted.prompt_tokens)
    reading = [] if missing(system, settings.peers) else [system]
    with (
        job_for(settings, prompts, reading) as job,
        interpreters(settings.peers) as python,
        Alone(system, job, settings.peers, python(system), progress) as alone,
    ):
        try:
            alone.tune()
            return {"system": system, "ran": True, "reason": None, **alone.measured()}
        except Unable as reason:
            if system == "vllm" and settings.peers.vllm == "on":
                raise PeerMissing(f"peers.vllm is on, but it cannot be run: {reason}") from reason
            progress(f"{system}: not run: {reason}")
            return {"system": system, "ran": False, "reason": str(reason), **nothing, "tuning": alone.tuning}


class Alone:
    """The system in one process after the other. The next ones import their modules, seconds each, while the one before them
    loads, and nobody is asked before they have: no import runs beside a measurement, and none is waited for between two.

    Until it is begun a process holds nothing of the device, and some hundred MB of memory; all end with the block.
    """

    def __init__(self, system: str, job: Job, peers: Any, python: str, progress: Progress) -> None:
        self.system, self.job, self.peers, self.progress = system, job, peers, progress
        self.python = python
        self.tuning: list[dict[str, Any]] = []
        self.choice = 0  # the shipped setting
        self.sessions = peers.tune_sessions  # that show which setting is fastest
        self.idle: list[Asked] = []  # the next to begin, in turn
        self.loaded: Asked | None = None
        self.standing: int | None = None  # its setting

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self._unload()
        for one in self.idle:
            one.close()

    def start(self, processes: int) -> None:
        """Have so many idle."""
        while len(self.idle) < processes:
            self.idle.append(Asked(MODULES[self.system], None, self.python))

    def load(self, choice: int, prompts: int, behind: int = 1) -> Asked:
        """The next process, with that setting; the one before it has ended by then, for the device holds one.

        prompts: how many of the job's it is given, where it needs no more: some make memory ready for each before they work.
        behind: how many processes are started to follow it, where there are fewer. Raises Unable.
        """
        self._unload()
        self.start(1 + behind)
        self.loaded = self.idle.pop(0)
        self.loaded.begin(replace(self.job, prompts=self.job.prompts[:prompts]), choice)
        self.standing = choice
        for one in self.idle:
            one.hear()
        return self.loaded

    def _unload(self) -> None:
        if self.loaded is not None:
            self.loaded.close()
        self.loaded = self.standing = None

    def several(self, choice: int) -> Asked:
        """The process with that setting and some prompts, or all where it makes rounds of the workload: the one that stands
        where it is that. An engine that compiles takes half a minute to start once more."""
        if self.standing == choice:
            return self.loaded
        few = max(SEVERAL, self.sessions)
        return self.load(choice, few if self.peers.together else len(self.job.prompts))

    def tune(self) -> None:
        """Each setting does the workload twice, of some sessions or, behind a few, of all; the second time counts. None is begun
        behind tune_seconds.

        Raises Unable when none can run.
        """
        if self.peers.tune_sessions == 0:
            return
        self.start(2)  # of whatever system: one to be measured, and the second of `survive`
        tuned = self.idle[0].tuned
        if len(tuned) == 1:
            return
        first = self.sessions
        if self.idle[0].whole:
            first, self.sessions = WARM_UP, len(self.job.prompts)
        self.start(min(len(tuned) + 2, len(os.sched_getaffinity(0))))  # an import keeps a core busy
        over = time.monotonic() + self.peers.tune_seconds
        for choice, setting in enumerate(tuned):
            row: dict[str, Any] = {"setting": setting, "seconds": None, "unable": None}
            self.tuning.append(row)
            if choice and time.monotonic() > over:
                row["unable"] = f"not tried: the {self.peers.tune_seconds} s of peers.tune_seconds were over"
                continue
            self.progress(f"{self.system}: setting {choice + 1} of {len(tuned)}: {setting}")
            try:
                asked = self.several(choice)
                for sessions in (first, self.sessions):
                    row["seconds"] = asked.ask("workload", sessions=sessions)["seconds"]
            except Unable as reason:
                row["unable"] = str(reason)
        able = [choice for choice, row in enumerate(self.tuning) if row["unable"] is None]
        if not able:
            raise Unable("; ".join(dict.fromkeys(row["unable"] for row in self.tuning)))
        self.choice = min(able, key=lambda choice: self.tuning[choice]["seconds"])

    def measured(self) -> dict[str, Any]:
        counts = {"warmup": self.peers.warmup, "samples": self.peers.samples}
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="djinn-survive-") as folder:
            # The process that `survive` goes on in imports beside this one's load. It is as new to the session as one that is
            # started behind the kill: all that it has read by then is its module.
            asked = self.several(self.choice)
            found["versions"] = asked.ask("versions")
            found["workload"] = None if self.peers.together else self._rounds(asked)
            for question in ("continued", "edited"):
                self.progress(f"{self.system}: {question}")
                found[question] = self._or_why_not(asked, question, **counts)
            probes = {probe: self._probe(asked, probe) for probe in asked.in_turn}
            asked.ask("leave", folder=folder)
            asked.kill()
            again = self.load(self.choice, prompts=1, behind=0)
            probes["survive"] = self._probe(again, "survive", folder=folder)
        return {
            **found,
            "settings_offered": len(asked.tuned),
            "tuning": self.tuning,
            "setting": asked.tuned[self.choice],
            "capabilities": {probe: probes[probe] for probe in PROBES},
        }

    def _rounds(self, asked: Asked) -> dict[str, Any]:
        rounds = Rounds(self.system, asked.tuned[self.choice], len(self.job.prompts), asked)
        rounds.hear()
        rounds.warm_up()
        in_turn([rounds], self.peers.rounds, self.progress)
        return rounds.told()

    def _or_why_not(self, asked: Asked, question: str, **more: Any) -> dict[str, Any]:
        try:
            return {"ms": asked.ask(question, **more), "unable": None}
        except Unable as reason:
            return {"ms": {}, "unable": str(reason)}

    def _probe(self, asked: Asked, probe: str, **more: Any) -> dict[str, Any]:
        found = asked.ask(probe, **more)
        self.progress(f"{self.system}: {probe}: {found['answer']}: {found['seen']}")
        return found
