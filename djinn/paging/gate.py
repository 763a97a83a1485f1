"""What the compute passes before it touches a part that is on its way back to the device."""

from __future__ import annotations

import threading

from djinn.errors import DjinnError
from djinn.tiers.streams import Mark, Wait


class PartGate:
    """Before a part that is on its way back: opened when its copy has been queued, passed when it is there.

    queued: shared by many gates, since a restore makes one for each of its parts.
    """

    def __init__(self, queued: threading.Condition) -> None:
        self._queued = queued
        self._mark: Mark | DjinnError | None = None

    def open(self, mark: Mark) -> None:
        self._let(mark)

    def fail(self, error: DjinnError) -> None:
        """The part will never come, whether its copy was queued or not."""
        self._let(error)

    def _let(self, mark: Mark | DjinnError) -> None:
        with self._queued:
            self._mark = mark
            self._queued.notify_all()

    def hold(self) -> None:
        if self._mark is None:
            with self._queued:
                self._queued.wait_for(lambda: self._mark is not None)
        if isinstance(self._mark, DjinnError):
            raise self._mark
        self._mark.hold(Wait.COMPUTE_AFTER_IN)
