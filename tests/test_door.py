"""Clients that connect and say nothing, that are slow, and that say too much."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from fuzz.slow import Served, crowd, slow_reader, slow_writers

import djinn
from djinn.errors import BadRequest
from djinn.server.server_main import parser
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import pack


@pytest.fixture
def served(server) -> Iterator[Served]:
    with djinn.connect(server.endpoint, timeout=120) as honest:
        yield Served(honest)


def test_a_thousand_that_say_nothing_are_hung_up_on_and_harm_nobody(server, served):
    assert crowd(server.endpoint, server.pid, served, silent=1000, greeted=200)["served_meanwhile"] >= 1


def test_who_reads_slowly_holds_nobody_up_and_takes_bounded_memory_that_is_used_again(server, served):
    slow_reader(server.endpoint, server.pid, served, asks=3500)


def test_who_writes_in_crumbs_is_answered_and_holds_nobody_up(server, served):
    slow_writers(server.endpoint, server.pid, served, count=30)


def test_a_request_that_is_too_large_is_refused_before_it_is_sent(server, client):
    limit = client.server.max_message_bytes
    assert limit == (1 << 22) + 256 * 256 * 4, "a header and the activation of the longest session"
    session = client.open()
    session.prefill([1, 2, 3], break_at=2)
    with pytest.raises(BadRequest, match="--max-message"):
        session.resume(activation=np.zeros((1, limit // 1024 + 1, 256), np.float32))
    assert session.state == "paused"
    session.close()


def test_who_sends_too_much_all_the_same_is_cut_off_and_nobody_else(server, client):
    with djinn.connect(server.endpoint, timeout=20) as rude:
        before = psutil.Process(server.pid).memory_info().rss
        frames = [pack(99, m.Stats(), (), Sender("rude", rude.token))[0], bytes(200_000_000)]
        rude.connection._unanswered.clear()
        rude.connection._socket.send_multipart(frames, copy=False)
        client.stats()
        rude.connection.wait(lambda: rude.connection._lost_at is not None, 20)
        assert psutil.Process(server.pid).memory_info().rss < before + 100_000_000
        assert client.stats()["clock_ns"] > 0


def test_limits_are_options_with_their_meaning():
    text = parser().format_help()
    for option in (
        "--max-message",
        "--max-sessions",
        "--max-sessions-per-owner",
        "--max-requests",
        "--lease",
        "--keys",
    ):
        assert option in text
