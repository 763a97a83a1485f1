"""What must hold of every answer, and of the server when all have gone. A judgement names the check that found it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from djinn.errors import BY_CODE, ProtocolError, ServerFault
from djinn.wire import messages as m
from djinn.wire.frames import unpack
from fuzz.exchange import OK, May, number_of

LONGEST_MESSAGE = 1000  # characters of an error: what came in is not sent back
WAIT_S = 120.0  # for an answer, and for the accounts; only a server that will never answer takes so long


class Found(AssertionError):
    """check: the name of what did not hold."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check, self.what = check, what


def hold(check: str, truth: bool, what: Any) -> None:
    if not truth:
        raise Found(check, str(what))


def read(frames: Sequence[bytes]) -> tuple[int, Any, list]:
    """(number, body, tensors) of a reply, which must be one of the protocol."""
    try:
        envelope, body, tensors = unpack(frames, "reply")
    except ProtocolError as error:
        raise Found("protocol", str(error)) from error
    return envelope.id, body, tensors


def judge_reply(request: Sequence[bytes], may: May, number: int, body: Any) -> str:
    """The code of a lawful last reply, or OK."""
    hold("answered once", number == number_of(request), f"under {number} instead of {number_of(request)}")
    code = body.code if isinstance(body, m.Failure) else OK
    if isinstance(body, m.Failure):
        hold("typed error", code in BY_CODE and code != ServerFault.code, f"{code}: {body.message}")
        hold("short error", 0 < len(body.message) <= LONGEST_MESSAGE, f"{len(body.message)} characters")
    hold("lawful answer", may is None or code in may, f"{code} where {sorted(may or ())} are: {body}"[:500])
    return code


def judge_token(request: Sequence[bytes], number: int) -> None:
    """A token may come before the last reply to a request that streams."""
    try:
        body = unpack(request, "request")[1]
    except ProtocolError:
        body = None
    streams = getattr(body, "stream", False)
    hold("answered once", streams and number == number_of(request), f"a token for {body}"[:300])


def judge_accounts(stats: m.StatsReply, empty: dict[str, int]) -> str:
    """What is not as at the beginning, when every session is closed; nothing when all is."""
    wrong = [
        f"{name} {stats.bytes[name]} instead of {free}" for name, free in empty.items() if stats.bytes[name] != free
    ]
    if stats.sessions:
        wrong.append(f"sessions {stats.sessions}")
    return ", ".join(wrong)


def await_nothing(check: str, wrong: Any, wait_s: float) -> None:
    """`wrong()` must come to say nothing: copies that are under way end first."""
    until = time.monotonic() + wait_s
    while said := wrong():
        hold(check, time.monotonic() < until, said)
        time.sleep(0.001)


def reserved_in_vain(engine: Any) -> str:
    """Hidden states that a session holds though nothing can go on from them."""
    with engine.lock:
        for session in engine.sessions.values():
            held = {key for key, part in session.residence.body.items() if isinstance(key, str) and not part.dropped}
            if session.residence.waiting or session.residence.granted or held != set(session.kept()):
                return f"{session.key} {session.machine.state} holds {held} and keeps {set(session.kept())}"
    return ""


def text_of(frames: Sequence[bytes]) -> str:
    """For who replays an exchange."""
    try:
        header = msgspec.msgpack.decode(frames[0]) if frames else "no frame"
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        header = frames[0][:200]
    return f"{str(header)[:600]} + {[len(frame) for frame in frames[1:]]}"
