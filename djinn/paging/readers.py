"""Who waits to read a session's bytes in memory: called as soon as these can be read there, or never can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from djinn.errors import DjinnError, ServerFault
from djinn.paging.residence import Body, Residence
from djinn.tiers.streams import call_safely

log = logging.getLogger(__name__)
Reader = Callable[[DjinnError | None], None]  # the bytes can be read now, or why they never can


class Readers:
    """Everything here is done under the lock of the accounts, by whoever has changed where bytes lie."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Residence, Reader]] = []  # of sessions that are on the disk, or moved

    def add(self, residence: Residence, read: Reader) -> None:
        self._waiting.append((residence, read))

    def call(self) -> None:
        """Those whose sessions' bytes can be read now, or never."""
        asked, self._waiting = self._waiting, []  # first: a reader may come to ask here again
        for residence, read in asked:
            residence.read = not (residence.released or residence.body.readable)
            if residence.read:
                self.add(residence, read)
            else:
                _read(read)

    def refuse(self, body: Body, error: DjinnError) -> None:
        """The bytes could not be read back."""
        refused = [read for residence, read in self._waiting if residence.body is body]
        self._waiting = [(residence, read) for residence, read in self._waiting if residence.body is not body]
        for sharer in body.sharers:
            sharer.read = sharer.intended = False  # nobody tries again unasked
        for read in refused:
            call_safely(partial(read, error))


def _read(read: Reader) -> None:
    """One that breaks off is told, and harms nobody: the copy that ended just now is as a rule somebody else's."""
    try:
        read(None)
    except Exception as error:
        log.exception("a session could not be read")
        call_safely(partial(read, ServerFault(f"the session could not be read: {type(error).__name__}: {error}")))
