"""Prompts that share a first pass: each stops, goes on and ends with the bits of its own pass."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

import pytest
import torch
from asking import submit
from small_llama import DEPTH, build, fresh

import djinn.server.build
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused
from djinn.model.alike import alike
from djinn.model.executor import Executor, Finished
from djinn.model.loop import Loop
from djinn.server.server_main import parser

LENGTHS, ROWS = (40, 23, 2), 72  # tokens of the prompts, and rows of every pass: as many alone as together
DRAWN = torch.Generator().manual_seed(2)
IDS = [torch.randint(3, 97, (1, tokens), generator=DRAWN) for tokens in LENGTHS]


def padded() -> Loop:
    loop = Loop(build(), rows=4, max_tokens=ROWS)
    loop.first.least = ROWS
    return loop


@pytest.mark.parametrize("layer", [1, 5, DEPTH])
def test_a_shared_pass_stops_and_goes_on_with_the_bits_of_ones_own(layer):
    loop = padded()
    alone = [loop.run(fresh(loop.reentry), ids, 0).logits for ids in IDS]
    caches, began = [fresh(loop.reentry) for _ in IDS], []
    stopped = loop.run_prompts(caches, IDS, stop=layer, on_first=lambda: began.append(0))
    for cache, one, tokens in zip(caches, stopped, LENGTHS, strict=True):
        assert one.layer == layer and one.hidden.shape[1] == tokens
        assert cache.lengths == [tokens] * layer + [0] * (DEPTH - layer)
        assert all(bool(above.slab.isnan().all()) for above in cache.layers[layer:])
    # two of them go on as one, the third by itself
    hidden = [one.hidden.clone() for one in stopped]
    two = loop.run_prompts(caches[:2], IDS[:2], start=layer, hidden=hidden[:2], on_first=lambda: began.append(layer))
    third = loop.run(caches[2], IDS[2], 0, start=layer, hidden=hidden[2])
    assert isinstance(two, Finished) and began == [0, layer]
    for found, expected in zip([*two.logits.split(1), third.logits], alone, strict=True):
        assert torch.equal(found, expected)


def test_stopped_behind_the_last_layer_all_of_them_share_what_is_left():
    """A row of logits each, and no product of all their tokens: not even a copy of them."""
    loop = padded()
    alone = [loop.run(fresh(loop.reentry), ids, 0).logits for ids in IDS]
    caches, began = [fresh(loop.reentry) for _ in IDS], []
    stopped = loop.run_prompts(caches, IDS, stop=DEPTH)
    every = loop.run(caches[0], IDS[0], 0, start=DEPTH, hidden=stopped[0].hidden, all_logits=True)
    assert torch.equal(every.logits, loop.run(fresh(loop.reentry), IDS[0], 0, all_logits=True).logits)
    states = [one.hidden.clone() for one in stopped]
    for state in states:
        state[:, :-1] = float("nan")
    unread = [torch.full_like(ids, -1) for ids in IDS]
    found = loop.run_prompts(caches, unread, start=DEPTH, hidden=states, on_first=lambda: began.append(DEPTH))
    assert began == [DEPTH]
    for one, expected in zip(found.logits, alone, strict=True):
        assert torch.equal(one, expected[0])


def test_keys_and_values_are_those_of_ones_own_pass():
    loop = padded()
    caches, own = [fresh(loop.reentry) for _ in IDS], [fresh(loop.reentry) for _ in IDS]
    loop.run_prompts(caches, IDS)
    for cache, ids, mine in zip(caches, IDS, own, strict=True):
        loop.run(mine, ids, 0)
        for layer, same in zip(cache.layers, mine.layers, strict=True):
            assert torch.equal(layer.slab[: layer.length], same.slab[: same.length])


def test_alike_finds_a_row_that_its_number_changes():
    first = padded().first

    def project(hidden, norm, weight, eps):
        found = first._project(hidden, norm, weight, eps)
        return found + 1e-3 if len(hidden) > 100 else found

    halves = (first._after, first.layers[0], first.shape)
    assert alike(project, *halves, few=50, many=50)
    assert not alike(project, *halves, few=50, many=120)


@pytest.fixture
def engine(monkeypatch) -> Iterator[Engine]:
    """A server that a CPU does not have: its first passes are our own loop's, of as many rows whoever shares them."""

    def drive(model, rows, max_tokens, prefill_tokens, without):
        loop = Loop(Executor(model), rows, max_tokens, prefill_tokens)
        loop.first.least = max_tokens
        return loop, rows

    monkeypatch.setattr(djinn.server.build, "drive", drive)
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "256", "--threads", "1"])
    service, _, shut_down = djinn.server.build.build_service(args, "cpu", 150 * 10**6, 60 * 10**6, 0)
    yield service.engine
    shut_down()


