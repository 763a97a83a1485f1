"""What a session may have become while its owner could not see it. Pure: this is the promise, in code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.soak.journal import Life
from benchmarks.soak.programs import BEGIN, Place, Program

ENDS = {"close": "finished", "cancel": "cancelled"}  # the calls, and how the journal has it


@dataclass(frozen=True)
class Expected:
    places: tuple[Place, ...]  # where it may stand
    may_be_gone: bool
    promised: bool  # it must be there because a file of it was acknowledged, or written by a drain


def expected(life: Life, program: Program, ended: Sequence[str]) -> Expected:
    """ended: how each server ended that was there since the session was seen last, in their order."""
    at = life.place[0]
    now = [life.place]
    if life.doing == "step" and at < program.end:
        now += [(at + 1, 0), *program.half_way(at)]
    ending = life.doing in ENDS
    if not ended:
        return Expected(tuple(now), ending, False)
    if ended[0] == "drained":  # all that holds something went to its file; what an open and empty one was is nothing
        return Expected(tuple(now), ending or at == BEGIN[0], not ending and at > BEGIN[0])
    files = life.durable | ({life.place} if life.doing == "durable" else set())
    return Expected(tuple(place for place in files if place), ending or None in files, not ending and None not in files)


def files_behind(life: Life, place: Place, ended: Sequence[str]) -> set[Place | None]:
    """What the session's file may hold, now that it was found at `place`."""
    if ended:
        return {place}  # it came out of it
    return life.durable | ({place} if life.doing == "durable" else set())
