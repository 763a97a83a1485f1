"""What the policy decides and the mover carries out. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from djinn.errors import OutOfMemory
from djinn.paging.moves import Transfer
from djinn.paging.residence import Body, Request, Residence


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


@dataclass(frozen=True)
class Spill:
    body: Body


@dataclass(frozen=True)
class Fetch:
    body: Body


@dataclass(frozen=True)
class Yielded:
    """A duplicate's room is free: ask again."""


@dataclass(frozen=True)
class Refuse:
    """Nothing can make room for it, and nobody runs who might end."""

    request: Request
    error: OutOfMemory


Step = Grant | Move | Spill | Fetch | Yielded | Refuse
