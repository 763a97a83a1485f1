"""Copies that are held up by their names, until a test lets them go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from asking import WAIT_S
from faults import patched

from djinn.tiers.streams import HostStream


@contextmanager
def held(*names: str, behind: int = 0) -> Iterator[threading.Event]:
    """Copies whose names begin so wait, and all behind them in their stream, but for the first `behind`: until the event is
    set, or the context is left."""
    gate, copy, met = threading.Event(), HostStream.copy, []

    def held_up(stream: HostStream, name: str, copies) -> None:
        if name.startswith(names):
            met.append(name)
            if len(met) > behind:
                stream._work.put(lambda: gate.wait(WAIT_S))
        copy(stream, name, copies)

    with patched(HostStream, "copy", held_up):
        try:
            yield gate
        finally:
            gate.set()
