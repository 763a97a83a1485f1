"""Every misuse is refused by a typed error that says what to do, and the session goes on to the bit as if nothing was."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from small_models import save_steep_llama

import djinn
from djinn.errors import (
    BadRequest,
    IllegalMove,
    NoSuchSession,
    NotFinite,
    ProtocolError,
)
from djinn.wire import messages as m

NEW = 6


@pytest.fixture(scope="module")
def undisturbed(server) -> djinn.Out:
    with djinn.connect(server.endpoint, timeout=60) as client:
        session = client.open()
        out = session.prefill([(7 * i * i + 3) % 509 for i in range(100)], max_new_tokens=NEW)
        session.close()
        return out


@pytest.fixture(autouse=True)
def accounts_balance(client):
    """Whatever was refused, no byte is left behind once the sessions are closed and their last copies have ended."""
    yield
    left = client.stats()["bytes"]
    assert left["device_bytes"] == left["host_bytes"] == 0, left
    until = time.monotonic() + 60
    while left["arena_free_bytes"] != left["arena_bytes"] // 256 * 256:  # a copy under way still reads what was freed
        assert time.monotonic() < until, left
        time.sleep(0.01)
        left = client.stats()["bytes"]


def same(tokens: list[int], out: djinn.Out, undisturbed: djinn.Out) -> bool:
    return tokens == undisturbed.tokens.tolist() and np.array_equal(out.logits, undisturbed.logits)


def rows(value: float = 0.5, dtype: type = np.float32, count: int = 100, hidden: int = 256) -> np.ndarray:
    return np.full((1, count, hidden), value, dtype=dtype)


COMPUTING = [  # refused whatever the session stands at, so long as it may compute
    ({"break_at": 0}, BadRequest, r"1\.\.8"),
    ({"break_at": 9}, BadRequest, r"1\.\.8"),
    ({"break_at": -1}, BadRequest, r"1\.\.8"),
    ({"break_at": "3"}, BadRequest, "break_at"),
    ({"break_at": 3.5}, BadRequest, "break_at"),
    ({"break_at": True}, BadRequest, "break_at"),
    ({"break_token": 1, "max_new_tokens": 2}, BadRequest, "give break_at"),
    ({"break_at": 3, "break_token": 0, "max_new_tokens": 2}, BadRequest, "max_new_tokens"),
    ({"break_at": 3, "break_token": 3, "max_new_tokens": 2}, BadRequest, "max_new_tokens"),
    ({"max_new_tokens": -1}, BadRequest, "0 or more"),
    ({"max_new_tokens": 157}, BadRequest, "256"),
    ({"max_new_tokens": None}, BadRequest, "max_new_tokens"),
    ({"logits": "some"}, BadRequest, "logits"),
    ({"stop_tokens": ["the"]}, BadRequest, "stop_tokens"),
    ({"sampling": djinn.Sampling(temperature=-0.1), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=float("nan")), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=float("inf")), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=1e-30), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature="hot"), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(top_k=0), "max_new_tokens": 1}, BadRequest, "top_k"),
    ({"sampling": djinn.Sampling(top_p=0.0), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(top_p=1.1), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(top_p=float("nan")), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(seed=-1), "max_new_tokens": 1}, BadRequest, "seed"),
    ({"sampling": djinn.Sampling(seed=2**64), "max_new_tokens": 1}, BadRequest, "wrong type"),
    ({"sampling": 0.7, "max_new_tokens": 1}, BadRequest, "sampling"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), COMPUTING, ids=lambda value: str(value)[:60])
def test_arguments_of_calls_that_compute(client, prompt, undisturbed, arguments, error, says):
    fresh, paused = client.open(), client.open()
    paused.prefill(prompt, break_at=2)
    for call in (lambda: fresh.prefill(prompt, **arguments), lambda: paused.resume(**arguments)):
        with pytest.raises(error, match=says):
            call()
    assert (fresh.state, paused.state) == ("idle", "paused")
    out = fresh.prefill(prompt, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    out = paused.resume(max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    for session in (fresh, paused):
        session.close()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s, p: s.prefill([512]), BadRequest, "vocabulary"),
        (lambda s, p: s.prefill([-1]), BadRequest, "vocabulary"),
        (lambda s, p: s.prefill([2**70]), BadRequest, "integers"),
        (lambda s, p: s.prefill([1.0, 2.0]), BadRequest, "integers"),
        (lambda s, p: s.prefill([True]), BadRequest, "integers"),
        (lambda s, p: s.prefill(["one"]), BadRequest, "integers"),
        (lambda s, p: s.prefill("one"), BadRequest, "integers"),
        (lambda s, p: s.prefill([[1], [2]]), BadRequest, "shape"),
        (lambda s, p: s.prefill([[1], [2, 3]]), BadRequest, "numpy"),
        (lambda s, p: s.prefill([]), BadRequest, "empty"),
        (lambda s, p: s.prefill(p * 3), BadRequest, "256"),
        (lambda s, p: s.prefill(p, max_new_tokens=157), BadRequest, "256"),
        (lambda s, p: s.prefill(p, break_at=2, checkpoint_at=[1]), BadRequest, "one of them"),
        (lambda s, p: s.prefill(p, checkpoint_at=[9]), BadRequest, r"1\.\.8"),
        (lambda s, p: s.prefill(p, checkpoint_at=3), BadRequest, "checkpoint_at"),
        (lambda s, p: s.resume(), IllegalMove, "prefill"),
        (lambda s, p: s.generate(max_new_tokens=1), IllegalMove, "prefill"),
        (lambda s, p: s.resume(edit=djinn.Scale(1.0)), IllegalMove, "prefill"),
        (lambda s, p: s.resume(3), BadRequest, "int"),
        (lambda s, p: s.park(durable=True), BadRequest, "--state-dir"),
        (lambda s, p: s.park(durable="yes"), BadRequest, "durable"),
    ],
)
def test_misuse_of_a_fresh_session(client, prompt, undisturbed, call, error, says):
    session = client.open()
    with pytest.raises(error, match=says):
        call(session, prompt)
    assert session.state == "idle"
    out = session.prefill(prompt, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    session.close()


AT_A_PAUSE = [
    (lambda s: s.prefill([1]), IllegalMove, "open"),
    (lambda s: s.resume(break_at=5), BadRequest, "has been passed"),
    (lambda s: s.resume(activation=rows(count=3)), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows(hidden=255)), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows()[0]), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows(1, np.int64)), BadRequest, "int64"),
    (lambda s: s.resume(activation=rows(1, np.bool_)), BadRequest, "bool"),
    (lambda s: s.resume(activation=rows(1, np.complex64)), BadRequest, "complex64"),
    (lambda s: s.resume(activation="h"), BadRequest, "<U1"),
    (lambda s: s.resume(activation=[[1.0], [1.0, 2.0]]), BadRequest, "numpy"),
    (lambda s: s.resume(activation=rows(np.nan)), BadRequest, "NaN"),
    (lambda s: s.resume(activation=rows(np.inf)), BadRequest, "infinite"),
    (lambda s: s.resume(activation=rows(1e300, np.float64)), BadRequest, "infinite"),
    (lambda s: s.resume(edit=djinn.Scale(1e39)), BadRequest, "float32"),
    (lambda s: s.resume(edit=[djinn.Scale(1e30), djinn.Scale(1e30)]), BadRequest, "float32"),
    (lambda s: s.resume(edit=djinn.Add([1e300] * 256)), BadRequest, "float32"),
    (lambda s: s.resume(edit=djinn.Scale(float("nan"))), BadRequest, "finite"),
    (lambda s: s.resume(edit=djinn.Set([float("inf")] * 256)), BadRequest, "finite"),
    (lambda s: s.resume(edit=djinn.Add([1.0])), BadRequest, "hidden size"),
    (lambda s: s.resume(edit=djinn.ProjectOut([0.0] * 256)), BadRequest, "zero length"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=(100,))), BadRequest, "position 100"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=(-101,))), BadRequest, "position -101"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=3)), BadRequest, "positions"),
    (lambda s: s.resume(edit=djinn.Scale("2")), BadRequest, "factor"),
    (lambda s: s.resume(edit=djinn.Add(["a"])), BadRequest, "vector"),
    (lambda s: s.resume(edit=djinn.Add(1.0)), BadRequest, "vector"),
    (lambda s: s.resume(edit="scale"), BadRequest, "edits"),
    (lambda s: s.resume(edit=djinn.Sampling()), BadRequest, "edits"),
]


@pytest.mark.parametrize("evicted", [False, True], ids=["on the device", "evicted"])
def test_misuse_of_a_paused_session(client, prompt, undisturbed, evicted):
    """All on one session, one after the other: it stands at its pause as before each time."""
    session = client.open()
    pause = session.prefill(prompt, break_at=5)
    h = pause.activation()
    for call, error, says in AT_A_PAUSE:
        if evicted:
            session.park()
        with pytest.raises(error, match=says):
            call(session)
        assert session.state in {"io_wait", "evicting", "host", "restoring", "paused"}  # a look brings it back
        assert np.array_equal(pause.activation(), h), says
    out = session.resume(pause, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    session.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_every_width_are_an_activation(client, prompt, dtype):
    session = client.open()
    session.prefill(prompt, break_at=5)
    assert session.resume(activation=rows(0.5, dtype)).logits.shape == (512,)
    session.close()


def test_a_refusal_on_the_compute_thread_keeps_accounts_and_sampling(client, prompt):
    """It comes when the request has its memory already: what was reserved for it goes back, its seed is not taken."""
    sampling = djinn.Sampling(seed=5)
    session = client.open()
    expected = session.prefill(prompt, max_new_tokens=NEW, sampling=sampling)
    session.close()
    session = client.open()
    session.prefill(prompt, break_at=3, sampling=sampling)
    before = client.stats()["bytes"]
    with pytest.raises(BadRequest, match="float32"):
        session.resume(edit=djinn.Scale(1e39), break_at=6, max_new_tokens=1, sampling=djinn.Sampling(seed=6))
    assert session.state == "paused"
    after = client.stats()["bytes"]
    assert {k: after[k] for k in ("device_bytes", "arena_free_bytes")} == {
        k: before[k] for k in ("device_bytes", "arena_free_bytes")
    }
    out = session.resume(max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, expected)
    session.close()


def test_a_rewind_that_is_refused_leaves_the_pause(client, prompt, undisturbed):
    session = client.open()
    checkpoints, _ = session.prefill(prompt, checkpoint_at=[3, 6])
    session.generate(max_new_tokens=NEW, break_at=4, break_token=2)
    with pytest.raises(BadRequest, match="float32"):
        session.resume(checkpoints[3], edit=djinn.Scale(1e39))
    assert session.state == "paused"
    out = session.resume(max_new_tokens=NEW - 2)
    assert same([*undisturbed.tokens[:2], *out.tokens], out, undisturbed)
    out = session.resume(checkpoints[6], max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    session.close()


def test_numbers_that_overflow_in_the_model_leave_a_session_that_can_be_rewound(tmp_path):
    save_steep_llama(tmp_path, gain=10.0)
    with (
        djinn.serve(str(tmp_path), dtype="float16", max_tokens=64, device_budget="20MB", host_budget="1MB") as server,
        djinn.connect(server.endpoint, timeout=60) as own,
    ):
        session = own.open()
        checkpoints, out = session.prefill([1, 2, 3], checkpoint_at=[1], max_new_tokens=3)
        with pytest.raises(NotFinite, match="rewind"):
            session.resume(checkpoints[1], edit=djinn.Set([65000.0] * 16), max_new_tokens=3)
        assert session.state == "idle"
        again = session.resume(checkpoints[1], max_new_tokens=3)
        assert same(again.tokens.tolist(), again, out)
        session.close()


def test_a_pause_that_is_over_is_refused(client, prompt, undisturbed):
    session = client.open()
    old = session.prefill(prompt, break_at=3)
    pause = session.resume(old, max_new_tokens=1, break_at=5, break_token=1)
    for call, error in [
        (lambda: session.resume(old), IllegalMove),
        (old.activation, BadRequest),
        (old.discard, BadRequest),
    ]:
        with pytest.raises(error, match="over"):
            call()
    out = session.resume(pause, max_new_tokens=NEW - 1)
    assert same([*pause.tokens, *out.tokens], out, undisturbed)
    with pytest.raises(IllegalMove, match="over"):
        session.resume(pause)
    with pytest.raises(BadRequest, match="not paused"):
        session.resume(edit=djinn.Scale(0.5))
    with pytest.raises(BadRequest, match="not paused"):
        session.resume(activation=rows(count=1))
    session.close()


def test_a_checkpoint_of_another_session(client, prompt, undisturbed):
    mine, other = client.open(), client.open()
    theirs, _ = other.prefill(prompt[::-1], checkpoint_at=[4])
    checkpoints, _ = mine.prefill(prompt, checkpoint_at=[4])
    assert theirs[4].name == checkpoints[4].name, "only the session tells them apart"
    pause = other.generate(max_new_tokens=1, break_at=2)
    for foreign in (theirs[4], pause):
        with pytest.raises(BadRequest, match="another session"):
            mine.resume(foreign)
    out = mine.resume(checkpoints[4], max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    for session in (mine, other):
        session.close()


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_nothing_can_be_asked_of_a_session_that_ended(client, prompt, end):
    session, other = client.open(), client.open()
    pause = session.prefill(prompt, break_at=3)
    getattr(session, end)()
    for call in (
        session.resume,
        lambda: session.resume(pause),
        lambda: session.prefill(prompt),
        lambda: session.generate(max_new_tokens=1),
        session.park,
        session.cancel,
        pause.activation,
        pause.discard,
    ):
        with pytest.raises(NoSuchSession, match=r"open\(\)"):
            call()
    session.close()  # twice does no harm
    assert pause.state == {"close": "done", "cancel": "cancelled"}[end]
    assert isinstance(other.prefill(prompt, break_at=3), djinn.Pause)
    other.close()


def test_a_session_at_work_is_left_alone(client, prompt):
    session = client.open()
    pending = session.prefill(prompt, max_new_tokens=100, wait=False)
    for call in (lambda: session.prefill(prompt), lambda: session.generate(max_new_tokens=1), session.park):
        with pytest.raises(IllegalMove, match=r"wait for its request|already"):
            call()
    assert len(pending.result().tokens) == 100
    session.close()


def test_a_request_of_a_foreign_client_is_refused_under_its_number(client):
    """Without the client's own check: the server's refusal must find the request it answers."""
    body = m.Resume(session="none", edits=(djinn.Scale(1.0),), sampling=djinn.Sampling(seed=1))
    number = client.connection.send(body)
    sender = {"client": "another", "token": client.token}
    wrong = msgspec.msgpack.encode({"id": number + 1, "body": {"op": "park", "session": 3}, "sender": sender})
    client.connection._unanswered[number + 1] = [wrong]
    client.connection._socket.send_multipart([wrong])
    client.connection.wait(lambda: len(client.connection._replies) == 2, 30)
    with pytest.raises(NoSuchSession):
        client.connection.take(number).raise_failure()
    with pytest.raises(ProtocolError, match="session"):
        client.connection.take(number + 1).raise_failure()
