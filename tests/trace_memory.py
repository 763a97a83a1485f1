"""Three tiers of bytes behind the accounts' addresses, and what was written: is every byte where the ledger says?"""

from __future__ import annotations

import itertools

from djinn.paging.ledger import Ledger
from djinn.paging.residence import Body, Key, Part, Residence
from djinn.tiers.extents import Extents

UNIT = 16  # bytes that an extent is a multiple of
DEVICE, HOST, DISK = 40 * UNIT, 24 * UNIT, 20 * UNIT
POISON = 0xEE

Pages = dict[Key, bytes]


class Memory:
    """What is free is poisoned at every check."""

    def __init__(self) -> None:
        self.book = Ledger(Extents(DEVICE, UNIT), Extents(HOST, UNIT), DISK)
        self.pools = {"device": bytearray(DEVICE), "host": bytearray(HOST)}
        self.files: dict[int, Pages] = {}  # spilled, by the body's number
        self.durable: dict[str, Pages] = {}  # by session, as it was last saved
        self.truth: dict[str, Pages] = {}  # by session

    def put(self, pool: str, start: int, content: bytes) -> None:
        self.pools[pool][start : start + len(content)] = content

    def get(self, pool: str, start: int, nbytes: int) -> bytes:
        return bytes(self.pools[pool][start : start + nbytes])

    def file(self, body: Body) -> Pages:
        """Of the one tier: the durable file, or the spilled one. A closed session's is gone."""
        if body.durable:
            return self.durable.get(body.sharers[0].key, {}) if body.sharers else {}
        return self.files[body.serial]

    def host_pages(self, body: Body) -> Pages:
        return {key: self._on_host(part) for key, part in body.items()}

    def _on_host(self, part: Part) -> bytes:
        return b"".join(self.get("host", e.start, e.size) for e in part.host)[: part.live]

    def check(self) -> None:
        """No two hold the same bytes, none comes out of nothing, and every session is what was written, in its one tier."""
        bodies = {id(r.body): r.body for r in self.book.residences.values()}.values()
        for pool, extents in (
            (self.book.device, [p.device for b in bodies for p in b.parts.values() if p.device]),
            (self.book.host, [e for b in bodies for p in b.parts.values() for e in p.host]),
        ):
            held = sorted(e for e in extents if e.size)
            assert all(x.end <= y.start for x, y in itertools.pairwise(held)), "two hold the same bytes"
            assert sum(e.size for e in held) + pool.free_bytes <= pool.capacity, "bytes out of nothing"
        for body in bodies:
            assert body.device_bytes == sum(p.device.size for p in body.parts.values() if p.device), "the sum is wrong"
        assert 0 <= self.book.disk_free <= DISK
        for extents, pool in ((self.book.device, "device"), (self.book.host, "host")):
            for hole in extents._free:
                self.put(pool, hole.start, bytes([POISON]) * hole.size)
        for residence in self.book.residences.values():
            self.same(residence, self._tier(residence.body))
            self._counted(residence.body)
            self._needed(residence.body)

    def _needed(self, body: Body) -> None:
        """A hidden state that all have discarded is kept for a copy or a file alone."""
        if body.pins or body.disk_bytes or any(sharer.saving for sharer in body.sharers):
            return
        needed = {key for sharer in body.sharers for key in self.truth[sharer.key]}
        for key, part in body.items():
            assert isinstance(key, int) or not part.live or key in needed, f"{key} is kept for nobody"

    def _counted(self, body: Body) -> None:
        """What is remembered of a body's parts is what they hold."""
        parts, book = body.parts.values(), self.book
        assert body.live_bytes == sum(part.live for part in parts)
        assert body.host_bytes == sum(extent.size for part in parts for extent in part.host)
        assert book.room(body) == sum(book.device.rounded(part.live) for part in parts)

    def _tier(self, body: Body) -> str:
        """The one tier whose copy counts."""
        if body.here:
            return "device"
        return "disk" if body.disk_bytes and body.moving != "spill" else "host"

    def same(self, residence: Residence, tier: str) -> None:
        body = residence.body
        for key, content in self.truth[residence.key].items():
            part = body.parts[key]
            assert part.live == len(content), f"{residence.key} {key}: {part.live} live bytes of {len(content)}"
            if body.moving == "across" or (body.moving == "in" and not body.host_bytes):
                continue  # it grows or comes off a fork: where from is in nobody's accounts; checked when it has landed
            if tier == "device":
                found = self.get("device", part.device.start, part.live)
            elif tier == "host":
                assert part.clean == part.live, "evicted before it was copied"
                found = self._on_host(part)
            else:
                found = self.file(body).get(key, b"")[: part.live]
            assert found == content, f"{residence.key} {key} is not what was written, on the {tier}"

    def check_empty(self) -> None:
        assert self.book.device.free_bytes == self.book.device.capacity, "device bytes were lost"
        assert self.book.host.free_bytes == self.book.host.capacity, "host bytes were lost"
        assert self.book.disk_free == DISK, "disk bytes were lost"
