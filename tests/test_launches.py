"""Passes are queued before earlier ones' results are read: on a device that gets there late, nobody is told too early, nobody's
bits change, and no more is queued than may be.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from asking import WAIT_S, submit, until

import djinn.server.build
from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Paused
from djinn.engine.side import Brought, Moment, Side
from djinn.errors import IllegalMove, ServerFault
from djinn.sampling import Sampling
from djinn.server.server_main import parser


class LateMoment(Moment):
    def __init__(self) -> None:
        self.came = threading.Event()
        self.at = 0

    def reached(self) -> bool:
        return self.came.is_set()

    def wait(self) -> None:
        self.came.wait()

    def ns(self) -> int:
        self.came.wait()
        return self.at


class LateSide(Side):
    """Gets to what was queued in its order, some time; a result is NaN before. `go`: cleared, it stands still."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.queued: queue.SimpleQueue = queue.SimpleQueue()
        self.behind = self.most_behind = 0  # results under way
        self.lock = threading.Lock()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            item = self.queued.get()
            time.sleep(random.random() ** 2 * 0.03)
            self.go.wait()
            if isinstance(item, LateMoment):
                item.at = time.monotonic_ns()
                item.came.set()
            else:
                late, logits, likeliest = item
                late.copy_(logits)
                likeliest.copy_(logits[:, -1].argmax(-1))
                with self.lock:
                    self.behind -= 1

    def moment(self) -> Moment:
        moment = LateMoment()
        self.queued.put(moment)
        return moment

    def bring(self, logits: torch.Tensor) -> Brought:
        late = torch.full_like(logits, torch.nan, dtype=torch.float32)
        likeliest = torch.zeros(len(logits), dtype=torch.int64)
        with self.lock:
            self.behind += 1
            self.most_behind = max(self.most_behind, self.behind)
        self.queued.put((late, logits.float().clone(), likeliest))
        return Brought(late, likeliest, logits[:, -1].argmax(-1))

    def fetch(self, brought: torch.Tensor) -> torch.Tensor:
        return brought.clone()


@pytest.fixture
def side(monkeypatch) -> LateSide:
    late = LateSide()
    monkeypatch.setattr(djinn.server.build, "side_of", lambda place: late)
    return late


@pytest.fixture(params=[False, True], ids=["behind", "ahead"])
def engine(side, request) -> Iterator[Engine]:
    args = parser().parse_args(["--model", "tiny-llama", "--port", "0", "--max-tokens", "512", "--threads", "1"])
    service, _, shut_down = djinn.server.build.build_service(args, "cpu", 150 * 10**6, 60 * 10**6, 0)
    service.engine.scheduler.ahead = request.param
    yield service.engine
    shut_down()


def noting(order: list[str], name: str, call: Callable) -> Callable:
    def noted(*args, **more):
        order.append(name)
        return call(*args, **more)

    return noted


def prompts() -> list[tuple[int, ...]]:
    return [tuple((7 * i * i + 3 * k) % 509 for i in range(20 + 13 * k)) for k in range(6)]


def test_many_at_once_have_the_bits_they_have_alone(engine, side, monkeypatch):
    alone, goes_ahead = [], engine.scheduler.ahead
    monkeypatch.setattr(engine.scheduler, "ahead", False)
    for prompt in prompts():
        alone.append(submit(engine, session := engine.open(), ids=prompt, max_new_tokens=6).get())
        engine.close(session.key)
    assert side.most_behind == 1
    monkeypatch.setattr(engine.scheduler, "ahead", goes_ahead)
    sessions = [engine.open() for _ in prompts()]
    pauses = [submit(engine, s, ids=p, break_at=3) for s, p in zip(sessions, prompts(), strict=True)]
    assert all(isinstance(pause.get(), Paused) for pause in pauses)
    outs = [submit(engine, s, resume_from=s.pause, max_new_tokens=6) for s in sessions]
    for out, same in zip(outs, alone, strict=True):
        found = out.get()
        assert found.tokens == same.tokens and torch.equal(found.logits, same.logits)
        stamps = found.stamps
        assert stamps["ready"] <= stamps["first_layer"] <= stamps["logits"] <= stamps["done"]
    assert 2 <= side.most_behind <= 3, "none was queued behind another, or more than a round's rows and one other"


