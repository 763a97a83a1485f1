"""The client against a real server process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import zmq

import djinn
from djinn.errors import BadRequest, IllegalMove, NoSuchSession, NotYet, OutOfMemory, ServerGone


def wait_for(session: djinn.Session, state: str) -> None:
    for _ in range(500):
        if session.state == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"still {session.state}, expected {state}")


def alone(client: djinn.Client, prompt: list[int], new: int) -> djinn.Out:
    session = client.open()
    out = session.prefill(prompt, max_new_tokens=new)
    session.close()
    return out


@pytest.mark.parametrize("layer", [1, 4, 8])
def test_paused_evicted_resumed_is_bit_equal_to_uninterrupted(client, prompt, layer):
    expected = alone(client, prompt, 12)
    session = client.open()
    pause = session.prefill(prompt, break_at=layer)
    assert (pause.state, pause.layer, pause.rows) == ("paused", layer, 100)
    session.park()
    wait_for(session, "host")
    pause = session.resume(max_new_tokens=2, break_at=layer, break_token=2)
    assert pause.rows == 1
    session.park()
    wait_for(session, "host")
    out = session.resume(max_new_tokens=10)
    assert np.concatenate([pause.tokens, out.tokens]).tolist() == expected.tokens.tolist()
    assert np.array_equal(out.logits, expected.logits)
    names = [state for state, _ in session.history()[1]]
    assert names.count("host") == 2 and names.count("restoring") == 2
    session.close()


def test_an_unedited_round_trip_changes_nothing_and_an_edit_does(client, prompt):
    expected = alone(client, prompt, 0)
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[2, 5])
    assert np.array_equal(out.logits, expected.logits)
    h = checkpoints[5].activation()
    assert h.shape == (1, 100, 256) and h.dtype == np.float32
    assert np.array_equal(session.resume(checkpoints[5], activation=h).logits, expected.logits)
    assert np.array_equal(session.resume(checkpoints[2], edit=djinn.Scale(1.0)).logits, expected.logits)
    edited = session.resume(checkpoints[5], edit=djinn.Scale(0.5))
    assert not np.array_equal(edited.logits, expected.logits)
    assert np.array_equal(session.resume(checkpoints[5], activation=h * 0.5).logits, edited.logits)
    session.close()


def test_a_rewind_of_an_evicted_session(client, prompt):
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[3], max_new_tokens=6)
    session.park()
    wait_for(session, "host")
    again = session.resume(checkpoints[3], max_new_tokens=6)
    assert again.tokens.tolist() == out.tokens.tolist()
    session.close()


def test_more_sessions_than_the_arena_holds_all_come_back(client, prompt):
    prompts = [prompt[i:] + prompt[:i] for i in range(14)]
    expected = [alone(client, p, 5) for p in prompts]
    sessions = [client.open() for _ in prompts]
    pending = [s.prefill(p, break_at=4, wait=False) for s, p in zip(sessions, prompts, strict=True)]
    assert all(isinstance(p.result(), djinn.Pause) for p in pending)
    held = client.stats()
    assert held["bytes"]["host_bytes"] > 0
    outs = [s.resume(max_new_tokens=5, wait=False) for s in sessions]
    for pending, alike in zip(outs, expected, strict=True):
        out = pending.result()
        assert out.tokens.tolist() == alike.tokens.tolist()
        assert np.array_equal(out.logits, alike.logits)
    for session in sessions:
        session.close()
    after = client.stats()["bytes"]
    assert after["arena_free_bytes"] == after["arena_bytes"] // 256 * 256
    assert after["host_free_bytes"] == after["host_budget_bytes"] // 256 * 256
    assert after["device_bytes"] == after["host_bytes"] == 0


def test_all_resumed_at_once_while_each_must_grow(client, prompt):
    """Every session is waited for and none has its new place yet: somebody must step aside all the same."""
    short = prompt[:60]
    expected = alone(client, short, 50)
    sessions = [client.open() for _ in range(9)]
    for session in sessions:
        session.prefill(short, break_at=4)
    outs = [session.resume(max_new_tokens=50, wait=False) for session in sessions]
    for out in outs:
        assert out.result(timeout=60).tokens.tolist() == expected.tokens.tolist()
    for session in sessions:
        session.close()


def test_turns_go_on_where_the_last_one_ended(client, prompt):
    once = alone(client, prompt, 8)
    session = client.open()
    first = session.prefill(prompt, max_new_tokens=3)
    rest = session.generate(max_new_tokens=5)
    assert [*first.tokens, *rest.tokens] == once.tokens.tolist()
    pause = session.generate([5, 6, 7], max_new_tokens=4, break_at=6, break_token=3)
    assert len(pause.tokens) == 3
    assert len(session.resume(max_new_tokens=1).tokens) == 1
    session.close()


def test_growth_moves_a_session_and_keeps_its_bits(client, prompt):
    once = alone(client, prompt[:20], 100)
    session = client.open()
    tokens = session.prefill(prompt[:20], max_new_tokens=5).tokens.tolist()
    while len(tokens) < 100:
        tokens += session.generate(max_new_tokens=19).tokens.tolist()
    assert tokens == once.tokens.tolist()
    session.close()


def test_stamps_are_in_order(client, prompt):
    session = client.open()
    session.prefill(prompt, break_at=4)
    session.park()
    wait_for(session, "host")
    s = session.resume().stamps
    assert (
        s["client_called"]
        <= s["accepted"]
        <= s["ready"]
        <= s["first_layer"]
        <= s["logits"]
        <= s["done"]
        <= s["client_received"]
    )
    assert s["accepted"] <= s["resident"] <= s["done"]
    session.close()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s, p: s.prefill(p, break_at=0), BadRequest, r"1\.\.8"),
        (lambda s, p: s.prefill(p, break_at=9), BadRequest, r"1\.\.8"),
        (lambda s, p: s.prefill(p, break_at=2, checkpoint_at=[1]), BadRequest, "one of them"),
        (lambda s, p: s.prefill([512]), BadRequest, "vocabulary"),
        (lambda s, p: s.prefill([]), BadRequest, "empty"),
        (lambda s, p: s.prefill([[1], [2]]), BadRequest, "shape"),
        (lambda s, p: s.prefill(p * 3), BadRequest, "256"),
        (lambda s, p: s.prefill(p, max_new_tokens=-1), BadRequest, "0 or more"),
        (lambda s, p: s.resume(), IllegalMove, "not paused"),
        (lambda s, p: s.park(durable=True), NotYet, "not built yet"),
    ],
)
def test_misuse_says_what_to_do_and_the_session_survives(client, prompt, call, error, says):
    session = client.open()
    with pytest.raises(error, match=says):
        call(session, prompt)
    assert isinstance(session.prefill(prompt, break_at=3), djinn.Pause)
    session.close()


def test_a_pause_that_is_over_is_refused(client, prompt):
    session = client.open()
    old = session.prefill(prompt, break_at=3)
    session.resume(old, max_new_tokens=1, break_at=5, break_token=1)
    with pytest.raises(IllegalMove, match="over"):
        session.resume(old)
    with pytest.raises(BadRequest, match="over"):
        old.activation()
    session.resume()
    session.close()


def test_misuse_of_a_paused_session(client, prompt):
    session = client.open()
    session.prefill(prompt, break_at=5)
    for call, error, says in [
        (lambda: session.prefill(prompt), IllegalMove, "open"),
        (lambda: session.generate(max_new_tokens=1), IllegalMove, "resume"),
        (lambda: session.resume(break_at=5), BadRequest, "has been passed"),
        (lambda: session.resume(activation=np.zeros((1, 3, 256))), BadRequest, "expected"),
        (lambda: session.resume(activation=np.full((1, 100, 256), np.nan)), BadRequest, "NaN"),
        (lambda: session.resume(edit=djinn.Add([1.0])), BadRequest, "hidden size"),
    ]:
        with pytest.raises(error, match=says):
            call()
    session.resume()
    session.close()
    with pytest.raises(NoSuchSession):
        session.resume()


def test_when_everything_is_full_one_request_is_refused_and_the_rest_live(client, prompt):
    sessions = []
    with pytest.raises(OutOfMemory, match="host pool"):
        for _ in range(200):
            sessions.append(client.open())
            sessions[-1].prefill(prompt + prompt, break_at=8)
    refused = sessions.pop()
    assert refused.state == "idle"
    sessions.pop().close()
    assert isinstance(refused.prefill(prompt, break_at=8), djinn.Pause)
    assert len(sessions[0].resume(max_new_tokens=1).tokens) == 1
    for session in [*sessions, refused]:
        session.close()


def test_cancelled_while_queued(client, prompt):
    session = client.open()
    pending = session.prefill(prompt, max_new_tokens=100, wait=False)
    session.cancel()
    with pytest.raises((IllegalMove, NoSuchSession)):
        pending.result()
        session.resume()


def test_garbage_is_answered_with_a_typed_failure(server):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(server.endpoint)
    for frames in ([b"\x00garbage"], [b"", b"", b""]):
        socket.send_multipart(frames)
        assert socket.poll(5000), "no answer"
        assert b"protocol" in socket.recv_multipart()[0]
    socket.close()


def own_server() -> djinn.LocalServer:
    return djinn.serve("tiny-llama", threads=1, device_budget="60MB", host_budget="10MB", max_tokens=256)


def test_a_dead_server_is_noticed():
    with own_server() as server, djinn.connect(server.endpoint) as client:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerGone):
            client.stats()


def test_a_server_dies_with_its_parent():
    code = """
import djinn, time
server = djinn.serve("tiny-llama", device_budget="60MB", host_budget="10MB", max_tokens=256)
print(server.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    raise AssertionError("the server outlived its parent")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "0"], "--device cpu"),
        (["--model", "tiny-llama", "--device-budget", "22MB"], "--device-budget"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--host", "0.0.0.0"], "loopback"),
        (["--device-budget", "lots"], "750MB"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments, says):
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-m", "djinn.server.server_main", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert says in done.stderr
