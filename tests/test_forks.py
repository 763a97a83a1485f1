"""A session that is forked: both stand where it stood, each goes on by itself, and nothing is copied before."""

from __future__ import annotations

import numpy as np
import pytest
from asking import ask, durably, quiet, small_engine
from sessions import NEW, check_nothing_is_left, edited_alone, wait_for
from stands import PROMPT, STANDS, expected_of, same, turned

import djinn
from djinn.errors import BadRequest, IllegalMove, NoSuchSession
from djinn.paging import saves
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Part, Residence, Saving
from djinn.states import Machine, State
from djinn.tiers.extents import Extents


@pytest.mark.parametrize("name", STANDS)
def test_both_go_on_to_the_bit_from_wherever_it_stands(client, name):
    expected = expected_of(client, name, PROMPT)
    session = client.open()
    STANDS[name].begin(session, PROMPT)
    forks = [session.fork() for _ in range(2)]
    forks.append(forks[0].fork())
    for one in (*forks, session):
        assert one.state == session.history()[0] and one.token_ids.tolist() == session.token_ids.tolist()
    for one in (forks[2], session, forks[0], forks[1]):
        assert same(STANDS[name].go_on(one), expected)
    for one in (*forks, session):
        one.close()
    check_nothing_is_left(client)


def test_nothing_is_copied_until_one_goes_on(client):
    session = client.open()
    session.prefill(PROMPT, break_at=4)
    before = client.stats()["bytes"]
    fork = session.fork()
    after = client.stats()["bytes"]
    live = before["device_bytes"]
    assert after["device_bytes"] == live and after["arena_free_bytes"] == before["arena_free_bytes"]
    assert after["shared_bytes"] == before["shared_bytes"] + live
    assert np.array_equal(fork.pause.activation(), session.pause.activation())
    fork.resume(max_new_tokens=1)
    assert client.stats()["bytes"]["shared_bytes"] == before["shared_bytes"]
    fork.close()
    session.close()
    check_nothing_is_left(client)


def test_of_one_pause_each_is_edited_by_itself(client):
    """The counterfactuals of one forward pass: as many as there are forks, each as a session of its own would give it."""
    edits = [djinn.Scale(0.5), djinn.Scale(1.5), djinn.Add([0.1] * client.server.hidden_size), ()]
    expected = [edited_alone(client, PROMPT, 3, edit, NEW) for edit in edits]
    session = client.open()
    session.prefill(PROMPT, break_at=3)
    forks = [session.fork() for _ in edits]
    session.close()  # the bytes are theirs still
    pendings = [fork.resume(edit=edit, max_new_tokens=NEW, wait=False) for fork, edit in zip(forks, edits, strict=True)]
    for pending, alone in zip(pendings, expected, strict=True):
        assert same(pending.result(), alone)
    assert len({tuple(alone.logits[:8]) for alone in expected}) == len(edits)
    for fork in forks:
        fork.close()
    check_nothing_is_left(client)


def test_more_forks_than_the_arena_holds_all_go_on(client):
    session = client.open()
    session.prefill(PROMPT, break_at=4)
    session.park()
    forks = [session.fork() for _ in range(12)]
    wait_for(session, "host")
    assert {fork.state for fork in forks} == {"host"}
    pauses = [fork.resume(max_new_tokens=3, break_at=5, break_token=2, wait=False) for fork in forks]
    assert all(pending.result().layer == 5 for pending in pauses)
    outs = [pending.result() for pending in [fork.resume(max_new_tokens=NEW, wait=False) for fork in forks]]
    session.resume(max_new_tokens=2)
    expected = session.generate(max_new_tokens=NEW)
    assert all(same(out, expected) for out in outs)
    for one in (*forks, session):
        one.close()
    check_nothing_is_left(client)


def test_a_pause_of_the_one_is_not_the_others(client):
    session = client.open()
    pause = session.prefill(PROMPT, break_at=4)
    fork = session.fork()
    with pytest.raises(BadRequest, match="another session"):
        fork.resume(pause)
    assert fork.resume(fork.pause).tokens.size == 0
    assert session.pause.name == pause.name, "it stands where it stood"
    fork.close()
    session.close()


