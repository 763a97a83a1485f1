"""Whether there is, or ever can be, room for a session: what is refused, with the numbers, and what waits. Pure."""

from __future__ import annotations

from djinn.errors import DjinnError, OutOfMemory, StorageError
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body
from djinn.sizes import format_bytes


def too_large(book: Ledger, total: int) -> OutOfMemory | None:
    """Why a session that needs `total` bytes on the device can never have them."""
    if total <= book.device.capacity:
        return None
    whole = format_bytes(book.device.capacity)
    return OutOfMemory(
        f"the session needs {format_bytes(total)}, the whole arena has {whole}: start with a larger device_budget"
    )


def may_join(book: Ledger, asking: int) -> bool:
    """Whether, a new session let in, one more could still step aside: else none that is evicted could come back.

    Each tier is taken to hold whole sessions of the largest size, which is what it holds at worst.
    """
    sizes = [asking, *map(book.room, book.bodies())]
    largest = max(sizes)
    tiers = (book.device.capacity, book.host.capacity, book.disk_capacity)
    return sum(sizes) + largest <= sum(capacity // largest * largest for capacity in tiers)


def full(book: Ledger, total: int) -> OutOfMemory | None:
    """There is no room, and nothing is under way that could make some."""
    runs = any(residence.granted for residence in book.residences.values()) or any(map(book.holds, book.waiting))
    if runs or book.more_host() or book.closing or any(body.pins for body in book.bodies()):
        return None
    refuses = " but failed the last write" if book.spill_failed >= 0 else ""
    return OutOfMemory(
        f"no room for {format_bytes(total)}: arena {format_bytes(book.device.free_bytes)} of "
        f"{format_bytes(book.device.capacity)} free, host pool {format_bytes(book.host.free_bytes)} of "
        f"{format_bytes(book.host.capacity)} free, disk {format_bytes(book.disk_free)} of "
        f"{format_bytes(book.disk_capacity)} free{refuses}. Close a session, or start with a larger host_budget or disk_budget"
    )


def cannot_leave(book: Ledger, body: Body) -> DjinnError | None:
    """Why a session on the device will not reach the host pool, whoever leaves it."""
    if body.stays >= 0:
        return StorageError("copying the session off the device failed: it stays there: park it again")
    whole = book.host.room(part.live for part in body.parts.values())
    if whole > book.host.capacity and not book.more_host():
        has = format_bytes(book.host.capacity)
        return OutOfMemory(
            f"the session takes {format_bytes(whole)} on its way to its file, the host pool has {has}: "
            "start with a larger host_budget"
        )
    return None
