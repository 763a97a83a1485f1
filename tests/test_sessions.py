"""Sessions on a real server process: paused, evicted, resumed, rewound and grown, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from sessions import alone, check_nothing_is_left, wait_for

import djinn
from djinn.errors import BadRequest, IllegalMove, NoSuchSession, OutOfMemory


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


@pytest.mark.parametrize("new", [0, 6, 60])
def test_a_rewind_of_an_evicted_session(client, prompt, new):
    """Back to where it held fewer tokens too: what it holds now must fit all the same."""
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[3], max_new_tokens=60)
    session.park()
    wait_for(session, "host")
    again = session.resume(checkpoints[3], max_new_tokens=new)
    assert again.tokens.tolist() == out.tokens[:new].tolist()
    session.close()


def test_a_checkpoint_in_a_pass_over_one_token_goes_on_to_the_same_bits(client, prompt):
    """Kept in the rows in which every pass over one token runs, so that going on from it changes nothing."""
    session = client.open()
    checkpoints, out = session.prefill(prompt[:1], checkpoint_at=[3], max_new_tokens=4)
    again = session.resume(checkpoints[3], max_new_tokens=4)
    assert again.tokens.tolist() == out.tokens.tolist()
    assert np.array_equal(again.logits, out.logits)
    session.close()


def test_a_rewind_from_a_pause_gives_the_pause_up(client, prompt):
    session = client.open()
    checkpoints, _ = session.prefill(prompt, checkpoint_at=[3])
    before = client.stats()["bytes"]["device_bytes"]
    session.generate(max_new_tokens=4, break_at=5, break_token=2)
    session.resume(checkpoints[3])
    assert client.stats()["bytes"]["device_bytes"] == before, "the pause's hidden state was not given back"
    session.close()


def test_an_edited_rewind_overtakes_the_checkpoints_above_it(client, prompt):
    """Their layers below were computed anew from the edited state, so going on from them would mix two runs."""
    session = client.open()
    checkpoints, _ = session.prefill(prompt, checkpoint_at=[2, 5])
    session.resume(checkpoints[5], edit=djinn.Scale(0.5))
    session.resume(checkpoints[2])
    session.resume(checkpoints[5])
    session.resume(checkpoints[2], edit=djinn.Scale(0.5))
    with pytest.raises(IllegalMove, match="overtook"):
        session.resume(checkpoints[5])
    session.resume(checkpoints[2])
    session.close()


def test_a_checkpoint_above_a_pause_of_its_pass_waits_until_the_layers_between_have_run(client, prompt):
    """Their KV was given away with the rewind: going on from above used whatever lay there."""
    session, other = client.open(), client.open()
    checkpoints, _ = session.prefill(prompt, checkpoint_at=[2, 7])
    whole = session.resume(checkpoints[7], max_new_tokens=4)
    session.resume(checkpoints[2], break_at=4)
    session.park()
    other.prefill([7] * 200, max_new_tokens=1)
    with pytest.raises(IllegalMove, match="layers 5 to 7 have not run since"):
        session.resume(checkpoints[7], max_new_tokens=4)
    assert session.resume().logits.shape == whole.logits.shape
    again = session.resume(checkpoints[7], max_new_tokens=4)
    assert again.tokens.tolist() == whole.tokens.tolist() and np.array_equal(again.logits, whole.logits)
    session.resume(checkpoints[2], break_at=4)
    session.resume(edit=djinn.Scale(0.5))
    with pytest.raises(IllegalMove, match="overtook"):
        session.resume(checkpoints[7])
    session.resume(checkpoints[2])
    session.close()
    other.close()


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
    check_nothing_is_left(client)
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


def test_paused_again_higher_up_while_its_kv_comes_back(client, prompt):
    """A prefill pause goes on with its hidden state alone; the next request must not take the KV for complete."""
    expected = alone(client, prompt, 5)
    for _ in range(5):
        session = client.open()
        session.prefill(prompt, break_at=7)
        session.park()
        wait_for(session, "host")
        session.resume(break_at=8)
        assert session.resume(max_new_tokens=5).tokens.tolist() == expected.tokens.tolist()
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


def test_resume_of_an_idle_session_goes_on(client, prompt):
    once = alone(client, prompt, 8)
    session = client.open()
    tokens = session.prefill(prompt, max_new_tokens=3).tokens.tolist()
    tokens += session.resume(max_new_tokens=2).tokens.tolist()
    pause = session.resume(max_new_tokens=3, break_at=4, break_token=1)
    out = session.resume(max_new_tokens=2)
    assert [*tokens, *pause.tokens, *out.tokens] == once.tokens.tolist()
    assert np.array_equal(out.logits, once.logits)
    session.close()


def test_generate_from_a_pause_finishes_its_pass_and_takes_the_input(client, prompt):
    plain = client.open()
    plain.prefill(prompt)
    expected = plain.generate([5, 6, 7], max_new_tokens=4)
    session = client.open()
    session.prefill(prompt, break_at=4)
    pause = session.generate([5, 6, 7], max_new_tokens=4, break_at=2)
    assert (pause.rows, len(pause.tokens)) == (3, 0)
    out = session.generate(max_new_tokens=4)
    assert out.tokens.tolist() == expected.tokens.tolist()
    assert np.array_equal(out.logits, expected.logits)
    for one in (plain, session):
        one.close()


def test_a_break_without_a_pass_at_hand_is_in_the_first_new_token(client, prompt):
    session = client.open()
    session.prefill(prompt)
    pause = session.generate(max_new_tokens=2, break_at=4)
    assert (pause.rows, len(pause.tokens)) == (1, 1)
    session.close()


def test_logits_of_every_position_of_the_last_or_none(client, prompt):
    last = alone(client, prompt, 0)
    session = client.open()
    every = session.prefill(prompt, logits="all").logits
    assert every.shape == (100, 512)
    assert np.allclose(every[-1], last.logits, atol=1e-4)  # the head over 100 rows adds up in another order
    assert session.resume(logits="all").logits.shape == (0, 512)
    assert session.resume(max_new_tokens=3, logits="all").logits.shape == (2, 512)
    assert session.resume(logits="none").logits is None
    session.close()


def test_a_checkpoint_that_is_discarded_gives_its_memory_back(client, prompt):
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[3, 5])
    before = client.stats()["bytes"]
    checkpoints[3].discard()
    after = client.stats()["bytes"]
    one = 100 * 256 * 4
    assert before["device_bytes"] - after["device_bytes"] == one
    assert after["arena_free_bytes"] - before["arena_free_bytes"] >= one
    for call in (checkpoints[3].discard, checkpoints[3].activation):
        with pytest.raises(BadRequest, match="discarded"):
            call()
    with pytest.raises(IllegalMove, match="discarded"):
        session.resume(checkpoints[3])
    pause = session.generate(max_new_tokens=1, break_at=4)
    with pytest.raises(BadRequest, match="stands at this pause"):
        pause.discard()
    assert np.array_equal(session.resume(checkpoints[5]).logits, out.logits)
    session.close()


def test_a_checkpoint_discarded_while_it_is_evicted_leaves_the_rest_whole(client, prompt):
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[3, 5])
    full = client.stats()["bytes"]["device_bytes"]
    session.park()
    wait_for(session, "host")
    checkpoints[3].discard()
    with pytest.raises(IllegalMove, match="discarded"):
        session.resume(checkpoints[3])
    assert np.array_equal(session.resume(checkpoints[5]).logits, out.logits)
    assert full - client.stats()["bytes"]["device_bytes"] == 100 * 256 * 4
    session.close()
    after = client.stats()["bytes"]
    assert after["device_bytes"] == after["host_bytes"] == 0


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
