"""One client's own end of the line: what it refuses to send, what it cannot read, and what it keeps."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest
from odd_server import odd_server, replies

import djinn
from djinn.client.pending import Pending
from djinn.errors import BadRequest, ClientMisused, DjinnError, ProtocolError, ServerGone
from djinn.timeline import KEPT
from djinn.wire import messages as m
from djinn.wire.frames import MAX_HEADER_BYTES


def test_more_edits_than_fit_a_request_are_refused_with_what_to_do(client, prompt):
    session = client.open()
    h = session.prefill(prompt, break_at=3).activation()
    edits = [djinn.Set(h[0, i % 100], positions=(i % 100,)) for i in range(MAX_HEADER_BYTES // (9 * 256) + 1)]
    with pytest.raises(BadRequest, match="activation="):
        session.resume(edit=edits)
    assert session.state == "paused"
    session.resume(activation=h)
    session.close()


def test_a_refusal_that_names_no_request_ends_the_connection_with_its_reason(client):
    """A server that cannot read so far as to a request's number says so under number 0."""
    client.connection._socket.send_multipart([b"\xff"])
    for _ in range(2):
        with pytest.raises(ProtocolError, match="not a request of this protocol"):
            client.stats()


GIVEN_UP = r"""
import os, signal, time, djinn
from djinn.errors import ClientMisused, ProtocolError
server = djinn.serve("tiny-llama", threads=1, device_budget="40MB", max_tokens=256)
client = djinn.connect(server, timeout=60)
stream = client.open().prefill([1, 2, 3], max_new_tokens=100, stream=True)
client.connection._socket.send_multipart([b"\xc1garbage"])
for call in (stream.result, stream.result, client.stats, stream.done, lambda: list(djinn.as_completed([stream]))):
    try:
        call()
    except ProtocolError:
        print("told", end=" ")
time.sleep(1)  # tokens come
os.kill(server.pid, signal.SIGKILL)
time.sleep(4)  # ZeroMQ's heartbeat finds the line broken
client.close()
try:
    client.stats()
except ClientMisused:
    print("closed")
"""


