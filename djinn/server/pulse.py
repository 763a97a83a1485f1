"""One line a second in the log, while anything moves: bytes by tier, copy rates, sessions by state, waits."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from djinn.engine.engine import Engine
from djinn.sizes import format_bytes

log = logging.getLogger(__name__)
PERIOD_S = 1.0


def line(before: dict[str, Any], now: dict[str, Any], seconds: float) -> str:
    """What is where, and what the second behind us moved."""
    out, back = ((now[key] - before[key]) / seconds for key in ("evicted_bytes", "restored_bytes"))
    waited = sum(ns - before["waits"].get(name, 0) for name, ns in now["waits"].items() if name.endswith("_ns"))
    sessions = ", ".join(f"{count} {state}" for state, count in sorted(now["sessions"].items())) or "none"
    return (
        f"device {format_bytes(now['device_bytes'])} of {format_bytes(now['arena_bytes'])}, "
        f"host {format_bytes(now['host_bytes'])} (+ {format_bytes(now['duplicate_bytes'])} duplicates) of "
        f"{format_bytes(now['host_budget_bytes'])}, disk {format_bytes(now['disk_bytes'])} of "
        f"{format_bytes(now['disk_budget_bytes'])}; out {format_bytes(out)}/s, in {format_bytes(back)}/s, "
        f"compute waited {waited / 1e6:.0f} ms; sessions: {sessions}"
    )


class Pulse:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._stop = engine, threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before, at = self._engine.stats(), time.monotonic()
        while not self._stop.wait(PERIOD_S):
            now, then = self._engine.stats(), time.monotonic()
            if now != before:
                log.info("%s", line(before, now, then - at))
            before, at = now, then

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
