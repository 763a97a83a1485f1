"""Servers killed in the middle of durable parks: what was acknowledged comes back to the bit, what was not may."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from nursery import Child, Nursery
from stands import STANDS, expected_of, same, turned

import djinn
from djinn.errors import DjinnError, ServerGone
from djinn.wire import messages as m


class Lives:
    """Sessions parked durably again and again, by servers that are killed while they write."""

    def __init__(self, nursery: Nursery, state: Path, seed: int) -> None:
        self.nursery, self.arguments, self.draw = nursery, ("--state-dir", str(state)), random.Random(seed)
        self.standing: dict[str, tuple[str, int]] = {}  # acknowledged session -> how it stands, of which prompt
        self.expected: dict[tuple[str, int], djinn.Out] = {}
        self.acknowledged = self.cut_off = self.compared = 0

    def learn(self, client: djinn.Client) -> None:
        for name in STANDS:
            for by in range(3):
                self.expected[name, by] = expected_of(client, name, turned(by))

    def check(self, client: djinn.Client) -> None:
        """Everything acknowledged is there; some of it goes on, to the bit, and is closed, so that it must not come back."""
        for key in self.standing:
            assert djinn.Session(client.connection, key).state == "disk", f"{key} was acknowledged, and is lost"
        for key in self.draw.sample(sorted(self.standing), min(4, len(self.standing))):
            name, by = self.standing.pop(key)
            session = djinn.Session(client.connection, key)
            assert same(STANDS[name].go_on(session), self.expected[name, by]), (key, name)
            session.close()
            self.compared += 1

    def park_until_killed(self, server: Child, client: djinn.Client) -> None:
        """All are asked for at once; the server dies some time after the first acknowledgement."""
        asked: dict[int, tuple[str, str, int]] = {}
        made = []
        for _ in range(6):
            name, by = self.draw.choice(sorted(STANDS)), self.draw.randrange(3)
            session = client.open()
            STANDS[name].begin(session, turned(by))
            made.append((session.id, name, by))
        for key, name, by in made:
            asked[client.connection.send(m.Park(session=key, durable=True))] = (key, name, by)
        delay = self.draw.random() ** 2 * 0.3
        killer = threading.Timer(delay, os.kill, (server.pid, signal.SIGKILL))
        killer.start()
        with contextlib.suppress(ServerGone):  # as it should
            client.connection.wait(lambda: len(client.connection._replies) == len(asked), 30)
        killer.join()
        for number, (key, name, by) in asked.items():
            reply = client.connection._replies.get(number)
            if reply is None:
                self.cut_off += 1
            else:
                reply.raise_failure()
                self.standing[key] = (name, by)
                self.acknowledged += 1
        assert server.end(signal.SIGKILL) == -signal.SIGKILL

    def play(self, kills: int) -> None:
        for number in range(kills):
            server = self.nursery.start(*self.arguments)
            with server.connect() as client:
                if not number:
                    self.learn(client)
                self.check(client)
                self.park_until_killed(server, client)
        with self.nursery.start(*self.arguments).connect() as client:
            while self.standing:
                self.check(client)
            left = client.stats()["sessions"]
            # On the disk: written, but killed before it was told, which is as good as acknowledged.
            assert set(left) <= {"disk", "idle"}, left


def survives(nursery: Nursery, state: Path, record_property, kills: int, seed: int) -> None:
    record_property("tried", kills)
    record_property("unit", "kills")
    lives = Lives(nursery, state, seed)
    try:
        lives.play(kills)
    except DjinnError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    print(f"{kills} kills: {lives.acknowledged} acknowledged, {lives.cut_off} cut off, {lives.compared} compared")
    assert lives.compared == lives.acknowledged and lives.cut_off > kills / 2 and lives.acknowledged > kills / 2


def test_no_acknowledged_session_is_lost_in_twenty_kills(nursery, state, record_property):
    survives(nursery, state, record_property, kills=20, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(
    "DJINN_KILLS" not in os.environ, reason="500 kills: DJINN_KILLS=1 make test ARGS=tests/test_kills.py"
)
@pytest.mark.parametrize("seed", range(2, 12))
def test_no_acknowledged_session_is_lost_in_many_kills(nursery, state, record_property, seed):
    survives(nursery, state, record_property, kills=50, seed=seed)
