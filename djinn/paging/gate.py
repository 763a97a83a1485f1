"""What the compute passes before it touches a part that is on its way back to the device."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from djinn.errors import DjinnError
from djinn.tiers.streams import Mark, Wait


class PartGate:
    """Before a part that is on its way back: opened when its copy has been queued, passed when it is there.

    queued: shared by many gates, since a restore makes one for each of its parts.
    """

    def __init__(self, queued: threading.Condition) -> None:
        self._queued = queued
        self.mark: Mark | DjinnError | None = None

    def fail(self, error: DjinnError) -> None:
        """The part will never come, whether its copy was queued or not."""
        with self._queued:
            self.mark = error
            self._queued.notify_all()

    def hold(self) -> None:
        if self.mark is None:
            with self._queued:
                self._queued.wait_for(lambda: self.mark is not None)
        if isinstance(self.mark, DjinnError):
            raise self.mark
        self.mark.hold(Wait.COMPUTE_AFTER_IN)


def let_open(gates: Sequence[PartGate], mark: Mark, queued: threading.Condition) -> None:
    """Of parts that were queued together: they are there when `mark` is reached. queued: the gates'."""
    with queued:
        for gate in gates:
            gate.mark = mark
        queued.notify_all()