def test_a_connection_that_was_given_up_does_not_abort_the_process_when_more_comes_for_it():
    run = subprocess.run([sys.executable, "-c", GIVEN_UP], timeout=120, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "told " * 5 + "closed\n", run.stderr


def test_what_ended_a_connection_keeps_no_arrays_of_those_who_are_told(server):
    client = djinn.connect(server.endpoint, timeout=60)
    client.connection._socket.send_multipart([b"\xff"])

    def told(error: type[DjinnError]) -> weakref.ref:
        array = np.zeros(10)
        with pytest.raises(error):
            client.stats()
        return weakref.ref(array)

    kept = [told(ProtocolError) for _ in range(3)]
    client.close()
    kept += [told(ClientMisused) for _ in range(3)]
    gc.collect()
    assert all(array() is None for array in kept)


@pytest.mark.parametrize("token", [b"a" * 32, ["a"] * 40, 123])
def test_a_token_is_text(server, token):
    with pytest.raises(BadRequest, match=r"client\.token"):
        djinn.connect(server.endpoint, token=token)


def test_a_timeline_may_be_longer_than_a_request():
    """What a server keeps of its copies, and as much of its sessions again: more than 4 MiB."""
    copied = ("copy out", "write through 0123abcd", 1 << 60, 1 << 60, {"bytes": 1 << 20})
    answer = replies(m.SpansReply(spans=(copied,) * 2 * KEPT))
    with odd_server(answer) as endpoint, djinn.connect(endpoint, timeout=30) as client:
        events = client.timeline()["traceEvents"]
        assert len(events) == 2 * KEPT + 1 and client.connection.received_bytes > MAX_HEADER_BYTES


def test_a_reply_that_cannot_be_read_is_its_requests_answer_and_the_next_is_read():
    """Else the request would be unanswered for ever, and nothing behind it acknowledged."""
    unknown = msgspec.Raw(msgspec.msgpack.encode({"kind": "of another version"}))
    answers = (
        lambda number: [[msgspec.msgpack.encode({"id": number, "body": unknown})]],
        replies(m.Opened(session="s")),
    )
    with odd_server(*answers) as endpoint, djinn.connect(endpoint, timeout=30) as client:
        with pytest.raises(ProtocolError, match="of another version"):
            client.stats()
        assert client.open().id == "s" and not client.connection._unanswered


def never(client: djinn.Client, kind: type[Pending] = Pending) -> Pending:
    """A request whose answer has been given away."""
    connection, number = client.connection, client.connection.send(m.Stats())
    connection.wait(lambda: number in connection._replies, 60)
    connection.take(number)
    return kind(connection, number, 0, lambda body, arrays: body)


def test_a_closed_client_says_so_whatever_is_asked_and_gives_what_had_come(server, prompt):
    client = djinn.connect(server.endpoint, timeout=60)
    session = client.open()
    ended = session.prefill(prompt, break_at=3, wait=False)
    pause, under_way, stream = ended.result(), never(client), never(client, djinn.Stream)
    client.close()
    client.close()
    for call in (
        client.open,
        client.stats,
        session.close,
        pause.activation,
        under_way.done,
        under_way.result,
        lambda: next(stream),
        lambda: list(djinn.as_completed([under_way], timeout=60)),
    ):
        with pytest.raises(ClientMisused, match=r"closed: connect\(\)"):
            call()
    assert ended.done() and ended.result() is pause
    with djinn.connect(server.endpoint, token=client.token) as other:
        other.attach(session.id).close()


def test_waiting_for_the_next_ends_in_time_whatever_else_comes(client, prompt):
    """Tokens of a stream that is not asked for come again and again meanwhile."""
    session, pending = client.open(), never(client)
    stream = session.prefill(prompt, max_new_tokens=50, stream=True)
    for timeout, said in ((-1, "0"), (0, "0"), (0.05, "0.05")):
        with pytest.raises(ServerGone, match=f"in {said} s"):
            list(djinn.as_completed([pending], timeout=timeout))
        with pytest.raises(ServerGone, match="in time"):
            pending.result(timeout)
    assert len(list(stream)) == 50
    session.close()


def test_what_cannot_be_waited_for_is_refused(client, prompt):
    session = client.open()
    pending = session.prefill(prompt, wait=False)
    for timeout in ("1", float("nan"), [1], True, 10**400):
        for call in (lambda: pending.result(timeout), lambda: list(djinn.as_completed([pending], timeout))):  # noqa: B023
            with pytest.raises(BadRequest, match="number of seconds"):
                call()
    with pytest.raises(BadRequest, match="wait=False or stream=True give, not int"):
        list(djinn.as_completed([pending, 1]))
    for one in (pending, None):
        with pytest.raises(BadRequest, match="takes a list"):
            list(djinn.as_completed(one))
    assert pending.result(np.float32(60)) is pending.result(np.int64(60))
    assert pending.result().logits.shape == (512,)
    session.close()


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_client_that_waits_for_ever(server, timeout):
    with djinn.connect(server.endpoint, timeout) as client:
        session = client.open()
        (pending,) = djinn.as_completed([session.prefill([1, 2, 3], wait=False)])
        assert pending.result().logits.shape == (512,)
        session.close()


def in_a_thread(call: Callable[[], Any]) -> Any:
    """What it gives or raises there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result(60)


def test_a_second_thread_is_refused_while_a_client_is_used_and_served_when_it_is_not(client):
    """ZeroMQ would abort the process, sooner or later."""
    pending, refused = never(client), []

    def meanwhile() -> bool:
        for call in (client.stats, client.close, pending.done, lambda: list(djinn.as_completed([pending], timeout=0))):
            with pytest.raises(ClientMisused, match="another thread"):
                in_a_thread(call)
            refused.append(call)
        return True

    client.connection.wait(meanwhile, 60)
    assert len(refused) == 4
    assert in_a_thread(client.stats)["clock_ns"] < client.stats()["clock_ns"], "handed over and back"


FORKED = """
import os, sys, djinn
client = djinn.connect(sys.argv[1], timeout=600)
session = client.open()
pid = os.fork()
if pid == 0:
    try:
        with client:
            session.state
    except djinn.errors.ClientMisused as refused:
        assert "connect()" in str(refused)
        with djinn.connect(sys.argv[1], token=client.token) as own:
            own.attach(session.id)
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
session.close()
"""


def test_a_forked_childs_copy_of_a_client_is_refused_and_its_parents_works_on(server):
    child = subprocess.run([sys.executable, "-c", FORKED, server.endpoint], timeout=120, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_what_nobody_will_ask_for_is_not_kept(client, prompt):
    """Dropped before its reply and behind it, a stream that was read in part, and a call that was broken off."""
    connection, sessions = client.connection, [client.open() for _ in range(3)]
    sessions[0].prefill(prompt, logits="all", wait=False)
    dropped = sessions[1].prefill(prompt, logits="all", wait=False)
    connection.wait(lambda: connection._replies, 60)
    del dropped
    stream = sessions[2].prefill(prompt, max_new_tokens=20, stream=True)
    next(stream)
    del stream
    with pytest.raises(ServerGone, match="in time"):
        connection.ask(m.Stats(), timeout=0)
    connection.wait(lambda: not connection._unanswered, 60)
    assert not connection._replies and not connection._streams and not connection._forgotten
    for session in sessions:
        session.close()


MANY = """
import os, resource, sys, time
from djinn.client.connection import Connection
from djinn.errors import LimitReached
files, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
held = []
try:
    while len(held) < most:
        held.append(Connection("tcp://127.0.0.1:9", 1))
except LimitReached as refused:
    assert f" {len(held)} are open (Too many open files): close() some" in str(refused), refused
    for one in held[:10]:
        one.close()
    time.sleep(1)  # ZeroMQ closes behind us
    held[:10] = [Connection("tcp://127.0.0.1:9", 1) for _ in range(5)]
    print("refused")
print(len(held))
"""


@pytest.mark.parametrize(("files", "said"), [(4000, "400"), (200, "refused")])
def test_more_clients_than_zeromqs_own_bound_and_as_many_as_the_files_of_this_process(files, said):
    run = subprocess.run([sys.executable, "-c", MANY, str(files), "400"], timeout=120, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[0] == said, run.stderr


def test_a_closed_client_keeps_no_file_open_whatever_is_still_held_of_it(server):
    held, before = [], None
    for _ in range(10):
        with djinn.connect(server.endpoint, timeout=60) as client:
            held.append(client.open())
            held[-1].close()
        before = before or len(os.listdir("/proc/self/fd"))  # behind the first: ZeroMQ's own are among them
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before