def prompts() -> list[tuple[int, ...]]:
    return [tuple((7 * i * i + 3 * k) % 509 for i in range(20 + 7 * k)) for k in range(6)]


def at_once(engine: Engine, **what: object) -> list[queue.SimpleQueue]:
    """All prompts asked for while the device has something else to do."""
    busy = submit(engine, engine.open(), ids=tuple(range(250)), logits="all")
    replies = [submit(engine, engine.open(), ids=prompt, **what) for prompt in prompts()]
    busy.get()
    return replies


def shared(engine: Engine) -> list[str]:
    return [span[1] for span in engine.scheduler.timeline.spans() if "prompts" in span[1]]


def test_sessions_that_share_have_the_bits_they_have_alone(engine):
    alone = [submit(engine, engine.open(), ids=prompt, max_new_tokens=4).get() for prompt in prompts()]
    assert not shared(engine)
    for reply, expected in zip(at_once(engine, max_new_tokens=4), alone, strict=True):
        found = reply.get()
        assert found.tokens == expected.tokens and torch.equal(found.logits, expected.logits)
    assert shared(engine), "nobody shared a pass"


def test_paused_together_they_go_on_together_and_apart(engine):
    alone = [submit(engine, engine.open(), ids=prompt, max_new_tokens=4).get() for prompt in prompts()]
    sessions = [engine.open() for _ in prompts()]
    busy = submit(engine, engine.open(), ids=tuple(range(250)), logits="all")
    paused = [submit(engine, s, ids=p, break_at=3) for s, p in zip(sessions, prompts(), strict=True)]
    assert all(isinstance(reply.get(), Paused) for reply in [*paused])
    busy.get()
    assert shared(engine)
    outs = [submit(engine, s, resume_from=s.pause, max_new_tokens=4).get() for s in sessions[:1]]
    outs += [reply.get() for reply in [submit(engine, s, resume_from=s.pause, max_new_tokens=4) for s in sessions[1:]]]
    for found, expected in zip(outs, alone, strict=True):
        assert found.tokens == expected.tokens and torch.equal(found.logits, expected.logits)


def test_ended_behind_the_last_layer_more_go_on_together_than_share_a_prompts_pass(engine, monkeypatch):
    alone = [submit(engine, engine.open(), ids=prompt, max_new_tokens=4).get() for prompt in prompts()]
    sessions = [engine.open() for _ in prompts()]
    depth = engine.scheduler.executor.depth
    for session, prompt in zip(sessions, prompts(), strict=True):
        assert isinstance(submit(engine, session, ids=prompt, break_at=depth).get(), Paused)
    monkeypatch.setattr(engine.scheduler.executor, "together", 20)  # less than two of the prompts
    busy = submit(engine, engine.open(), ids=tuple(range(250)), logits="all")
    replies = [submit(engine, s, resume_from=s.pause, max_new_tokens=4) for s in sessions]
    busy.get()
    for reply, expected in zip(replies, alone, strict=True):
        found = reply.get()
        assert found.tokens == expected.tokens and torch.equal(found.logits, expected.logits)
    assert shared(engine), "each had a pass of its own"


def test_what_needs_a_pass_of_its_own_has_one(engine, monkeypatch):
    """Logits of every token, checkpoints on the way, other layers, or numbers of rows that are not alike."""
    told = at_once(engine, logits="all") + at_once(engine, checkpoint_at=(2,), checkpoint_names={2: "c"})
    for layer, prompt in enumerate(prompts(), 1):
        told.append(submit(engine, engine.open(), ids=prompt, break_at=layer))
    assert all(isinstance(reply.get(), Paused | Outcome) for reply in told)
    monkeypatch.setattr(engine.scheduler.executor, "alike", lambda tokens: False)
    assert all(isinstance(reply.get(), Outcome) for reply in at_once(engine))
    assert not shared(engine)


def test_a_shared_pass_is_cut_for_single_tokens_and_goes_on(engine, monkeypatch):
    alone = [submit(engine, engine.open(), ids=prompt).get() for prompt in prompts()]
    monkeypatch.setattr(engine.scheduler, "slice", 600)
    decoding = submit(engine, engine.open(), ids=prompts()[0], max_new_tokens=100)
    time.sleep(0.05)
    for reply, expected in zip(at_once(engine), alone, strict=True):
        assert torch.equal(reply.get().logits, expected.logits)
    decoding.get()
    assert len(shared(engine)) > 1
