"""Durable sessions on real servers that are killed, drained and started again: every acknowledged one comes back to the bit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nursery import Child, Nursery

import djinn
from djinn.client.session import Checkpoint
from djinn.errors import BadRequest, DjinnError, Draining, NoSuchSession, OutOfMemory, ServerGone, StateRefused
from djinn.wire import messages as m

PROMPT = [(7 * i * i + 3) % 509 for i in range(100)]
NEW = 6


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def state(tmp_path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@dataclass(frozen=True)
class Stand:
    """A way for a session to stand, and how it goes on from there."""

    begin: Callable[[djinn.Session, list[int]], None]
    go_on: Callable[[djinn.Session], djinn.Out]


def at_checkpoint(session: djinn.Session) -> djinn.Out:
    return session.resume(Checkpoint(session, "checkpoint@3-1", 3), max_new_tokens=NEW)


def paused_in_decode(session: djinn.Session, ids: list[int]) -> None:
    session.prefill(ids, max_new_tokens=4, break_at=5, break_token=3)


DRAWN = djinn.Sampling(temperature=0.9, top_k=40, seed=11)
STANDS = {
    "idle": Stand(lambda s, ids: s.prefill(ids, max_new_tokens=2), lambda s: s.generate(max_new_tokens=NEW)),
    "idle, drawn": Stand(
        lambda s, ids: s.prefill(ids, max_new_tokens=3, sampling=DRAWN), lambda s: s.generate(max_new_tokens=NEW)
    ),
    "paused in prefill": Stand(lambda s, ids: s.prefill(ids, break_at=3), lambda s: s.resume(max_new_tokens=NEW)),
    "paused in prefill, drawn": Stand(
        lambda s, ids: s.prefill(ids, break_at=8, sampling=DRAWN), lambda s: s.resume(max_new_tokens=NEW)
    ),
    "paused in decode": Stand(paused_in_decode, lambda s: s.resume(max_new_tokens=NEW)),
    "with a checkpoint": Stand(lambda s, ids: s.prefill(ids, checkpoint_at=[3], sampling=DRAWN), at_checkpoint),
}


def again(client: djinn.Client, session: djinn.Session) -> djinn.Session:
    """The same session, through another connection."""
    return client.attach(session.id)


def same(found: djinn.Out, expected: djinn.Out) -> bool:
    return found.tokens.tolist() == expected.tokens.tolist() and np.array_equal(found.logits, expected.logits)


def expected_of(client: djinn.Client, name: str, ids: list[int]) -> djinn.Out:
    session = client.open()
    STANDS[name].begin(session, ids)
    out = STANDS[name].go_on(session)
    session.close()
    return out


def turned(by: int) -> list[int]:
    return PROMPT[by:] + PROMPT[:by]


def test_every_kind_of_session_outlives_kill_9_wherever_it_lies(nursery, state):
    """On the device, in the host pool, on the disk: what was parked durably comes back, and what came after does not."""
    small = ("--state-dir", str(state), "--device-budget=36MB", "--host-budget=6MB", "--disk-budget=200MB")
    server = nursery.start(*small)
    with server.connect() as client:
        expected = {name: expected_of(client, name, turned(i)) for i, name in enumerate(STANDS)}
        sessions, fillers = {}, []
        for i, name in enumerate(STANDS):
            sessions[name] = client.open()
            STANDS[name].begin(sessions[name], turned(i))
            if i == 2:  # these three are pushed out
                for _ in range(20):
                    fillers.append(client.open())
                    fillers[-1].prefill(PROMPT, break_at=8)
        places = {session.state for session in sessions.values()}
        assert "disk" in places and places & {"idle", "paused"}, places
        for session in sessions.values():
            session.park(durable=True)
        sessions["idle"].generate(max_new_tokens=1)  # not parked since: it will stand where it was parked
        written = client.stats()["bytes"]["saved_bytes"]
        sessions["paused in decode"].park(durable=True)
        assert client.stats()["bytes"]["saved_bytes"] == written, "nothing had changed, and it was written again"
        names = {name: session.history()[1][-1][0] for name, session in sessions.items()}
        assert set(names.values()) <= {"host", "disk", "idle"}, names
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    server = nursery.start(*small)
    with server.connect() as client:
        assert client.stats()["sessions"] == {"disk": len(STANDS)}
        assert client.stats()["bytes"]["restored_bytes"] == 0, "nobody has asked for them yet"
        for name, session in sessions.items():
            assert same(STANDS[name].go_on(again(client, session)), expected[name]), name
        for filler in fillers:
            with pytest.raises(NoSuchSession):
                _ = again(client, filler).state
        for session in sessions.values():
            again(client, session).close()
        assert not list(state.glob("*.safetensors")), "a closed session's file goes"
        balance(client)


def balance(client: djinn.Client) -> None:
    """Nobody holds anything, and nothing is missing."""
    now = client.stats()["bytes"]
    unit = 256
    assert now["arena_free_bytes"] == now["arena_bytes"] // unit * unit
    assert now["host_free_bytes"] == now["host_budget_bytes"] // unit * unit
    assert now["disk_free_bytes"] == now["disk_budget_bytes"]


def test_an_activation_of_a_session_that_came_back(nursery, state):
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        session = client.open()
        pause = session.prefill(PROMPT, break_at=4)
        h = pause.activation()
        session.park(durable=True)
        server.end(signal.SIGKILL)
    with nursery.start("--state-dir", str(state)).connect() as client:
        back = djinn.Pause(again(client, session), pause.name, 4, 100, np.array([]))
        assert np.array_equal(back.activation(), h)
        with pytest.raises(djinn.errors.IllegalMove, match="open"):
            back.session.prefill(PROMPT)


def test_sigterm_drains(nursery, state):
    """Running requests end or are stopped between two tokens, what stands goes to the state directory, the exit code is 0."""
    server = nursery.start("--state-dir", str(state), "--drain-timeout=0")
    with server.connect() as client, server.connect() as other:
        expected = {name: expected_of(client, name, PROMPT) for name in STANDS}
        sessions = {name: client.open() for name in STANDS}
        for name, session in sessions.items():
            STANDS[name].begin(session, PROMPT)
        long, plain = client.open(), client.open()
        whole = plain.prefill(PROMPT, max_new_tokens=150).tokens.tolist()
        plain.close()
        stream = long.prefill(PROMPT, max_new_tokens=150, stream=True)
        seen = [next(stream)]
        os.kill(server.pid, signal.SIGTERM)
        with pytest.raises(Draining, match=r"no new requests|stands behind them"):
            seen += list(stream)
        with pytest.raises((Draining, ServerGone)):
            other.open()
        assert server.end(0) == 0
    assert "are lost" in server.log() and ", 0 are lost" in server.log()
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        for name, session in sessions.items():
            assert same(STANDS[name].go_on(again(client, session)), expected[name]), name
        assert 1 <= len(seen) < 150 and seen == whole[: len(seen)]
        rest = again(client, long).generate(max_new_tokens=4).tokens.tolist()
        at = next(i for i in range(len(seen), 150) if whole[i : i + 4] == rest)
        assert at >= len(seen), "it goes on behind what was chosen"


def test_a_drain_lets_running_requests_end(nursery, state):
    server = nursery.start("--state-dir", str(state), "--drain-timeout=60")
    with server.connect() as client:
        session = client.open()
        pending = session.prefill(PROMPT, max_new_tokens=60, wait=False)
        while session.state != "running":
            time.sleep(0.001)
        os.kill(server.pid, signal.SIGTERM)
        assert len(pending.result().tokens) == 60
        assert server.end(0) == 0


def test_without_a_state_directory_a_drain_says_what_is_lost(nursery):
    server = nursery.start()
    with server.connect() as client:
        for _ in range(3):
            client.open().prefill(PROMPT[:20])
        client.open()
        with pytest.raises(BadRequest, match="--state-dir"):
            client.open().park(durable=True)
        assert server.end() == 0
    assert "3 sessions are lost: this server has no --state-dir" in server.log()


def test_a_second_server_on_one_state_directory_is_refused_and_a_dead_ones_lock_is_not(nursery, state):
    first = nursery.start("--state-dir", str(state))
    with pytest.raises(AssertionError, match=rf"ended with 2: .*running server {first.pid}.*\[state_in_use\]"):
        nursery.start("--state-dir", str(state))
    first.end(signal.SIGKILL)
    nursery.start("--state-dir", str(state)).end()


def test_sessions_of_another_model_or_damaged_are_refused_by_name_and_kept(nursery, state):
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        expected = expected_of(client, "idle", PROMPT)
        sessions = {what: client.open() for what in ("whole", "header", "short", "bits", "logits", "empty")}
        for session in sessions.values():
            STANDS["idle"].begin(session, PROMPT)
            session.park(durable=True)
        server.end(signal.SIGKILL)
    for arguments, says in (
        (("--seed=1",), "weights_sha256"),
        (("--dtype=bfloat16",), "dtype float32 instead of bfloat16"),
    ):
        server = nursery.start("--state-dir", str(state), *arguments)
        with server.connect() as client:
            assert client.stats()["sessions"] == {}
            for session in sessions.values():
                with pytest.raises(StateRefused, match=says):
                    _ = again(client, session).state
        server.end()
    assert len(list(state.glob("*.safetensors"))) == len(sessions)

    def file(what: str) -> Path:
        return state / f"{sessions[what].id}.safetensors"

    flip(file("header"), 200)
    flip(file("bits"), file("bits").stat().st_size // 2)
    flip(file("logits"), file("logits").stat().st_size - 5)
    os.truncate(file("short"), file("short").stat().st_size - 1)
    os.truncate(file("empty"), 0)
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        assert client.stats()["sessions"] == {"disk": 2}, "what is wrong with the numbers is found when they are wanted"
        for what, says in (("header", "header"), ("short", "truncated"), ("logits", "checksum"), ("empty", "torn")):
            with pytest.raises(StateRefused, match=says):
                again(client, sessions[what]).resume()
        with pytest.raises(StateRefused, match="checksum"):
            again(client, sessions["bits"]).generate(max_new_tokens=1)
        assert again(client, sessions["bits"]).state == "failed"
        assert same(again(client, sessions["whole"]).generate(max_new_tokens=NEW), expected)
        for what in ("whole", "bits"):
            again(client, sessions[what]).close()
        balance(client)
    damaged = {sessions[what].id for what in ("header", "short", "bits", "logits", "empty")}
    assert {path.name.partition(".")[0] for path in state.glob("*.corrupt")} == damaged


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_a_disk_quota_refuses_one_park_and_harms_nobody(nursery, state):
    server = nursery.start("--state-dir", str(state), "--disk-budget=2MB")
    with server.connect() as client:
        expected = expected_of(client, "idle", PROMPT)
        sessions = [client.open() for _ in range(3)]
        for session in sessions:
            STANDS["idle"].begin(session, PROMPT)
        sessions[0].park(durable=True)
        with pytest.raises(OutOfMemory, match="disk_budget"):
            sessions[1].park(durable=True)
        sessions[0].close()
        sessions[1].park(durable=True)
        for session in sessions[1:]:
            assert same(session.generate(max_new_tokens=NEW), expected)
            session.close()
        balance(client)


# -- killed in the middle of durable parks -----------------------------------------------------------------


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
            assert set(left) <= {"disk", "idle"}, (
                left
            )  # written, but killed before it was told: as good as acknowledged


def survives(nursery: Nursery, state: Path, kills: int, seed: int) -> None:
    lives = Lives(nursery, state, seed)
    try:
        lives.play(kills)
    except DjinnError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    print(f"{kills} kills: {lives.acknowledged} acknowledged, {lives.cut_off} cut off, {lives.compared} compared")
    assert lives.compared == lives.acknowledged and lives.cut_off > kills / 2 and lives.acknowledged > kills / 2


def test_no_acknowledged_session_is_lost_in_twenty_kills(nursery, state):
    survives(nursery, state, kills=20, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(
    "DJINN_KILLS" not in os.environ, reason="500 kills: DJINN_KILLS=1 make test ARGS=tests/test_restart.py"
)
@pytest.mark.parametrize("seed", range(2, 12))
def test_no_acknowledged_session_is_lost_in_many_kills(nursery, state, seed):
    survives(nursery, state, kills=50, seed=seed)
