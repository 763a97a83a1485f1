"""A server of one's own: what ends it and what does not, and what `serve` refuses before anything is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import djinn
from djinn import launch
from djinn.errors import BadRequest

SMALL = {"threads": 1, "device_budget": "40MB", "max_tokens": 256}

INTERRUPTED = """
import os, signal, time, djinn
signal.signal(signal.SIGINT, signal.default_int_handler)
with djinn.serve("tiny-llama", threads=1, device_budget="40MB", max_tokens=256) as server, djinn.connect(server) as client:
    session = client.open()
    try:
        os.killpg(0, signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        time.sleep(1)  # a server that heard it too would have ended
        session.prefill([1, 2, 3])
        print("goes on")
"""


def test_ctrl_c_in_the_clients_terminal_leaves_its_server_and_the_sessions():
    """It goes to the terminal's whole process group."""
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], start_new_session=True, timeout=120, capture_output=True, text=True
    )
    assert run.stdout == "goes on\n", run.stderr


ORPHANED = "import os, sys; from djinn.lifeline import *; os.getppid = lambda: int(sys.argv[1]); die_with_parent({})"


@pytest.mark.parametrize(
    ("expected", "parent", "code"), [("1", 1, 0), ("7", 1, 1), ("7", 8, 1), ("7", 7, 0), ("None", 1, 1), ("None", 7, 0)]
)
def test_who_is_an_orphan(expected, parent, code):
    """A container's entry process is number 1, and a parent as good as any other."""
    run = subprocess.run([sys.executable, "-c", ORPHANED.format(expected), str(parent)], capture_output=True, text=True)
    assert run.returncode == code and ("parent process is gone" in run.stderr) == bool(code)


def test_a_server_that_does_not_end_is_killed_behind_its_own_drain_timeout_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(launch, "GRACE_S", 0.2)
    server = djinn.serve("tiny-llama", drain_timeout=0.5, **SMALL)
    os.kill(server.pid, signal.SIGSTOP)
    began = time.monotonic()
    server.stop()
    assert 0.7 <= time.monotonic() - began < 30
    assert "killed: it had not ended 0.7 s" in caplog.text
    assert server._log.closed and server._process.returncode == -signal.SIGKILL
    server.stop()
    assert len(caplog.records) == 1


def test_a_server_that_drains_in_time_is_not_warned_of(caplog):
    server = djinn.serve("tiny-llama", **SMALL)
    server.stop()
    assert server.drain_timeout == 30 and server._process.returncode == 0 and not caplog.records


@pytest.mark.parametrize("drain_timeout", ["soon", [1], 10**400, -1, float("nan")])
def test_a_drain_timeout_is_seconds(drain_timeout):
    with pytest.raises(BadRequest, match="number of seconds"):
        djinn.serve("tiny-llama", drain_timeout=drain_timeout, **SMALL)


@pytest.mark.parametrize("deterministic", ["off", "on", None, 0, 1])
def test_deterministic_is_true_or_false(deterministic):
    with pytest.raises(BadRequest, match="neither True nor False"):
        djinn.serve("tiny-llama", deterministic=deterministic, **SMALL).stop()


@pytest.mark.parametrize("without", [5, True, [5], b"batching"])
def test_parts_left_out_are_named(without):
    with pytest.raises(BadRequest, match="give one or a list"):
        djinn.serve("tiny-llama", without=without, **SMALL)


@pytest.mark.parametrize("model", ["a\0b", "\ud800"])
def test_what_no_process_can_be_given_is_refused(model):
    with pytest.raises(BadRequest, match="handed to a process"):
        djinn.serve(model, **SMALL)
