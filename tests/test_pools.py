"""Host memory becomes usable chunk by chunk, and no extent ever lies in two chunks."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from djinn.tiers.pools import HostMemory, HostPool, Pool


def opened(capacity: int, unit: int) -> HostPool:
    pool = HostPool(HostMemory(capacity, pinned=False, chunk=4096), unit)
    pool.open(threading.Condition())
    return pool


def test_no_extent_crosses_a_chunk():
    pool = opened(5 * 4096 + 1024, 256)
    while pool.growing:
        time.sleep(0.001)
    assert pool.extents.free_bytes == pool.extents.capacity
    taken = []
    while extents := pool.extents.take_scattered(256 * 3):
        taken += extents
    assert taken
    assert all(e.start // 4096 == (e.end - 1) // 4096 for e in taken)
    pool.close()


def test_what_is_not_ready_is_not_handed_out(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(HostMemory, "_pin", lambda self, chunk: None if gate.wait(30) else "never")
    pool = opened(8192, 256)
    assert pool.growing
    assert pool.extents.take(256) is None
    gate.set()
    while pool.growing:
        time.sleep(0.001)
    assert pool.extents.take(256)
    pool.close()


def test_memory_that_cannot_be_made_ready_makes_the_pool_smaller(monkeypatch):
    told = iter([None, "CUDA error 2"])
    monkeypatch.setattr(HostMemory, "_pin", lambda self, chunk: next(told))
    pool = opened(3 * 4096, 256)
    while pool.growing:
        time.sleep(0.001)
    assert pool.capacity == pool.extents.free_bytes == 4096 - 256
    pool.close()


def test_whoever_waits_hears_whether_all_of_it_is_ready(monkeypatch):
    assert HostMemory(10_000, pinned=False, chunk=4096).wait()
    monkeypatch.setattr(HostMemory, "_pin", lambda self, chunk: "CUDA error 2")
    assert not HostMemory(10_000, pinned=False, chunk=4096).wait()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_view_is_the_extents_bytes(dtype):
    pool = Pool(4096, torch.device("cpu"), 256)
    (extent,) = pool.extents.take(512)
    pool.view(extent, dtype, 4, 8).fill_(1)
    assert pool.at(extent.start, 32 * dtype.itemsize).view(dtype).eq(1).all()
