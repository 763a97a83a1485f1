"""Durable sessions on real servers that are killed, drained and started again: every acknowledged one comes back to the bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sessions import check_nothing_is_left
from stands import NEW, PROMPT, STANDS, again, expected_of, same, turned

import djinn
from djinn.errors import BadRequest, Draining, IllegalMove, NoSuchSession, OutOfMemory, ServerGone, StateRefused


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
    check_nothing_is_left(client)  # when the last copies have ended
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
        with pytest.raises(IllegalMove, match="open"):
            back.session.prefill(PROMPT)


def test_a_pause_that_a_crash_has_lost_is_not_taken_for_a_later_one(nursery, state):
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        session = client.open()
        session.prefill(PROMPT, break_at=4)
        session.park(durable=True)
        lost = session.resume(break_at=6)
        server.end(signal.SIGKILL)
    with nursery.start("--state-dir", str(state)).connect() as client:
        back = again(client, session)
        later = back.resume(break_at=5)
        assert back.pause == later
        with pytest.raises(IllegalMove):
            back.resume(djinn.Pause(back, lost.name, lost.layer, lost.rows, lost.tokens))


def test_an_empty_session_is_parked_durably_again_and_again_and_can_still_begin(nursery, state):
    with nursery.start("--state-dir", str(state)).connect() as client:
        expected = expected_of(client, "idle", PROMPT)
        session = client.open()
        for _ in range(2):
            session.park(durable=True)
            assert session.state == "idle"
        STANDS["idle"].begin(session, PROMPT)
        assert same(STANDS["idle"].go_on(session), expected)
        session.close()


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
    server.end()
    server = nursery.start("--state-dir", str(state))
    with server.connect() as client:
        assert client.stats()["sessions"] == {}
        for what in ("header", "short", "logits", "empty"):
            with pytest.raises(StateRefused, match=r"damaged before, and is kept as .*corrupt"):
                again(client, sessions[what]).resume()


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
