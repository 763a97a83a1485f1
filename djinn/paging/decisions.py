"""What the policy decides and the mover carries out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from djinn.errors import DjinnError, OutOfMemory
from djinn.paging.residence import Body, Request, Residence, Saving
from djinn.paging.transfers import Transfer


@dataclass(frozen=True)
class Grant:
    """All that the request needs is on the device."""

    request: Request


@dataclass(frozen=True)
class Move:
    """A transfer has begun; for a restore, `request` is what it is for."""

    transfer: Transfer
    residence: Residence
    request: Request | None = None
    evicted: int = 0  # sessions that have left the device for it at once


@dataclass(frozen=True)
class Evicted:
    """It has left the device at once, since the host held every byte: ask again."""

    residence: Residence


@dataclass(frozen=True)
class Spill:
    body: Body


@dataclass(frozen=True)
class Fetch:
    body: Body
    key: str  # of its session's durable file: it may be closed before that is read


@dataclass(frozen=True)
class Yielded:
    """A duplicate's room is free: ask again."""


@dataclass(frozen=True)
class Refuse:
    """Nothing can make room for it, and nobody runs who might end."""

    request: Request
    error: OutOfMemory


@dataclass(frozen=True)
class Save:
    """The session's pages lie still, and are pinned: they are to be written to its durable file."""

    saving: Saving


@dataclass(frozen=True)
class RefuseSave:
    """There is no room on the disk for its file, or none in the host pool on the way there."""

    saving: Saving
    error: DjinnError


@dataclass(frozen=True)
class RefuseRead:
    """There is no room in the host pool to read the session into."""

    body: Body
    error: DjinnError


Step = Grant | Move | Evicted | Spill | Fetch | Yielded | Refuse | Save | RefuseSave | RefuseRead
