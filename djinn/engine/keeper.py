"""Sessions parked durably, and those of an earlier server. The store writes, the pager says when and from where.

Called under the engine's lock. The compute thread takes no part.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import torch

from djinn.durable import files
from djinn.durable.record import LOGITS, Identity, Record
from djinn.durable.store import Store
from djinn.engine.records import record_of, session_of
from djinn.engine.session import Session
from djinn.errors import DjinnError, StateRefused, StorageError
from djinn.paging.pager import Pager
from djinn.paging.residence import Saved, Saving

log = logging.getLogger(__name__)


class Keeper:
    def __init__(self, pager: Pager, store: Store, model: Identity) -> None:
        self.pager, self.store, self.model = pager, store, model
        self.refused: dict[str, str] = {}  # sessions of earlier servers that were not brought back: why

    def park(self, session: Session, then: Callable[[DjinnError | None], None]) -> None:
        """`then(None)` once the session is in a file that survives this process: at once where nothing has changed.

        `then(error)`: OutOfMemory, StorageError; the session is parked, and as durable as it was before.
        """
        residence = session.residence
        if residence.saved and residence.saved.current:
            if residence.body.parts:  # one that holds nothing has nothing to move, and its first request finds it idle
                self.pager.park(residence)
            then(None)
            return
        record = record_of(session, self.pager.shape, self.model)
        logits = [] if session.last_logits is None else [[memoryview(session.last_logits.numpy())]]

        def write(pages: Iterable[Iterable[files.Buffer]], done: Callable[[Exception | None], None]) -> None:
            self.store.save(record, itertools.chain(pages, logits), lambda: not saving.abandoned, done)

        saving = Saving(residence, files.size(record), write, then)
        self.pager.save(saving)

    def forget(self, session: Session, gone: Callable[[DjinnError | None], None]) -> None:
        """It was closed: its file goes, one that is being written will not come, and one whose last sync failed goes too.

        `gone(None)` when none is left, at once where there was none; `gone(error)`: StorageError.
        """

        def removed(problem: OSError | None) -> None:
            said = f"the session is over, and its file cannot be removed for good: {problem}. The next server there may find it"
            gone(StorageError(said) if problem else None)

        residence = session.residence
        has_file = residence.saved or residence.saving or self.store.folder.file(session.key).exists()
        self.pager.forget_saved(residence)
        if has_file:
            self.store.forget(session.key, removed)
        else:
            gone(None)

    def recover(self) -> Iterator[Session]:
        """The sessions that this server can go on with. Why it cannot with others stands in the log; every file is kept.

        Who asks for one that an earlier server refused is told so by every later one, as long as its file is there.
        """
        for key, name in self.store.folder.aside():
            self.refused[key] = f"its file was found damaged before, and is kept as {name}"
        for key, found in self.store.folder.found():
            try:
                if isinstance(found, Exception):
                    raise found
                yield self._recovered(found)
            except files.Damaged as reason:
                self.refused[key] = str(self.store.refused(key, reason))
            except StateRefused as reason:
                self.refused[key] = str(reason)
            except OSError as reason:
                self.refused[key] = f"its file cannot be read: {reason}"
        for key, reason in self.refused.items():
            log.warning("session %s was not brought back: %s", key, reason)

    def _recovered(self, record: Record) -> Session:
        session = session_of(record, self.pager.shape, self.model)
        if len(record.parts) > len(record.pages()):
            content = files.read_part(self.store.folder.file(record.key), LOGITS)
            session.last_logits = torch.frombuffer(content, dtype=torch.float32)
        self.pager.recover(session.residence, Saved(files.size(record)))
        return session