def test_nobody_is_told_before_the_device_got_there(engine, side):
    prompt = prompts()[3]
    side.go.clear()
    session, other = engine.open(), engine.open()
    paused = submit(engine, session, ids=prompt, break_at=3)
    done = submit(engine, other, ids=prompt)
    with pytest.raises(queue.Empty):
        paused.get(timeout=0.3)
    assert done.empty() and session.pause is None
    side.go.set()
    assert isinstance(paused.get(), Paused)
    assert not done.get().logits.isnan().any()


def test_who_is_told_finds_all_his_passes_in_the_timeline(engine):
    """They are written there behind the next launch, where there is one."""
    others = [submit(engine, engine.open(), ids=prompt, max_new_tokens=40) for prompt in prompts()[:2]]
    session = engine.open()
    assert submit(engine, session, ids=prompts()[5], break_at=3).get()
    done = submit(engine, session, resume_from=session.pause, max_new_tokens=5)
    done.get()

    def passes():
        return [(name, about) for track, name, _, _, about in engine.scheduler.timeline.spans() if track == "compute"]

    spans = [about["layers"] for name, about in passes() if session.key[:8] in name]
    assert spans == ["0..3", "3..8"]
    for other in others:
        other.get()
    rows = sum(about["rows"] for name, about in passes() if name.startswith("decode"))
    assert rows == 2 * 39 + 4, "every token but the first, which its prompt's pass gave"


def test_slices_of_a_long_pass_do_not_overtake_single_tokens(engine, side, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "slice", 800)
    monkeypatch.setattr(engine.scheduler, "together", 800)
    order, executor = [], engine.scheduler.executor
    for name in ("run", "run_rows"):
        monkeypatch.setattr(executor, name, noting(order, name, getattr(executor, name)))
    decoding = submit(engine, engine.open(), ids=prompts()[0], max_new_tokens=30)
    until(lambda: "run_rows" in order)
    before = len(order)
    submit(engine, engine.open(), ids=tuple(range(400)), max_new_tokens=1).get()  # two layers of eight a slice
    assert isinstance(decoding.get(), Outcome)
    after = order[before:]
    assert after.count("run") == 4
    assert ("run", "run") not in itertools.pairwise(after), "a slice was queued on top of another"


def test_one_that_breaks_off_has_nothing_left_in_the_queue(engine, side, monkeypatch):
    """Its memory goes to others then, and what is queued would still write there."""
    run, left = engine.scheduler.executor.run, []

    def broken(*args, **more):
        run(*args, **more)
        left.append(side.moment())
        raise RuntimeError("made up")

    monkeypatch.setattr(engine.scheduler.executor, "run", broken)
    refused = submit(engine, engine.open(), ids=prompts()[4]).get()
    assert isinstance(refused, ServerFault) and "made up" in str(refused)
    assert left[0].reached()


def test_a_device_that_has_failed_is_told_to_everybody_who_asks(engine, side, monkeypatch):
    """As CUDA does it: the pass was queued well, and from then on every question about the device raises. The thread that computes
    goes on, or nobody would be answered any more."""
    sessions = [engine.open() for _ in range(2)]
    for session, prompt in zip(sessions, prompts(), strict=False):
        submit(engine, session, ids=prompt).get()
    run_rows = engine.scheduler.executor.run_rows

    def broken(*args) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    def fails(*args, **more):
        monkeypatch.setattr(side, "moment", broken)
        for what in ("reached", "wait", "ns"):
            monkeypatch.setattr(LateMoment, what, broken)
        return run_rows(*args, **more)

    monkeypatch.setattr(engine.scheduler.executor, "run_rows", fails)
    for session in sessions:
        refused = submit(engine, session, max_new_tokens=4).get(timeout=WAIT_S)
        assert isinstance(refused, ServerFault) and "device-side assert" in str(refused)
    assert not engine.busy()
    monkeypatch.undo()
    other = submit(engine, engine.open(), ids=prompts()[0], max_new_tokens=4).get(timeout=WAIT_S)
    assert isinstance(other, Outcome), "the round's defect was left behind"


