"""Decoding over a table of slab addresses, whole: with its graphs on a card, or step by step in Triton's interpreter on a CPU.

TRITON_INTERPRET=1 make test ARGS=tests/test_rows_pass.py    # where Triton is installed beside a torch without CUDA
"""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace

import pytest
import torch
from small_llama import DEPTH, build, fresh

from djinn.model.loop import Loop
from djinn.model.slabs import SlabCache

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 is not set (tests/test_gpu.py asks a server on a card)", allow_module_level=True)
graphs = pytest.importorskip("djinn.model.graphs", reason="Triton is not installed (torch for CUDA brings it)")

ROWS, ROOM = 8, 64
LENGTHS, TOKENS = (9, 5, 17, 3, 30, 12), (5, 7, 11, 13, 17, 19)
DRAWN = torch.Generator().manual_seed(1)
IDS = [torch.randint(3, 97, (1, length), generator=DRAWN) for length in LENGTHS]


class Nothing:
    """A stream, an event or a graph, where the host computes itself."""

    def __init__(self, *args, **named) -> None: ...

    def __getattr__(self, name: str):
        return lambda *args, **named: None


@pytest.fixture
def loop(monkeypatch) -> Loop:
    for name in ("Stream", "Event", "CUDAGraph", "current_stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, pin_memory=False, **named: zeros(*size, **named))
    up = SimpleNamespace(up=lambda there, pinned: Nothing(there.copy_(pinned)))
    monkeypatch.setattr(graphs, "small", lambda device: up)
    loop = Loop(build(), rows=ROWS, max_tokens=ROOM)
    parts = (loop.model, loop.layers, loop.shape, ROWS, ROOM)
    loop.rows = graphs.RowGraphs(*parts, captured=False, compiled=False)
    return loop


def prefilled(loop: Loop) -> list[SlabCache]:
    caches = [fresh(loop.reentry) for _ in IDS]
    for cache, ids in zip(caches, IDS, strict=True):
        loop.run(cache, ids, 0)
    return caches


@pytest.mark.parametrize("starts", [(0, 0, 2, 4, 4, DEPTH), (3,) * 6, (0,) * 6, (DEPTH,) * 6])
def test_each_joins_at_its_layer_with_the_bits_that_it_has_alone(loop, starts):
    each = list(zip(prefilled(loop), TOKENS, LENGTHS, strict=True))
    alone = [loop.run_rows([cache], [token], [past], ROWS).logits.clone() for cache, token, past in each]
    caches, hidden, began = prefilled(loop), [], []
    for cache, token, past, start in zip(caches, TOKENS, LENGTHS, starts, strict=True):
        stopped = loop.run_rows([cache], [token], [past], ROWS, stop=start) if start else None
        hidden.append(stopped and stopped.hidden)
    found = loop.run_rows(caches, TOKENS, LENGTHS, ROWS, starts=starts, hidden=hidden, on_first=began.append)
    assert began == sorted(set(starts))
    for row, (expected, (other, _, past)) in enumerate(zip(alone, each, strict=True)):
        assert torch.equal(found.logits[row : row + 1], expected)
        assert caches[row].lengths == [past + 1] * DEPTH
        for layer, same in zip(caches[row].layers, other.layers, strict=True):
            assert torch.equal(layer.slab[: past + 1], same.slab[: past + 1])


def test_alone_it_is_near_its_own_pass(loop):
    for cache, other, token, past in zip(prefilled(loop), prefilled(loop), TOKENS, LENGTHS, strict=True):
        found = loop.run_rows([cache], [token], [past], ROWS).logits
        expected = loop.reentry.run(other, torch.tensor([[token]]), past).logits
        assert torch.allclose(found, expected, atol=1e-5)
