"""A hand-written swap of many sessions, as a careful engineer writes it without an own loop over the layers.

Sessions of equal length share a buffer in groups and decode as one batch; a group moves to the host and back in one copy.
As many groups stay on the device as the budget holds, one room is for the group in work, the rest is swapped. A session
waits between two tokens: inside a pass plain `transformers` cannot be left and entered again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Cache

from djinn.sizes import format_bytes
from djinn.tiers.pools import HostMemory
from evaluation.contenders.by_hand import Local
from evaluation.contenders.contender import Evidence, Job, Unable
from evaluation.contenders.continuing import keep, kept
from evaluation.continuation import Slot

Tensor = torch.Tensor
WAITING = 4  # sessions put aside at a time, where one after the other is gone on with


class Group:
    """Sessions decoded together: their prompts, their KV `(layers, 2, rows, kv_heads, capacity, head_dim)`, their tokens."""

    def __init__(self, prompts: list[list[int]], room: Tensor) -> None:
        self.prompts, self.room = prompts, room  # the room may be larger than the group
        self.length = len(prompts[0])
        self.first: Tensor | None = None  # (rows, 1)
        self.away: Tensor | None = None  # the KV on the host

    def cache(self, used: int, rows: slice) -> Cache:
        layers = [Slot(layer[0][rows], layer[1][rows]) for layer in self.room]
        for layer in layers:
            layer.used = used
        return Cache(layers=layers)


class HandSwap(Local):
    # 13 leaves least of 50 sessions without room where 39 have it, 25 takes the fewest passes; what is likeliest comes first
    TUNED = ({"batch": 13}, {"batch": 25}, {"batch": 4})
    TUNED_WHOLE = True
    pinned: bool

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if len(set(map(len, job.prompts))) > 1:
            raise Unable("it decodes groups of equal lengths, and these prompts are of several")
        capacity = len(job.prompts[0]) + job.new_tokens + 1
        one = capacity * self.facts["kv_bytes_per_token"]
        self.batch = min(job.setting["batch"], job.kv_room // one)  # a group is no larger than the device
        if self.batch < 1:
            raise Unable(f"a session keeps {format_bytes(one)}, the budget leaves {format_bytes(job.kv_room)}")
        self.shape = (self.facts["layers"], 2, self.batch, self.facts["kv_heads"], capacity, self.facts["head_dim"])
        self.fit = job.kv_room // (self.batch * one)
        groups = -(-len(job.prompts) // self.batch)
        self.rooms = [
            torch.zeros(self.shape, dtype=self.model.dtype, device=self.place) for _ in range(min(self.fit, groups))
        ]
        away = groups - len(self.rooms)
        self._held = ExitStack()
        self.buffers = self._held.enter_context(self._host_buffers(away, self.shape))

    def close(self) -> None:
        self._held.close()

    @contextmanager
    def _host_buffers(self, count: int, shape: tuple[int, ...]) -> Iterator[list[Tensor]]:
        """Inside, pinned memory, which belongs before the work: taken as Djinn takes its own, as torch's pinned tensors 42 GB
        took 35 s, and their sizes are rounded up to powers of two. Pageable memory is taken as it comes, which is what people
        write."""
        if not (self.pinned and count):
            yield []
            return
        one = math.prod(shape) * self.model.dtype.itemsize
        memory = HostMemory(count * one, pinned=self.place.type == "cuda", chunk=one)
        try:
            if not memory.wait():
                raise Unable(f"{count} buffers of {format_bytes(one)} could not be pinned")
            yield [memory.bytes[at : at + size].view(self.model.dtype).view(shape) for at, size in memory.chunks]
        finally:
            memory.close()

    def workload(self, sessions: int) -> dict[str, Any]:
        prompts = self.job.prompts[:sessions]
        self.parts = dict.fromkeys(("prefill", "offload", "restore", "decode"), 0.0)
        self.wait()
        began = time.perf_counter()
        groups, rooms = [], list(self.rooms)
        cut = [prompts[start : start + self.batch] for start in range(0, sessions, self.batch)]
        for number, mine in enumerate(cut):
            group = Group(mine, rooms[0])
            self._timed("prefill", self._prefill, group)
            groups.append(group)
            if len(rooms) > 1 or number == len(cut) - 1:
                rooms.pop(0)  # it stays
            else:
                self._timed("offload", self._offload, group)
        off_device = sum(group.away.nbytes for group in groups if group.away is not None)
        tokens: dict[int, list[list[int]]] = {}
        for number in sorted(range(len(groups)), key=lambda number: groups[number].away is not None):
            group = groups[number]
            if group.away is not None:
                self._timed("restore", self._restore, group, rooms.pop())
            tokens[number] = self._timed("decode", self._decode, group)
            rooms.append(group.room)
        return {
            "seconds": time.perf_counter() - began,
            "tokens": [row for number in range(len(groups)) for row in tokens[number]],
            "paused": True,
            "parts": self.parts,
            "off_device_bytes": off_device,
        }

    def _timed(self, part: str, work: Any, *given: Any) -> Any:
        began = time.perf_counter()
        result = work(*given)
        self.wait()
        self.parts[part] += time.perf_counter() - began
        return result

    def _prefill(self, group: Group) -> None:
        first = []
        for row, prompt in enumerate(group.prompts):
            logits = self.forward(self.ids(prompt), group.cache(0, slice(row, row + 1)))
            first.append(logits.argmax(-1, keepdim=True))
        group.first = torch.cat(first)

    def _offload(self, group: Group) -> None:
        if self.pinned:
            group.away = self.buffers.pop()
            group.away.copy_(group.room, non_blocking=True)
            self.wait()
        else:
            group.away = group.room.to("cpu", copy=True)

    def _restore(self, group: Group, room: Tensor) -> None:
        self._bring(group, room)
        if self.pinned:
            self.buffers.append(group.away)
        group.away = None

    def _bring(self, group: Group, room: Tensor) -> None:
        """Not by way of another tensor on the device: that is room which the budget has not."""
        group.room = room
        room.copy_(group.away, non_blocking=self.pinned)
        self.wait()

    def _decode(self, group: Group, new: int | None = None) -> list[list[int]]:
        cache = group.cache(group.length, slice(0, len(group.prompts)))
        tokens = [group.first]
        for _ in range(self.job.new_tokens if new is None else new):
            tokens.append(self.forward(tokens[-1], cache).argmax(-1, keepdim=True))
        return torch.cat(tokens, 1).tolist()

    def _one(self, number: int) -> Group:
        group = Group([self.job.prompts[number % len(self.job.prompts)]], self.rooms[0])
        self._prefill(group)
        return group

    @contextmanager
    def _groups_of_one(self, waiting: int = 1) -> Iterator[None]:
        """Inside, one room and as many buffers as sessions wait, each for one session: the room is a piece of a group's."""
        rooms, buffers = self.rooms, self.buffers
        shape = (*self.shape[:2], 1, *self.shape[3:])
        self.rooms = [rooms[0].view(-1)[: math.prod(shape)].view(shape)]
        try:
            with self._host_buffers(waiting, shape) as self.buffers:
                yield
        finally:
            self.rooms, self.buffers = rooms, buffers

    @contextmanager
    def repeating(self) -> Iterator[None]:
        with super().repeating(), self._groups_of_one():
            yield

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """In groups of one, whatever is fastest for many: a session comes back no faster than that. Each of those that wait is
        asked more than once, from the copy that it left on the host."""
        times = []
        with self._groups_of_one(WAITING):
            waiting = []
            for number in range(WAITING):
                waiting.append(self._one(number))
                self._offload(waiting[-1])
            for number in range(warmup + samples):
                group = waiting[number % WAITING]
                self.rooms[0].fill_(float("nan"))
                times.append(self.ms(lambda group=group: (self._bring(group, self.rooms[0]), self._decode(group, 1))))
        return {"offloaded": times[warmup:]}

    def stop(self) -> Evidence:
        return self.stop_with_a_hook()

    def edit(self) -> Evidence:
        """By a hook, in the pass over its own buffer; held against the hook in the plain forward."""
        prompt = self.job.prompts[0]
        with self.scaling() as fired:
            group = Group([prompt], self.rooms[0])
            logits = self.forward(self.ids(prompt), group.cache(0, slice(0, 1)))
        assert fired == [len(prompt)], fired
        return self.compare_edit(logits, prompt)

    def park(self) -> Evidence:
        same, moved = self._swapped()
        same_or = "equal" if same else "differ"
        seen = f"between tokens: {moved} bytes to the host, its room overwritten, back again: tokens {same_or}"
        return Evidence("partly" if same else "no", f"{seen}; not inside a pass")

    def exact(self) -> Evidence:
        same, _ = self._swapped()
        return Evidence("partly" if same else "no", f"between tokens only: tokens {'equal' if same else 'differ'}")

    def _swapped(self) -> tuple[bool, int]:
        """(whether a session swapped between two tokens goes on as one that stayed, bytes moved)"""
        whole = self._decode(self._one(0))
        group = self._one(0)
        self._offload(group)
        moved = group.away.nbytes
        self.rooms[0].fill_(float("nan"))
        self._restore(group, self.rooms[0])
        return self._decode(group) == whole, moved

    def leave(self, folder: Path) -> None:
        group = self._one(0)
        keep(folder, kv=group.room[:, :, :1], first=group.first)

    def come_back(self, folder: Path) -> Evidence:
        whole = self._decode(self._one(0))
        session = kept(folder, self.place)
        group = Group([self.job.prompts[0]], self.rooms[0])
        group.room[:, :, :1].copy_(session["kv"])
        group.first = session["first"]
        same = self._decode(group) == whole
        seen = f"between tokens, by a safetensors file of its own: tokens {'equal' if same else 'differ'}"
        return Evidence("partly" if same else "no", seen)
