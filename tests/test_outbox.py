"""Clients that do not read large replies: what lies here for them is weighed, and what is given up is said."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import zmq

from djinn.server import outbox as module
from djinn.server.outbox import PIPE_BYTES, Outbox
from djinn.wire import messages as m
from djinn.wire.frames import pack, size_of, unpack

LOGITS = np.zeros((1, 1, 1_500_000), np.float32)  # 6 MB
HELD = 64 * 10**6  # bytes that may be held in these tests


class Slow:
    """A socket whose one client takes a message off its pipe when it `read`s."""

    def __init__(self) -> None:
        self.pipe: list[tuple[list, SimpleNamespace]] = []
        self.got: list[tuple[int, object]] = []

    def send_multipart(self, frames: list, flags: int, copy: bool = True, track: bool = False) -> SimpleNamespace:
        tracker = SimpleNamespace(done=False)
        self.pipe.append((frames[1:], tracker))
        return tracker

    def read(self) -> None:
        frames, tracker = self.pipe.pop(0)
        tracker.done = True
        envelope, body, _ = unpack(frames, "reply")
        self.got.append((envelope.id, getattr(body, "code", "whole")))

    def bytes(self) -> int:
        return sum(size_of(frames) for frames, _ in self.pipe)


def test_large_replies_wait_their_turn_and_beyond_a_bound_each_is_replaced_by_a_word(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", HELD)
    slow = Slow()
    outbox = Outbox(slow)
    for number in range(1, 41):
        outbox.post(b"peer", number, pack(number, m.ActivationReply(dtype="float32"), [LOGITS]), False)
    outbox.flush()
    assert slow.bytes() <= PIPE_BYTES
    assert outbox._held[b"peer"].bytes <= HELD + 41 * 1000
    while slow.pipe:
        slow.read()
        outbox.flush()
    assert [number for number, _ in slow.got] == list(range(1, 41)), "each has an answer, in order"
    whole = (PIPE_BYTES + HELD) // size_of(pack(1, m.ActivationReply(dtype="float32"), [LOGITS]))
    kinds = [kind for _, kind in slow.got]
    assert kinds == ["whole"] * kinds.count("whole") + ["reply_gone"] * kinds.count("reply_gone")
    assert whole - 1 <= kinds.count("whole") <= whole
    assert outbox.retry_ms() is None


def test_one_reply_goes_out_whatever_its_size(monkeypatch):
    monkeypatch.setattr(module, "PIPE_BYTES", 10)
    monkeypatch.setattr(module, "HELD_BYTES", 10)
    slow = Slow()
    outbox = Outbox(slow)
    for number in (1, 2):
        outbox.post(b"peer", number, pack(number, m.ActivationReply(dtype="float32"), [LOGITS]), False)
        outbox.flush()
    for _ in range(2):
        slow.read()
        outbox.flush()
    assert slow.got == [(1, "whole"), (2, "whole")]


def test_lost_replies_are_one_line_of_the_log(monkeypatch, caplog):
    monkeypatch.setattr(module, "PIPE_BYTES", 10)
    monkeypatch.setattr(module, "HELD", 3)
    slow = Slow()
    outbox = Outbox(slow)
    for number in range(1, 11):
        outbox.post(b"peer", number, pack(number, m.ActivationReply(dtype="float32"), [LOGITS]), False)
    outbox.flush()
    assert [record.message for record in caplog.records] == ["replies are lost: their client left 3 others unread"]
    while slow.pipe:
        slow.read()
        outbox.flush()
    assert [number for number, _ in slow.got] == [1, 2, 3, 4]


def test_who_is_connected_is_asked_by_a_message_that_answers_nothing():
    router, dealer = zmq.Context.instance().socket(zmq.ROUTER), zmq.Context.instance().socket(zmq.DEALER)
    router.router_mandatory, router.linger, dealer.linger = True, 0, 0
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"hello")
    peer, _ = router.recv_multipart()
    outbox = Outbox(router)
    assert outbox.connected(peer) and not outbox.connected(b"nobody")
    assert dealer.poll(10_000)
    assert unpack(dealer.recv_multipart(), "reply")[0].id == 0
    monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.close()
    assert monitor.poll(10_000)
    for _ in range(1000):  # the socket hears of it a little later than its monitor
        if not outbox.connected(peer):
            break
        time.sleep(0.01)
    assert not outbox.connected(peer)
    router.disable_monitor()
    router.close()