def test_who_fails_in_a_round_has_nothing_left_in_the_queue(engine, side, monkeypatch):
    """A defect in the scheduler itself, with a pass under way: its memory goes to others when that is over."""
    session, left = engine.open(), []
    submit(engine, session, ids=prompts()[2]).get()
    run_ahead = engine.scheduler._run_ahead

    def broken() -> bool:
        if launches(engine):
            left.append(side.moment())
            raise ZeroDivisionError("made up")
        return run_ahead()

    monkeypatch.setattr(engine.scheduler, "ahead", True)
    monkeypatch.setattr(engine.scheduler, "_run_ahead", broken)
    refused = submit(engine, session, max_new_tokens=4).get(timeout=WAIT_S)
    assert isinstance(refused, ServerFault) and "made up" in str(refused)
    assert left[0].reached() and not launches(engine)


def launches(engine):
    return list(engine.scheduler._launches._queued)


def note_passes(engine, monkeypatch) -> list[tuple[int, bool]]:
    """From now on, of every pass over one token: how many share it, and whether it was queued ahead."""
    passes, run_rows = [], engine.scheduler.executor.run_rows

    def noted(caches, tokens, *more, counted=True, **named):
        passes.append((len(caches), isinstance(tokens, torch.Tensor) and not counted))
        return run_rows(caches, tokens, *more, counted=counted, **named)

    monkeypatch.setattr(engine.scheduler.executor, "run_rows", noted)
    return passes


def test_the_next_token_is_queued_before_the_last_one_is_known(engine, side, monkeypatch):
    passes = note_passes(engine, monkeypatch)
    session = engine.open()
    out = submit(engine, session, ids=prompts()[2], max_new_tokens=20).get()
    assert passes.count((1, True)) == (18 if engine.scheduler.ahead else 0), "of 19 passes all but the first"
    assert len(passes) == 19 and side.most_behind == (2 if engine.scheduler.ahead else 1)
    more = submit(engine, session, max_new_tokens=5).get()
    other = submit(engine, engine.open(), ids=prompts()[2], max_new_tokens=25).get()
    assert out.tokens + more.tokens == other.tokens and torch.equal(more.logits, other.logits)


def test_who_ends_first_holds_up_nobody_who_goes_on(engine, side, monkeypatch):
    """Three decode together, and one after the other has its last token: what the others want next does not wait for it."""
    asked = list(zip(prompts()[:3], (18, 6, 12), strict=True))
    alone = [submit(engine, engine.open(), ids=p, max_new_tokens=n).get() for p, n in asked]
    sessions = [engine.open() for _ in asked]
    for session, (prompt, _) in zip(sessions, asked, strict=True):
        submit(engine, session, ids=prompt, break_at=3).get()
    passes = note_passes(engine, monkeypatch)
    with engine.lock:  # all are let in at once
        outs = [
            submit(engine, s, resume_from=s.pause, max_new_tokens=n) for s, (_, n) in zip(sessions, asked, strict=True)
        ]
    for out, same in zip(outs, alone, strict=True):
        found = out.get()
        assert found.tokens == same.tokens and torch.equal(found.logits, same.logits)
    if engine.scheduler.ahead:
        assert {(3, True), (2, True), (1, True)} <= set(passes)
        assert sum(not ahead for _, ahead in passes) <= 4, passes