def test_who_computes_or_is_over_is_not_forked_and_nobody_elses(client, server):
    session = client.open()
    pending = session.prefill(PROMPT, max_new_tokens=100, wait=False)
    with pytest.raises(IllegalMove, match="wait for its request to end"):
        session.fork()
    pending.result()
    with djinn.connect(server.endpoint) as other, pytest.raises(NoSuchSession):
        other.connection.ask(djinn.wire.messages.Fork(session=session.id))
    session.close()
    with pytest.raises(NoSuchSession):
        session.fork()


def test_an_empty_one_too(client):
    session = client.open()
    fork = session.fork()
    outs = [one.prefill(turned(3), max_new_tokens=NEW) for one in (session, fork)]
    assert same(*outs)
    session.close()
    fork.close()


def test_one_is_durable_while_the_other_only_stands_and_both_after_that(tmp_path, prompt):
    """Each has a file of its own, and comes back from it without the other."""
    with small_engine("--state-dir", str(tmp_path), disk=None) as engine:
        expected = ask(engine, engine.open(), ids=tuple(prompt), max_new_tokens=NEW)
        session = engine.open()
        ask(engine, session, ids=tuple(prompt), break_at=4)
        forks = [engine.fork(session) for _ in range(2)]
        for one in (session, forks[0]):
            durably(engine, one)
        assert forks[0].residence.body is session.residence.body and not forks[1].residence.saved
        assert ask(engine, forks[1], resume_from=forks[1].pause, max_new_tokens=NEW).tokens == expected.tokens
    with small_engine("--state-dir", str(tmp_path), disk=None) as engine:
        for key in (session.key, forks[0].key):
            one = engine.find(key, session.owner)
            out = ask(engine, one, resume_from=one.pause, max_new_tokens=NEW)
            assert out.tokens == expected.tokens and out.logits.equal(expected.logits)


def test_its_durable_file_alone_is_refused_by_name():
    with small_engine() as engine:
        session = engine.open()
        ask(engine, session, ids=tuple(PROMPT), break_at=4)
        session.residence.body.durable = True
        with pytest.raises(IllegalMove, match=r"durable file: read its activation or resume it"):
            engine.fork(session)
        session.residence.body.durable = False
        assert len(engine.sessions) == 1 and session.machine.state is State.PAUSED


@pytest.mark.parametrize("last", ["discards", "is closed", "goes on"])
def test_a_checkpoint_is_given_back_when_the_last_that_needs_it_does_not(last):
    with small_engine("--threads", "1") as engine:
        session = engine.open()
        ask(engine, session, ids=tuple(PROMPT), checkpoint_at=(2,))
        fork = engine.fork(session)
        (name,) = session.checkpoints
        engine.discard(session, name)
        quiet(engine)
        body = session.residence.body
        assert body.parts[name].live, "the fork may need it still"
        if last == "discards":
            engine.discard(fork, name)
        elif last == "is closed":
            engine.close(fork.key)
        else:
            ask(engine, fork, max_new_tokens=1)
            assert name in fork.residence.body.parts
        quiet(engine)
        assert name not in body.parts and session.residence.body is body


def test_what_all_have_discarded_stays_until_the_file_that_names_it_is_written():
    book = Ledger(Extents(4 * 256), Extents(4 * 256), 10**4)
    session, fork = Residence("session", Machine(State.IO_WAIT)), Residence("fork", Machine(State.IO_WAIT))
    book.open(session)
    for key in (0, "checkpoint"):
        session.body.parts[key] = Part(live=256, clean=256, issued=256, host=book.host.take_scattered(256))
    book.fork(session, fork)
    book.drop(session, "checkpoint")
    saving = Saving(session, 512, lambda pages, done: None, lambda problem: None)
    saves.ask(book, saving)
    book.drop(fork, "checkpoint")
    saves.begin(book, saving)
    assert not session.body.parts["checkpoint"].dropped
    saves.end(book, saving, written=True)
    assert list(session.body.parts) == [0] and not session.saved.current
