"""What the compute passes before it touches a part that is on its way back to the device."""

from __future__ import annotations

import threading

from djinn.errors import DjinnError
from djinn.tiers.streams import Mark, Wait


class PartGate:
    """Before a part that is on its way back: opened when its copy has been queued, passed when it is there."""

    def __init__(self) -> None:
        self._queued = threading.Event()
        self._mark: Mark | DjinnError | None = None

    def open(self, mark: Mark) -> None:
        self._mark = mark
        self._queued.set()

    def fail(self, error: DjinnError) -> None:
        """The part will never come, whether its copy was queued or not."""
        self._mark = error
        self._queued.set()

    def hold(self) -> None:
        self._queued.wait()
        if isinstance(self._mark, DjinnError):
            raise self._mark
        self._mark.hold(Wait.COMPUTE_AFTER_IN)
