"""Put sessions aside and wait until their bytes are off the device: what several rules do before they resume."""

from __future__ import annotations

import time
from collections.abc import Sequence

import djinn

OFF = ("host", "disk")
STEP_S = 0.002


def put_aside(sessions: Sequence[djinn.Session]) -> None:
    """Park them all, then wait until none holds device memory. A session that stays on the device ends in a TimeoutError."""
    for session in sessions:
        session.park()
    end = time.monotonic() + 120
    for session in sessions:
        while (state := session.state) not in OFF:
            if time.monotonic() > end:
                raise TimeoutError(f"a parked session is still {state} after two minutes: is budget.host too small?")
            time.sleep(STEP_S)
