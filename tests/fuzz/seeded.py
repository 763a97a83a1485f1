"""Bugs put in on purpose, one at a time, into the real code: what the fuzzer must find, and by which check."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import numpy as np

from djinn.engine import checks, compute, engine, runner
from djinn.paging.pager import Pager
from djinn.server import dispatch, replies
from djinn.wire import frames
from djinn.wire import messages as m
from fuzz.house import inside
from fuzz.run import Fuzzer, Report

SHORT = 2000  # exchanges
REMEMBERED = 81_920  # bytes of each refusal, by the bug that remembers them


@dataclass(frozen=True)
class Bug:
    """about: in words. by: the checks of which one finds it. put_in(): a context in which the code has it.

    impatient: what the fuzzer waits for in vain, and for how long here.
    """

    about: str
    by: set[str]
    put_in: Callable[[], Any]
    impatient: dict[str, float] = field(default_factory=dict)


def _changed(where: Any, name: str, made: Callable[[Callable], Callable]) -> Callable[[], Any]:
    return lambda: mock.patch.object(where, name, made(getattr(where, name)))


def _no_owner_check(find: Callable) -> Callable:
    def found(self: engine.Engine, key: str, owner: str = "") -> Any:
        session = self.sessions.get(key)
        return session if session is not None else find(self, key, owner)

    return found


def _memory_first(array: Callable) -> Callable:
    def made(spec: Any, frame: Any) -> np.ndarray:
        if 0 < (size := math.prod(spec.shape)) < 2**29:
            np.ones(size, np.float32)  # made before the frame is held against its header
        return array(spec, frame)

    return made


def _nothing(_: Callable) -> Callable:
    return lambda *args, **more: None


def _carried_out_again(begin: Callable) -> Callable:
    def begun(self: replies.Replies, owner: str, envelope: Any, body: Any, peer: bytes) -> Any:
        asker = self._askers.get((owner, envelope.sender.client))
        if asker and (call := asker.calls.get(envelope.id)) and call.over and not isinstance(body, m.Reads):
            self._drop(asker.calls.pop(envelope.id))
            asker.settled = min(asker.settled, envelope.id - 1)
        return begin(self, owner, envelope, body, peer)

    return begun


def _any_token(check: Callable) -> Callable:
    return lambda session, work, limits: check(session, work, replace(limits, vocabulary=2**64))


def _edited_in_place(edited: Callable) -> Callable:
    def done(hidden: Any, edits: Any) -> Any:
        if edits:
            hidden.mul_(0.5)  # and then, where the edit is refused, left so
        return edited(hidden, edits)

    return done


def _refusals_unsaid(refuse: Callable) -> Callable:
    def refused(self: Any, peer: bytes, number: int, call: Any, reason: m.Failure) -> None:
        if reason.code != "limit_reached":
            refuse(self, peer, number, call, reason)

    return refused


def _said_twice(finish: Callable) -> Callable:
    def finished(self: replies.Replies, call: Any, body: Any, arrays: Any = ()) -> None:
        finish(self, call, body, arrays)
        if isinstance(body, m.Failure):
            call.over = False
            self._under_way[call.owner] += 1
            call.asker.calls[call.number] = call
            finish(self, call, body, arrays)

    return finished


def _remembered_for_ever(failure: Callable) -> Callable:
    remembered = []

    def failed(error: Any) -> m.Failure:
        pages = mmap.mmap(-1, REMEMBERED)  # of the kernel: what other tests have freed here would hide it
        pages.write(bytes(REMEMBERED))
        remembered.append(pages)
        return failure(error)

    return failed


def _forgets_the_cancelled(release: Callable) -> Callable:
    def released(self: Pager, residence: Any) -> None:
        if residence.machine.state != "cancelled":  # which gives nothing back
            release(self, residence)

    return released


BUGS = (
    Bug("the owner of a session is not asked for", {"lawful answer"}, _changed(engine.Engine, "find", _no_owner_check)),
    Bug(
        "memory is taken before a frame is held against its header",
        {"memory peak"},
        _changed(frames, "_array", _memory_first),
    ),
    Bug(
        "what was reserved for a refused request is kept",
        {"reserved"},
        _changed(compute, "give_back", _nothing),
        {"settle_s": 2.0},
    ),
    Bug(
        "a cancelled session's memory is not given back",
        {"accounts"},
        _changed(Pager, "release", _forgets_the_cancelled),
        {"settle_s": 2.0},
    ),
    Bug(
        "a repeated number is carried out again",
        {"done once", "lawful answer"},
        _changed(replies.Replies, "begin", _carried_out_again),
    ),
    Bug(
        "token ids are not held against the vocabulary", {"typed error"}, _changed(checks, "_check_tokens", _any_token)
    ),
    Bug(
        "a refused edit has changed the state",
        {"the honest are undisturbed"},
        _changed(runner, "edited", _edited_in_place),
    ),
    Bug(
        "a limit refuses without a word",
        {"answered at all"},
        _changed(dispatch.Dispatcher, "_refuse", _refusals_unsaid),
        {"wait_s": 5.0},
    ),
    Bug("a refusal is said twice", {"answered once"}, _changed(replies.Replies, "finish", _said_twice)),
    Bug("every refusal is remembered", {"memory is flat"}, _changed(dispatch, "failure", _remembered_for_ever)),
)


def hunt(bug: Bug, seed: int) -> Report:
    """A short run over a server that has the bug."""
    with inside() as house, bug.put_in():
        return Fuzzer(house, seed, **bug.impatient).run(SHORT)
