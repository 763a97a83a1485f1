"""Where one session's bytes lie. Plain data: the pager changes it under its lock, the engine fills in what is live."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from djinn.sizes import KVShape
from djinn.states import Machine
from djinn.tiers.extents import Extent, aligned


@dataclass
class Kept:
    """A hidden state kept for a pause or a checkpoint."""

    rows: int  # tokens
    device: Extent | None = None
    filled: bool = False  # reserved for a pause that has not come yet, until then


@dataclass
class Need:
    """What a request must have on the device before it may run."""

    tokens: int  # KV capacity
    keeps: dict[str, int] = field(default_factory=dict)  # name of a hidden state to be kept -> its rows


@dataclass
class Residence:
    key: str
    shape: KVShape
    machine: Machine
    capacity: int = 0  # tokens a slab can hold
    lengths: list[int] = field(default_factory=list)  # live tokens of each layer
    kept: dict[str, Kept] = field(default_factory=dict)
    slabs: list[Extent] = field(default_factory=list)  # one for each layer, on the device
    host: Extent | None = None
    hidden_suffices: bool = False  # stopped in its first prefill: no layer above has KV, the kept state is all it needs
    wanted: bool = False  # a request waits for it: the last to be a victim
    moving: bool = False  # a copy reads or writes its bytes: they may not be freed
    released: bool = False
    resident: threading.Event = field(default_factory=threading.Event)  # all of its KV is on the device
    stamps: dict[str, int] = field(default_factory=dict)  # ready, resident: of the last resume, ns

    def live_bytes(self) -> int:
        """Bytes that hold something: live tokens of every layer, and kept hidden states."""
        kv = sum(self.lengths) * self.shape.layer_token_bytes
        return kv + sum(self.shape.hidden_bytes(kept.rows) for kept in self.kept.values() if kept.filled)

    def host_bytes(self) -> int:
        """What the packed copy takes in the host pool."""
        return aligned(self.live_bytes()) if self.live_bytes() else 0

    def device_sizes(self, need: Need) -> list[int]:
        """Extents (bytes) that `need` takes: a slab for each layer, then kept hidden states that are here, then new ones."""
        rows = [kept.rows for kept in self.kept.values()] + list(need.keeps.values())
        slab = need.tokens * self.shape.layer_token_bytes
        return [slab] * self.shape.layers + [self.shape.hidden_bytes(count) for count in rows]
