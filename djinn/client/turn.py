"""One at a time: ZeroMQ aborts the process where two threads use a socket at once, and a forked child has but a dead copy."""

from __future__ import annotations

import os
import threading

from djinn.errors import ClientMisused


class Turn:
    """Held while a client is used, by its process alone. May be handed from thread to thread, and taken again by its holder."""

    def __init__(self) -> None:
        self._lock, self._pid = threading.RLock(), os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this is the process in which the client was made."""
        return os.getpid() == self._pid

    def __enter__(self) -> None:
        if not self.ours:
            raise ClientMisused("this client is the process's that forked this one: connect() another here")
        if not self._lock.acquire(blocking=False):
            raise ClientMisused("this client is in use by another thread: connect() one for each")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
