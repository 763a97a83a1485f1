"""Requests that could be, but not of this session now, or not with these numbers: refused, and it goes on as if nothing was."""

from __future__ import annotations

import numpy as np
import pytest
from sessions import NEW, same
from small_models import save_steep_llama

import djinn
from djinn.errors import BadRequest, IllegalMove, NoSuchSession, NotFinite

pytestmark = pytest.mark.usefixtures("accounts_balance")


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
        session.resume(activation=np.zeros((1, 1, 256), np.float32))
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
