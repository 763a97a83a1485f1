"""Decode attention over scattered slabs against the plain form: on a card, or on a CPU by Triton's interpreter.

TRITON_INTERPRET=1 make test ARGS=tests/test_kernels.py    # where Triton is installed beside a torch without CUDA
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional as F

from djinn.model.fused import rotate

CUDA = torch.cuda.is_available()
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA device on this machine, and TRITON_INTERPRET=1 is not set", allow_module_level=True)
kernels = pytest.importorskip("djinn.model.kernels", reason="Triton is not installed (torch for CUDA brings it)")

DEVICE = torch.device("cuda" if CUDA else "cpu")
HEADS, HEAD_DIM, ROOM = 4, 32, 300
POSITIONS = [0, 7, 8, 127, 128, 255, 291, -1]  # at and beside the edges of blocks and splits; the last row is padding


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_attend_as_sdpa_does_over_each_slab(dtype, kv_heads):
    draw = torch.Generator().manual_seed(kv_heads)
    rows = len(POSITIONS)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(DEVICE, dtype)

    slabs = [random(ROOM, 2, kv_heads, HEAD_DIM) for _ in POSITIONS]
    before = [slab.clone() for slab in slabs]
    qkv = random(rows, (HEADS + 2 * kv_heads) * HEAD_DIM)
    cos, sin = (random(rows, HEAD_DIM // 2).repeat(1, 2) for _ in range(2))
    attention = kernels.RowAttention(rows, HEADS, kv_heads, HEAD_DIM, ROOM, dtype, DEVICE)
    attention.out.fill_(float("nan"))
    out = attention(
        qkv,
        cos,
        sin,
        torch.tensor([slab.data_ptr() for slab in slabs], device=DEVICE),
        torch.tensor(POSITIONS, dtype=torch.int32, device=DEVICE),
    )
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    for row, position in enumerate(POSITIONS[:-1]):
        expected, held = plain(before[row], qkv[row], cos[row], sin[row], position, kv_heads)
        assert torch.allclose(out[row].float(), expected.float(), atol=tolerance, rtol=tolerance)
        assert torch.allclose(slabs[row].float(), held.float(), atol=tolerance, rtol=tolerance)
        kept = torch.arange(ROOM) != position
        assert torch.equal(slabs[row][kept], before[row][kept]), "another token's place was written"
    assert torch.equal(slabs[-1], before[-1]), "padding wrote"
    assert not out[-1].any()


def plain(slab, qkv, cos, sin, position, kv_heads):
    """One row by torch's own attention: (what it gives, the slab behind it)."""
    queries, keys, values = qkv.split([HEADS * HEAD_DIM, kv_heads * HEAD_DIM, kv_heads * HEAD_DIM])
    held = slab.clone()
    held[position, 0] = rotate(keys.view(kv_heads, HEAD_DIM), cos, sin)
    held[position, 1] = values.view(kv_heads, HEAD_DIM)
    out = F.scaled_dot_product_attention(
        rotate(queries.view(HEADS, HEAD_DIM), cos, sin)[None, :, None],
        held[None, : position + 1, 0].transpose(1, 2),
        held[None, : position + 1, 1].transpose(1, 2),
        enable_gqa=True,
    )
    return out.flatten(), held


@pytest.mark.parametrize("count", [1, 1023, 1024, 5000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_a_kernel_copies_what_is_asked_and_nothing_beside_it(dtype, count):
    from djinn.model.small_copy import copy

    source = torch.arange(count + 7, device=DEVICE).to(dtype)
    target = torch.full_like(source, -1)
    copy(target[:count], source[:count])
    assert torch.equal(target[:count], source[:count]) and bool((target[count:] == -1).all())


@pytest.mark.skipif(not CUDA, reason="no CUDA device on this machine")
def test_small_numbers_come_and_go_by_a_kernel_beside_copies():
    """The host's memory is written anew at once: who reads it later must have a copy of its own."""
    from djinn.model.upload import _plain, small, uploaded

    assert small(DEVICE)._copy is not _plain, "a kernel cannot reach pinned memory here"
    busy, beside = torch.zeros(1 << 28, dtype=torch.uint8, pin_memory=True), torch.cuda.Stream()
    there = torch.empty_like(busy, device=DEVICE)
    with torch.cuda.stream(beside):
        there.copy_(busy, non_blocking=True)
    kept = [uploaded([list(range(k, k + 3000))], DEVICE) for k in range(200)]
    down = [small(DEVICE).down(one) for one in kept]
    torch.cuda.synchronize()
    for k, one in enumerate(down):
        assert one.tolist() == [list(range(k, k + 3000))]
