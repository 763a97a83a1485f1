"""Clients that connect and say nothing, that are slow, and that say too much."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from fuzz.slow import Served, crowd, slow_reader, slow_writers
from fuzz.zmtp import COMMAND, connect, frame, message, shake_hands

import djinn
from djinn.errors import BadRequest
from djinn.server.door import HEARTBEAT_MS
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


ROOT = Path(__file__).parent.parent
NOT_READING = """
import sys
from djinn.server.door import Door
door = Door("127.0.0.1", 0, None, 1 << 20)
print(door.endpoint, flush=True)
sys.stdin.readline()
while door.socket.poll(1000):
    door.socket.recv_multipart()
print("still here")
"""
BEATS = 3  # of the server's heart, behind a line that broke: at the first it died


@pytest.mark.parametrize("beat", [b"", frame(b"\x04PING\x00\x00", COMMAND)], ids=["ours", "one that waits unread"])
def test_a_heartbeat_on_a_line_that_broke_behind_unread_requests_does_not_end_the_server(beat):
    with subprocess.Popen(
        [sys.executable, "-c", NOT_READING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        line = connect(process.stdout.readline().strip())
        shake_hands(line)
        line.sendall(message([b"unread"]) * 4 + beat + message([b"unread"]))
        time.sleep(0.5)  # they are here
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it breaks, and is not closed
        line.close()
        time.sleep(BEATS * HEARTBEAT_MS / 1000)
        said, _ = process.communicate("read now\n", timeout=60)
    assert (process.returncode, said) == (0, "still here\n")


def test_the_client_does_not_stop_reading_either(client):
    assert client.connection._socket.rcvhwm == 0


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