def test_who_waits_for_a_row_gets_one_before_it_is_known_how_the_last_ones_end(engine, side, monkeypatch):
    monkeypatch.setattr(engine.scheduler, "rows", 2)
    monkeypatch.setattr(engine.scheduler.turns, "rows", 2)
    sessions = [engine.open() for _ in range(4)]
    for session, prompt in zip(sessions, prompts(), strict=False):
        submit(engine, session, ids=prompt, max_new_tokens=1).get()
    side.go.clear()
    try:
        with engine.lock:
            outs = [submit(engine, session, max_new_tokens=1) for session in sessions]
        until(lambda: side.behind == 2)
    finally:
        side.go.set()
    assert all(isinstance(out.get(), Outcome) for out in outs)


@pytest.mark.parametrize("how", [{"stop_tokens": frozenset({600})}, {"sampling": Sampling(temperature=0.7, seed=3)}])
def test_nothing_is_queued_ahead_where_the_token_decides(engine, side, how):
    """600 is no token of this model: it never comes, and might."""
    assert submit(engine, engine.open(), ids=prompts()[2], max_new_tokens=12, **how).get()
    assert side.most_behind == 1


def test_who_is_cancelled_gives_its_memory_back_behind_what_was_queued_ahead(engine, side, monkeypatch):
    expected = submit(engine, engine.open(), ids=prompts()[1], max_new_tokens=40).get()
    release, seen = engine.pager.release, []

    def released(residence):
        under_way = [one for one in launches(engine) if any(t.work.session.residence is residence for t in one.tasks)]
        seen.append(all(one.end.reached() for one in under_way))
        release(residence)

    monkeypatch.setattr(engine.pager, "release", released)
    gone, stays = engine.open(), engine.open()
    cancelled = submit(engine, gone, ids=prompts()[0], max_new_tokens=300)
    other = submit(engine, stays, ids=prompts()[1], max_new_tokens=40)
    until(lambda: len(gone.ids) > len(prompts()[0]) + 5)
    engine.close(gone.key)
    assert isinstance(cancelled.get(), IllegalMove) and seen == [True]
    refill = submit(engine, engine.open(), ids=prompts()[5], max_new_tokens=3)  # where it was
    out = other.get()
    assert out.tokens == expected.tokens and torch.equal(out.logits, expected.logits)
    assert isinstance(refill.get(), Outcome)


def test_whose_result_cannot_be_read_gives_its_memory_back_behind_what_was_queued_ahead(engine, side, monkeypatch):
    release, fetch, seen, reads = engine.pager.release, side.fetch, [], itertools.count()

    def broken(brought):
        if next(reads) == 6:
            raise RuntimeError("made up")
        return fetch(brought)

    def released(residence):
        seen.append(all(one.end.reached() for one in launches(engine)))
        release(residence)

    monkeypatch.setattr(side, "fetch", broken)
    monkeypatch.setattr(engine.pager, "release", released)
    refused = submit(engine, engine.open(), ids=prompts()[0], max_new_tokens=30).get()
    assert isinstance(refused, ServerFault) and "made up" in str(refused) and seen == [True]
    assert isinstance(submit(engine, engine.open(), ids=prompts()[1], max_new_tokens=3).get(), Outcome)


def test_a_pause_in_decode_is_made_where_it_was_asked_for(engine):
    prompt = prompts()[3]
    expected = submit(engine, engine.open(), ids=prompt, max_new_tokens=12).get()
    session = engine.open()
    pause = submit(engine, session, ids=prompt, max_new_tokens=12, break_at=5, break_token=7).get()
    assert (
        pause.tokens == expected.tokens[:7] and session.cache.lengths == [len(prompt) + 7] * 5 + [len(prompt) + 6] * 3
    )
    out = submit(engine, session, resume_from=session.pause, max_new_tokens=5).get()
    assert pause.tokens + out.tokens == expected.tokens and torch.equal(out.logits, expected.logits)
