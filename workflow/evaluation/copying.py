"""Copies under way on purpose: checkpointed sessions brought to the device and put off it again, for as long as asked.

Fresh checkpoints cannot keep a copy engine busy, since computing them takes longer than copying them. So sessions that hold
a checkpoint of every layer are moved round and round instead, by looking at them (which brings them back) and parking them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import djinn
from evaluation.parking import OFF, put_aside

STEP_S = 0.0005
OUT = "copy out"
TRACKS = (OUT, "copy in")  # of the server's timeline


class Copying:
    """Moves SESSIONS sessions while `under_way()`; a thread with a client of its own, for the time of a `with`."""

    SESSIONS = 3

    def __init__(self, endpoint: str, prompts: list[list[int]]) -> None:
        self.endpoint, self.prompts = endpoint, prompts[: self.SESSIONS]
        self._go, self._idle, self._over = threading.Event(), threading.Event(), threading.Event()
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="copying", daemon=True)

    def __enter__(self) -> Copying:
        self._thread.start()
        self._ready.wait()
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._go.set()
        self._thread.join()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Inside, sessions move; at its end they have come to rest."""
        self._idle.clear()
        self._go.set()
        yield
        self._go.clear()
        self._idle.wait()
        self._check()

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            with djinn.connect(self.endpoint) as client:
                held = [self._checkpointed(client, prompt) for prompt in self.prompts]
                put_aside([session for session, _ in held])
                self._ready.set()
                while self._go.wait() and not self._over.is_set():
                    self._there_and_back(held)
                    if not self._go.is_set():
                        self._idle.set()
        except Exception as error:  # noqa: BLE001  raised again by the thread that measures
            self._error = error
        finally:
            self._ready.set()
            self._idle.set()

    def _checkpointed(self, client: djinn.Client, prompt: list[int]) -> tuple[djinn.Session, djinn.Pause]:
        """A session with a checkpoint of every layer, paused in decode, so that looking at it sends one row."""
        session = client.open()
        session.prefill(prompt, checkpoint_at=list(range(1, client.server.depth + 1)))
        return session, session.resume(max_new_tokens=1, break_at=1, break_token=1)

    def _there_and_back(self, held: list[tuple[djinn.Session, djinn.Pause]]) -> None:
        for _, pause in held:
            pause.activation()
        for session, _ in held:
            while session.state in (*OFF, "restoring") and self._go.is_set():
                time.sleep(STEP_S)
            session.park()
        for session, _ in held:
            while session.state not in OFF:
                time.sleep(STEP_S)


def busy_share(client: djinn.Client, spans: list[tuple[int, int]]) -> float:
    """Share of `spans` (start, end; ns of the server's clock) during which a copy ran, by the server's timeline."""
    copies = sorted(_copies(client, TRACKS))
    covered = sum(_overlap(copies, start, end) for start, end in spans)
    return covered / sum(end - start for start, end in spans)


def last_copy_out(client: djinn.Client) -> float:
    """When the last copy off the device ended that the server's timeline knows (ns of the server's clock)."""
    return max(end for _, end in _copies(client, (OUT,)))


def _copies(client: djinn.Client, names: tuple[str, ...]) -> list[tuple[float, float]]:
    events = client.timeline()["traceEvents"]
    tracks = {event["tid"] for event in events if event["ph"] == "M" and event["args"]["name"] in names}
    return [
        (1000 * event["ts"], 1000 * (event["ts"] + event["dur"]))
        for event in events
        if event["ph"] == "X" and event["tid"] in tracks
    ]


def _overlap(copies: list[tuple[float, float]], start: float, end: float) -> float:
    """How much of start..end is covered by `copies`, which may overlap each other and are sorted."""
    covered, reached = 0.0, start
    for begins, ends in copies:
        begins, ends = max(begins, reached), min(ends, end)
        if ends > begins:
            covered += ends - begins
            reached = ends
    return covered
