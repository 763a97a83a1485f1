"""The endpoint for Prometheus says what stats() says, on loopback, and only where it was asked for."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from djinn.errors import BadRequest
from djinn.paging.pager import MOVED
from djinn.server.metrics import serve_metrics
from djinn.server.server_main import parser

STATS = {
    "device_bytes": 1000,
    "evicted_bytes": 70,
    "evictions": 7,
    "sessions": {"paused": 3, "idle": 1},
    "waits": {"gate": 5, "gate_ns": 2_500_000_000},
}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def read(port: int) -> dict[tuple[str, str], float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, "".join(s.labels.values())): s.value for family in families for s in family.samples}


def test_it_gives_the_engines_own_numbers_as_they_are_now(port):
    stats = dict(STATS)
    stop = serve_metrics(SimpleNamespace(stats=lambda: dict(stats)), port)
    try:
        found = read(port)
        assert found["djinn_device_bytes", ""] == 1000
        assert found["djinn_evicted_bytes_total", ""] == 70 and found["djinn_evictions_total", ""] == 7
        assert found["djinn_sessions", "paused"] == 3 and found["djinn_sessions", "idle"] == 1
        assert found["djinn_waits_total", "gate"] == 5 and found["djinn_wait_seconds_total", "gate"] == 2.5
        assert found["process_resident_memory_bytes", ""] > 0
        stats["device_bytes"] = 5
        assert read(port)["djinn_device_bytes", ""] == 5
        with pytest.raises(BadRequest, match="--metrics-port"):
            serve_metrics(None, port)
    finally:
        stop()
    with pytest.raises(OSError):
        read(port)


def test_what_was_moved_since_the_start_is_counted_all_of_it(port):
    stop = serve_metrics(SimpleNamespace(stats=lambda: {**dict.fromkeys(MOVED, 3), "sessions": {}, "waits": {}}), port)
    try:
        found = read(port)
        assert {name for name in MOVED if found.get((f"djinn_{name}_total", "")) != 3} == set()
    finally:
        stop()


def test_it_is_off_unless_asked_for():
    assert parser().parse_args([]).metrics_port is None
