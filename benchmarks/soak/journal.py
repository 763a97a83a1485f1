"""What one owner's clients did, line by line in a file that outlives them: whoever takes over reads where all stands.

A line is written before each call and after its answer, so that of a client that is killed in between it is known what
may have happened. Lines also carry what is to be counted.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.programs import BEGIN, Place


@dataclass
class Life:
    """A session as its owner knows it."""

    id: str
    program: str
    server: int  # the number of the server that answered for it last
    place: Place = BEGIN
    doing: str = ""  # asked, and not answered yet
    since_ns: int = 0
    ran_ns: int = 0  # when the last step that it made was asked for: a copy may have broken behind its back
    durable: set[Place | None] = field(default_factory=lambda: {None})  # what a file may hold; None: there may be none


class Journal:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.lives: dict[str, Life] = {}
        self.opening = False  # whether an open was asked for, and not answered
        for line in lines(path):
            self._follow(line)

    def say(self, what: str, *counted: str, **facts: Any) -> None:
        line = {"what": what, "ns": time.monotonic_ns(), **facts, **({"count": counted} if counted else {})}
        self._follow(line)
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def count(self, *counted: str) -> None:
        self.say("count", *counted)

    def _follow(self, line: dict[str, Any]) -> None:
        what, life = line["what"], self.lives.get(line.get("id", ""))
        if what == "opening":
            self.opening = True
        elif what == "not opened":
            self.opening = False
        elif what == "opened":
            self.opening = False
            self.lives[line["id"]] = Life(line["id"], line["program"], line["server"], tuple(line["place"]))
        elif life and what == "doing":
            life.doing, life.since_ns = line["call"], line["ns"]
        elif life and what == "stands":
            if life.doing == "step":
                life.ran_ns = life.since_ns
            life.place, life.server, life.doing = tuple(line["place"]), line["server"], ""
        elif life and what == "durable":
            life.durable = {tuple(place) if place else None for place in line["places"]}
            life.doing = life.doing if life.doing == "step" else ""  # where it stands now is said next
        elif life and what == "not done":
            life.doing = ""
        elif life and what == "over":
            del self.lives[line["id"]]


def lines(path: Path) -> Iterable[dict[str, Any]]:
    if path.exists():
        with open(path) as file:
            for line in file:
                yield json.loads(line)


class Tally:
    """The counts of journals that still grow, read as far as they are."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.told: list[str] = []  # what was lost or wrong, in words
        self._read: dict[Path, int] = {}

    def read(self, paths: Iterable[Path]) -> Counter[str]:
        for path in paths:
            with open(path) as file:
                file.seek(self._read.get(path, 0))
                while (line := file.readline()).endswith("\n"):
                    self._read[path] = file.tell()
                    found = json.loads(line)
                    self.counts.update(found.get("count", ()))
                    if "why" in found:
                        self.told.append(f"{path.stem}: {found['why']}")
        return self.counts
