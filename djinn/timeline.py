"""What happened when: spans on named tracks, kept for a while and exported in Chrome's trace format. Pure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

Span = tuple[str, str, int, int, dict[str, Any]]  # track, name, start (ns), end (ns), more about it
KEPT = 50_000  # spans; the oldest go first
TRACKS = ("compute", "copy out", "copy in", "copy across", "disk", "durable")  # shown first, in this order


class Timeline:
    """Spans of `time.monotonic_ns()`. May be added to from any thread."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, track: str, name: str, start_ns: int, end_ns: int, **about: Any) -> None:
        with self._lock:
            self._spans.append((track, name, start_ns, end_ns, about))

    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)


def chrome_trace(spans: Iterable[Span]) -> dict[str, Any]:
    """`{"traceEvents": […]}` as chrome://tracing and Perfetto open it: one thread for each track, microseconds."""
    events: list[dict[str, Any]] = []
    threads: dict[str, int] = {}
    for track, name, start_ns, end_ns, about in spans:
        if track not in threads:
            threads[track] = TRACKS.index(track) if track in TRACKS else len(TRACKS) + len(threads)
            named = {"name": "thread_name", "ph": "M", "pid": 0, "tid": threads[track], "args": {"name": track}}
            events.append(named)
        events.append(
            {
                "name": name,
                "ph": "X",
                "pid": 0,
                "tid": threads[track],
                "ts": start_ns / 1000,
                "dur": (end_ns - start_ns) / 1000,
                "args": about,
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}
