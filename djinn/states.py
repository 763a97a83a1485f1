"""The one state machine of a session. Every move is legal or raises, and is stamped.

Stamps are the server's monotonic clock in nanoseconds, so an interval is a difference of two of them.
"""

from __future__ import annotations

import time
from enum import StrEnum

from djinn.errors import IllegalMove


class State(StrEnum):
    IDLE = "idle"  # open, between turns
    QUEUED = "queued"  # a request waits for memory or for the compute thread
    RUNNING = "running"
    PAUSED = "paused"  # stopped inside a forward pass
    IO_WAIT = "io_wait"  # parked: its memory may be taken
    EVICTING = "evicting"
    HOST = "host"  # evicted: its only copy is in the host pool
    DISK = "disk"  # its only copy is in a file
    RESTORING = "restoring"
    READY = "ready"  # all that the next layer needs is on the device
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


END = {State.DONE, State.FAILED, State.CANCELLED}

MOVES: dict[State, set[State]] = {
    State.IDLE: {State.QUEUED, State.READY, State.IO_WAIT},
    State.QUEUED: {State.RUNNING, State.IDLE},  # back to IDLE: refused for want of memory, nothing lost
    State.RUNNING: {State.PAUSED, State.IDLE},
    State.PAUSED: {State.READY, State.IO_WAIT},
    State.IO_WAIT: {State.READY, State.EVICTING},
    State.EVICTING: {State.HOST, State.READY, State.IO_WAIT},  # READY: it is on the device still; IO_WAIT: it failed
    State.HOST: {State.RESTORING, State.DISK},
    State.DISK: {State.HOST},
    State.RESTORING: {State.READY, State.IO_WAIT, State.HOST},  # IO_WAIT: it was brought back unasked; HOST: it failed
    State.READY: {State.RUNNING},
    **{end: set() for end in END},
}
STOPPED = {State.IDLE, State.PAUSED}  # may be evicted unasked
PARKED = {State.IO_WAIT, State.EVICTING, State.HOST, State.DISK}
WAITING = STOPPED | PARKED  # a resume, a park or a fetch is legal here


class Machine:
    """Where one session stands and how it came there. The last 64 moves are kept."""

    KEPT = 64

    def __init__(self, state: State = State.IDLE) -> None:
        """state: DISK for a session of an earlier server."""
        self.state = state
        self.history: list[tuple[State, int]] = [(state, time.monotonic_ns())]

    def move(self, to: State) -> int:
        """Go to `to` and return the stamp (ns); raises IllegalMove where the design has no such arrow."""
        if to not in MOVES[self.state] and not (to in END and self.state not in END):
            raise IllegalMove(f"a session that is {self.state} cannot become {to}")
        now = time.monotonic_ns()
        self.state = to
        self.history = [*self.history[-self.KEPT + 1 :], (to, now)]
        return now

    def stamps(self) -> list[tuple[str, int]]:
        """The kept moves, oldest first: (state, monotonic ns)."""
        return [(str(state), at) for state, at in self.history]
