"""How long the sessions of a client that has gone are kept: until its owner has given no sign of life for one lease.

Any request of the owner is such a sign, and so is a client of his that is still connected, whether it asks or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection


class Leases:
    """For any thread. Times are seconds of `clock`, which tests wind on."""

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_s, self._clock = lease_s, clock
        self._seen: dict[str, float] = {}  # owner -> last sign of life; of those with sessions
        self._lock = threading.Lock()

    def begin(self, owner: str) -> None:
        """The owner has a session."""
        with self._lock:
            self._seen[owner] = self._clock()

    def renew(self, owner: str) -> None:
        """The owner gave a sign of life; one without sessions is not remembered."""
        with self._lock:
            if owner in self._seen:
                self._seen[owner] = self._clock()

    def left_s(self, owner: str) -> float:
        """Seconds until the lease of the owner's sessions ends; 0 when it is over."""
        with self._lock:
            return max(0.0, self._seen.get(owner, self._clock()) + self.lease_s - self._clock())

    def ended(self, owners: Collection[str], connected: Callable[[str], bool]) -> list[str]:
        """Of the `owners` of sessions, those whose lease is over.

        One who has been silent for half of it is looked for first: `connected`. One not met before begins now, as those
        whose sessions were read from the disk.
        """
        with self._lock:
            self._seen = {owner: self._seen.get(owner, self._clock()) for owner in owners}
        over = []
        for owner in owners:
            left = self.left_s(owner)
            if left < self.lease_s / 2 and connected(owner):
                self.renew(owner)
            elif left <= 0:
                over.append(owner)
        return over
