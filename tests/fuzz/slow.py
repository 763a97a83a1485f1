"""Clients that say nothing, stop half-way, read a byte now and then, or write in crumbs: others are served meanwhile,
and what the server holds for them is bounded and comes back."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil

import djinn
from djinn.server.outbox import HELD, PIPE_BYTES
from djinn.wire import messages as m
from djinn.wire.frames import pack, size_of, unpack
from fuzz.exchange import Actor
from fuzz.judge import hold
from fuzz.zmtp import LONG, MORE, connect, greeting, message, read_message, shake_hands

WAIT_S = 300.0  # until all are hung up on; only a server that keeps them uses this up
SPARE_BYTES = 32 << 20  # that the allocator may keep, and requests that are being read
SPARE_FILES = 10
PROMPT = [(7 * i * i + 3) % 61 for i in range(100)]


class Served:
    """Somebody honest. Each call opens, pauses, goes on and closes a session, and gets what the first call got."""

    def __init__(self, client: djinn.Client) -> None:
        self.client, self.times = client, 0
        self._first: Any = None
        self.prompt = PROMPT[: client.server.max_tokens // 2]

    def __call__(self) -> None:
        session = self.client.open()
        session.prefill(self.prompt, break_at=2)
        out = session.resume(max_new_tokens=2)
        session.close()
        bits = (out.tokens.tolist(), out.logits.tobytes())
        self._first, self.times = self._first or bits, self.times + 1
        hold("the honest are undisturbed", bits == self._first, "another bit came")


def _room_for(lines: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < lines + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(lines + 500, hard), hard))


def crowd(endpoint: str, pid: int, served: Served, silent: int, greeted: int) -> dict[str, Any]:
    """So many that say nothing, and that stop behind the greeting. All are hung up on, and their files come back."""
    server = psutil.Process(pid)
    files, memory, times = server.num_fds(), server.memory_info().rss, served.times
    _room_for(silent + greeted)
    with ExitStack() as lines:
        quiet = [lines.enter_context(connect(endpoint)) for _ in range(silent)]
        halves = [lines.enter_context(connect(endpoint)) for _ in range(greeted)]
        for each in halves:
            each.sendall(greeting())
        most = server.num_fds()
        served()
        until = time.monotonic() + WAIT_S
        while server.num_fds() > files + SPARE_FILES:
            served()
            hold("hung up on", time.monotonic() < until, server.num_fds())
        heard = [_until_the_end(each) for each in (*quiet, *halves)]
    hold("met", all(heard), f"{heard.count(0)} heard no greeting")
    grown = server.memory_info().rss - memory
    hold("memory comes back", grown <= SPARE_BYTES, f"{grown} bytes more")
    return {
        "silent": silent,
        "greeted": greeted,
        "files_at_most": most,
        "files_before": files,
        "files_after": server.num_fds(),
        "grown_mb": round(grown / 1e6, 1),
        "served_meanwhile": served.times - times,
    }


def _until_the_end(line: socket.socket) -> int:
    """How many bytes came before it was hung up: at least the first of a greeting."""
    count = 0
    while part := line.recv(1024):
        count += len(part)
    return count


def slow_reader(endpoint: str, pid: int, served: Served, asks: int) -> dict[str, Any]:
    """Two, one after the other, who each ask for far more than is held for one client and read next to nothing of it."""
    server, times = psutil.Process(pid), served.times
    before = server.memory_info().rss
    reply, first = _read_slowly(endpoint, server, served, asks)
    bound = HELD * reply + PIPE_BYTES + SPARE_BYTES
    hold("it was slow", asks * reply > 1.5 * bound, f"{asks} replies of {reply} are no test")
    hold("memory is bounded", first - before <= bound, f"{first - before} bytes for {asks} replies of {reply}")
    _, second = _read_slowly(endpoint, server, served, asks)
    hold("memory is used again", second - first <= SPARE_BYTES, f"the second took {second - first} bytes more")
    return {
        "asked_mb": round(asks * reply / 1e6),
        "first_took_mb": round((first - before) / 1e6, 1),
        "second_took_mb": round((second - first) / 1e6, 1),
        "served_meanwhile": served.times - times,
    }


def _read_slowly(endpoint: str, server: psutil.Process, served: Served, asks: int) -> tuple[int, int]:
    """(bytes of one reply, bytes that the server held at most)."""
    actor = Actor("slow", f"slow-{served.times}")

    def ask(line: socket.socket, body: m.AnyRequest, *tensors: np.ndarray) -> Any:
        line.sendall(message(actor.pack(body, tensors)))
        return unpack(read_message(line), "reply")[1]

    with connect(endpoint, receive_bytes=4096) as line:
        shake_hands(line)
        ask(line, m.Hello())
        session = ask(line, m.Open()).session
        pause = ask(line, m.Prefill(session=session, break_at=2), np.array(served.prompt))
        state = np.zeros((1, pause.rows, served.client.server.hidden_size), np.float32)
        most = 0
        for at in range(asks):
            line.sendall(message(actor.pack(m.FetchActivation(session=session, name=pause.name))))
            if at % 100 == 99:
                line.recv(7)
                served()
                most = max(most, server.memory_info().rss)
    with connect(endpoint) as line:  # on another line he reads what he is told, and leaves nothing behind
        shake_hands(line)
        ask(line, m.Close(session=session))
    return size_of(pack(1, m.ActivationReply(dtype="float32"), [state])), most


def slow_writers(endpoint: str, pid: int, served: Served, count: int) -> dict[str, Any]:
    """So many that write a request in crumbs and are answered; as many that announce the largest frame and write a little."""
    server, times = psutil.Process(pid), served.times
    before = server.memory_info().rss
    announced = served.client.server.max_message_bytes
    with ExitStack() as lines:
        writers = [lines.enter_context(connect(endpoint)) for _ in range(2 * count)]
        for each in writers:
            shake_hands(each)
        for each in writers[count:]:
            each.sendall(bytes([LONG | MORE]) + announced.to_bytes(8, "big") + bytes(1000))
        words = [message(Actor("slow", f"writer-{at}").pack(m.Hello())) for at in range(count)]
        for at in range(0, max(map(len, words)), 16):
            for each, word in zip(writers, words, strict=False):
                each.sendall(word[at : at + 16])
            served()
        for each in writers[:count]:
            body = unpack(read_message(each), "reply")[1]
            hold("answered", isinstance(body, m.Welcome), body)
        grown = server.memory_info().rss - before
        hold("memory is bounded", grown <= SPARE_BYTES, f"{grown} bytes for {count} frames of {announced} announced")
    return {
        "writers": count,
        "announced_mb": round(count * announced / 1e6),
        "grown_mb": round(grown / 1e6, 1),
        "served_meanwhile": served.times - times,
    }
