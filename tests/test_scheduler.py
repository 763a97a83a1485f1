"""Whose turn it is: sessions decoded together, long prefills cut between layers, and no bit of anybody's changed by it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from asking import submit

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused
from djinn.server.build import build_service
from djinn.server.server_main import parser


def started(*more: str) -> Iterator[Engine]:
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "512", "--threads", "1", *more])
    service, _, shut_down = build_service(args, "cpu", 150 * 10**6, 60 * 10**6, 0)
    yield service.engine
    shut_down()


@pytest.fixture(scope="module", params=["float32", "bfloat16", "bfloat16 ahead"])
def engine(request) -> Iterator[Engine]:
    dtype, _, ahead = request.param.partition(" ")
    for engine in started("--dtype", dtype):
        engine.scheduler.ahead = bool(ahead)  # as on a card
        yield engine


def prompts() -> list[tuple[int, ...]]:
    return [tuple((7 * i * i + 3 * k) % 509 for i in range(20 + 13 * k)) for k in range(11)]


def alone(engine: Engine, prompt: tuple[int, ...], new: int) -> Outcome:
    session = engine.open()
    out = submit(engine, session, ids=prompt, max_new_tokens=new).get()
    engine.close(session.key)
    return out


def shared_passes(engine: Engine) -> int:
    return sum(1 for span in engine.scheduler.timeline.spans() if span[4].get("rows", 0) > 1)


def test_sessions_decoded_together_have_the_bits_they_have_alone(engine):
    expected = [alone(engine, prompt, 12) for prompt in prompts()]
    before = shared_passes(engine)
    sessions = [engine.open() for _ in prompts()]
    replies = [submit(engine, s, ids=p, max_new_tokens=12) for s, p in zip(sessions, prompts(), strict=True)]
    for reply, same in zip(replies, expected, strict=True):
        out = reply.get()
        assert out.tokens == same.tokens
        assert torch.equal(out.logits, same.logits)
    assert shared_passes(engine) > before + 5, "nobody shared a pass"
    for session in sessions:
        engine.close(session.key)


def test_a_pause_in_decode_beside_others_changes_nobody(engine):
    prompt, *others = prompts()
    expected = alone(engine, prompt, 10)
    session, noise = engine.open(), [engine.open() for _ in others]
    noisy = [submit(engine, s, ids=p, max_new_tokens=60) for s, p in zip(noise, others, strict=True)]
    pause = submit(engine, session, ids=prompt, max_new_tokens=10, break_at=3, break_token=4).get()
    assert isinstance(pause, Paused)
    out = submit(engine, session, resume_from=session.pause, max_new_tokens=6).get()
    assert pause.tokens + out.tokens == expected.tokens
    assert torch.equal(out.logits, expected.logits)
    for reply in noisy:
        reply.get()
    for one in (session, *noise):
        engine.close(one.key)


def test_a_long_prefill_is_cut_between_layers_while_others_wait(engine, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "slice", 256)
    long = tuple((5 * i + 1) % 509 for i in range(400))
    expected = alone(engine, long, 4)
    short, session = engine.open(), engine.open()
    decoding = submit(engine, short, ids=prompts()[0], max_new_tokens=60)
    out = submit(engine, session, ids=long, max_new_tokens=4).get()
    decoding.get()
    spans = [s for s in engine.scheduler.timeline.spans() if s[1] == f"prefill {session.key[:8]}"]
    assert len(spans) == 8, "one layer at a time, as nobody may wait longer"
    assert out.tokens == expected.tokens
    assert torch.equal(out.logits, expected.logits)
    for one in (short, session):
        engine.close(one.key)


def test_a_session_that_decodes_beside_a_long_prefill_goes_on(engine, monkeypatch):
    """Between two slices of the prefill everybody who decodes has had a token."""
    monkeypatch.setattr(engine.scheduler, "slice", 256)
    sessions = [engine.open() for _ in range(3)]
    told: list[tuple[int, int]] = []
    replies = [
        submit(engine, s, ids=p, max_new_tokens=50, on_token=lambda index, token, k=k: told.append((k, index)))
        for k, (s, p) in enumerate(zip(sessions[:2], prompts(), strict=False))
    ]
    while len(told) < 4:
        time.sleep(0.001)
    submit(engine, sessions[2], ids=tuple(range(400))).get()
    before = len(told)
    assert before > 10, "they stood still while the prefill ran"
    for reply in replies:
        reply.get()
    for one in sessions:
        engine.close(one.key)


def test_not_deterministic_decodes_in_as_many_rows_as_there_are(prompt):
    for engine in started("--deterministic", "off", "--decode-rows", "4"):
        sessions = [engine.open() for _ in range(6)]
        replies = [submit(engine, s, ids=tuple(prompt), max_new_tokens=8) for s in sessions]
        assert len({tuple(reply.get().tokens) for reply in replies}) == 1
        rows = {span[4]["rows"] for span in engine.scheduler.timeline.spans() if "rows" in span[4]}
        assert rows and max(rows) <= 4


def test_resumed_from_the_same_layer_they_share_that_pass_too(engine, monkeypatch):
    """All stopped inside their first new token at one layer; asked for while the device is busy, they go on as one."""
    expected = [alone(engine, prompt, 5) for prompt in prompts()]
    sessions = [engine.open() for _ in prompts()]
    stop = {"max_new_tokens": 1, "break_at": 4, "break_token": 1}
    for session, prompt in zip(sessions, prompts(), strict=True):
        assert isinstance(submit(engine, session, ids=prompt, **stop).get(), Paused)
    engine.scheduler.timeline.spans().clear()
    began = time.monotonic_ns()
    busy = submit(engine, held := engine.open(), ids=tuple(range(500)), max_new_tokens=2)
    replies = [submit(engine, s, resume_from=s.pause, max_new_tokens=4) for s in sessions]
    for reply, session, same in zip(replies, sessions, expected, strict=True):
        out = reply.get()
        assert out.tokens == same.tokens[1:]
        assert torch.equal(out.logits, same.logits)
        engine.close(session.key)
    busy.get()
    engine.close(held.key)
    passes = [s for s in engine.scheduler.timeline.spans() if s[2] > began and s[4].get("layers") == "4..8"]
    assert len(passes) < len(sessions), "each of them ran alone"


def test_who_stands_at_another_layer_joins_those_who_go_through_all(engine):
    """In decode each stopped at a layer of its own, the last behind all of them; they go on with two that begin a pass."""
    expected = [alone(engine, prompt, 5) for prompt in prompts()]
    sessions, last = [engine.open() for _ in prompts()], engine.limits.depth
    layers = [None, 1, 3, 3, last - 1, last, None]
    for session, prompt, layer in zip(sessions, prompts(), layers, strict=False):
        stop = {"break_at": layer, "break_token": 1} if layer else {}
        submit(engine, session, ids=prompt, max_new_tokens=1, **stop).get()
    began = time.monotonic_ns()
    busy = submit(engine, held := engine.open(), ids=tuple(range(500)), max_new_tokens=2)
    replies = [submit(engine, s, resume_from=s.pause, max_new_tokens=4) for s, _ in zip(sessions, layers, strict=False)]
    for reply, same in zip(replies, expected, strict=False):
        out = reply.get()
        assert out.tokens == same.tokens[1:]
        assert torch.equal(out.logits, same.logits)
    busy.get()
    for session in (*sessions, held):
        engine.close(session.key)
    passes = [s for s in engine.scheduler.timeline.spans() if s[2] > began and s[1].startswith("decode")]
    assert len(passes) < 2 * len(layers), "they did not share their passes"
    assert not any(s[4]["layers"].startswith("3") for s in passes), "who stood at a layer had a pass without the others"


def test_nobody_waits_in_a_pass_for_one_that_is_on_its_way(engine):
    """While its keys and values are copied back the others decode without it; when nobody else is here it goes ahead."""
    expected = [alone(engine, prompt, 20) for prompt in prompts()[:2]]
    late, here = engine.open(), engine.open()
    told: list[str] = []

    def first(index: int, token: int) -> None:
        told.append("late")
        if index == 4:
            late.residence.resident.clear()  # as if the rest of it were still being copied
        if index == 19:
            late.residence.resident.set()  # its request ends when all of it is there

    def second(index: int, token: int) -> None:
        told.append("here")

    new = {"max_new_tokens": 20}
    replies = [
        submit(engine, session, ids=prompt, on_token=heard, **new)
        for session, prompt, heard in zip((late, here), prompts(), (first, second), strict=False)
    ]
    for reply, same in zip(replies, expected, strict=True):
        out = reply.get()
        assert out.tokens == same.tokens and torch.equal(out.logits, same.logits)
    cleared = [k for k, who in enumerate(told) if who == "late"][4]
    before = told[: cleared + 1].count("here")
    after = told[cleared + 1 :]
    if engine.scheduler.ahead:
        after.remove("late")  # of the pass that was under way
    assert after[: 20 - before] == ["here"] * (20 - before), "somebody waited for it, or it for nobody"
    assert before < 20
