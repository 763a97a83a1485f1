"""What the server shows of itself: a timeline that Chrome opens, and a line a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from djinn.server.pulse import line
from djinn.timeline import Timeline, chrome_trace


def test_spans_become_complete_events_on_named_tracks():
    timeline = Timeline()
    timeline.add("copy out", "evict a", 1_000_000, 3_000_000, bytes=5)
    timeline.add("compute", "decode 2", 2_000_000, 2_500_000, rows=2)
    events = chrome_trace(timeline.spans())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [e for e in events if e["ph"] == "X"]
    assert {names[e["tid"]]: (e["ts"], e["dur"]) for e in spans} == {"copy out": (1000, 2000), "compute": (2000, 500)}


def test_a_server_tells_what_compute_copies_and_sessions_did(server, client, prompt, tmp_path):
    session = client.open()
    session.prefill(prompt, break_at=4)
    session.park()
    while session.state != "host":
        time.sleep(0.01)
    session.resume(max_new_tokens=2)
    out = tmp_path / "trace.json"
    command = [sys.executable, "-m", "djinn.cli", "trace", "--server", server.endpoint, "--out", str(out)]
    assert "chrome://tracing" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    events = json.loads(out.read_text())["traceEvents"]
    tracks = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"compute", "copy out", "copy in", f"session {session.id[:8]}"} <= tracks
    states = {e["name"] for e in events if e["ph"] == "X"}
    assert {"paused", "evicting", "host", "restoring", "ready", "running"} <= states
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    session.close()


def test_the_line_says_rates_and_states():
    tiers = dict.fromkeys(
        ("device_bytes", "host_bytes", "disk_bytes", "duplicate_bytes", "arena_bytes", "host_budget_bytes",
         "disk_budget_bytes", "evicted_bytes", "restored_bytes"), 0
    )  # fmt: skip
    before = {**tiers, "sessions": {}, "waits": {}}
    now = {
        **tiers,
        "evicted_bytes": 4_000_000,
        "sessions": {"paused": 2},
        "waits": {"compute_after_in": 1, "compute_after_in_ns": 5_000_000},
    }
    said = line(before, now, 2.0)
    assert "out 2 MB/s" in said
    assert "waited 5 ms" in said
    assert "2 paused" in said
