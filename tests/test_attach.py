"""A client that is killed loses nothing: its sessions are found from another process, until their lease ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sessions import alone

import djinn
from djinn import cli
from djinn.errors import BadRequest, NoSuchSession
from djinn.server.leases import Leases

CLIENT = """
import sys, time, djinn
client = djinn.connect(sys.argv[1])
session = client.open()
session.prefill([(7 * i * i + 3) % 509 for i in range(100)], break_at=5)
print(client.token, session.id, flush=True)
time.sleep(600)
"""


def test_a_session_of_a_client_that_was_killed_goes_on_elsewhere_to_the_bit(
    server, client, prompt, capsys, monkeypatch
):
    expected = alone(client, prompt, 6)
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.endpoint], stdout=subprocess.PIPE, text=True
    ) as process:
        token, key = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    with pytest.raises(NoSuchSession):
        client.attach(key)
    monkeypatch.setenv("DJINN_TOKEN", token)
    assert cli.main(["status", "--server", server.endpoint]) == 0
    assert f"{key}  paused        100 tokens, kept for 24.0 h" in capsys.readouterr().out
    with djinn.connect(server.endpoint, token=token) as heir:
        (listed,) = heir.sessions()
        assert (listed.id, listed.state, listed.tokens) == (key, "paused", 100)
        session = heir.attach(listed.id)
        pause = session.pause
        assert (pause.layer, pause.rows) == (5, 100) and pause.activation().shape == (1, 100, 256)
        assert session.token_ids.tolist() == prompt and session.checkpoints == {}
        out = session.resume(pause, max_new_tokens=6)
        assert out.tokens.tolist() == expected.tokens.tolist() and np.array_equal(out.logits, expected.logits)
        session.close()
        assert session.lease_left_s is None and heir.sessions() == []


@pytest.mark.parametrize("token", ["", "short", "x" * 129])
def test_a_token_that_could_be_guessed_is_refused(server, token):
    with pytest.raises(BadRequest, match=r"client\.token"):
        djinn.connect(server.endpoint, token=token)


def test_who_stays_connected_keeps_his_sessions_and_who_left_is_told_that_the_lease_ended(prompt):
    """Real sockets and a real clock; nothing here depends on how fast either is."""
    with (
        djinn.serve(
            "tiny-llama", threads=1, device_budget="60MB", host_budget="10MB", max_tokens=256, lease=1
        ) as server,
        djinn.connect(server.endpoint) as silent,
        djinn.connect(server.endpoint) as watcher,
    ):
        kept = silent.open()
        with djinn.connect(server.endpoint) as leaving:
            left = leaving.open()
        while watcher.stats()["sessions"]["idle"] == 2:
            time.sleep(0.05)
        assert silent.server.lease_s == 1 and kept.state == "idle"
        with (
            djinn.connect(server.endpoint, token=leaving.token) as again,
            pytest.raises(NoSuchSession, match="its lease ended"),
        ):
            again.attach(left.id)


def test_a_lease_counts_from_the_last_sign_of_life():
    now = [0.0]
    leases = Leases(10, lambda: now[0])
    leases.begin("ann")
    leases.renew("nobody")  # has no session: is not remembered
    now[0] = 4
    assert leases.left_s("ann") == 6 and leases.ended(["ann"], lambda _: pytest.fail("too early to look")) == []
    now[0] = 6
    assert leases.ended(["ann"], lambda _: False) == []
    now[0] = 10
    assert leases.left_s("ann") == 0 and leases.ended(["ann"], lambda _: False) == ["ann"]
    assert leases.ended(["ann"], lambda _: True) == [] and leases.left_s("ann") == 10
    assert leases.ended([], lambda _: False) == [] and leases._seen == {}
