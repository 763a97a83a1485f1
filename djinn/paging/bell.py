"""The lock of the accounts, which wakes the mover: because something has changed, which the policy may answer, or with work that is
only handed over."""

from __future__ import annotations

import threading


class Bell(threading.Condition):
    """Guards the ledger. The policy walks all sessions: it is asked anew when `changes` has grown, and then alone."""

    def __init__(self) -> None:
        super().__init__(threading.RLock())
        self.changes = 0

    def notify_all(self) -> None:
        """Under the lock: something has changed."""
        self.changes += 1
        super().notify_all()

    def hand_over(self) -> None:
        """Under the lock: the mover has work of which the policy is not asked."""
        super().notify_all()
