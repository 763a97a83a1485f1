"""Decode attention over slabs that lie anywhere in the arena, as three Triton kernels. `RowAttention` is what calls them.

No kept library reads keys and values through a table of addresses, one for each session and layer, in this layout, and a
loop of calls over the sessions leaves most of the memory's bandwidth unused. rows.py is the plain form, which needs no
Triton and which these are tested against.

A session's tokens are taken in splits of a fixed number, whoever shares the pass, and what they gave is put together in
their order: a row's bits depend on its own tokens alone. Split and combined as in flash decoding (Dao et al., 2023).
Cost: every key and value is read once; 4 bytes a value of each split's sum are written and read again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SPLIT = 128  # tokens of one program
BLOCK = 8  # of these at a time
WARPS = 2  # with these three an H100 reads 2.56 TB/s, of 2.97 that a plain copy gets there


@triton.jit
def _rotate_and_write(QKV, COS, SIN, TABLE, POSITIONS, Q, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr):
    head, row = tl.program_id(0), tl.program_id(1)
    position = tl.load(POSITIONS + row)
    half: tl.constexpr = D // 2
    low = tl.arange(0, half)
    source = QKV + (row * (HEADS + 2 * KV_HEADS) + head) * D
    a = tl.load(source + low).to(tl.float32)
    b = tl.load(source + half + low).to(tl.float32)
    if head < HEADS + KV_HEADS:
        cos_a = tl.load(COS + row * D + low).to(tl.float32)
        sin_a = tl.load(SIN + row * D + low).to(tl.float32)
        cos_b = tl.load(COS + row * D + half + low).to(tl.float32)
        sin_b = tl.load(SIN + row * D + half + low).to(tl.float32)
        a, b = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    if head < HEADS:
        target = Q + (row * HEADS + head) * D
        tl.store(target + low, a.to(Q.dtype.element_ty))
        tl.store(target + half + low, b.to(Q.dtype.element_ty))
    elif position >= 0:
        slab = tl.load(TABLE + row).to(tl.pointer_type(Q.dtype.element_ty))
        # keys of all heads, then values of all heads: the heads of QKV behind the queries lie in the same order
        target = slab + position.to(tl.int64) * (2 * KV_HEADS * D) + (head - HEADS) * D
        tl.store(target + low, a.to(Q.dtype.element_ty))
        tl.store(target + half + low, b.to(Q.dtype.element_ty))


@triton.jit
def _attend_split(
    Q, TABLE, POSITIONS, SUMS, PEAKS, WEIGHTS, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head's softmax over one split. Each of BLOCK lanes keeps its own running maximum, so that none waits for another."""
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tokens = tl.load(POSITIONS + row) + 1
    begin = split * SPLIT
    if begin < tokens:
        d, lane = tl.arange(0, D), tl.arange(0, BLOCK)
        slab = tl.load(TABLE + row).to(tl.pointer_type(Q.dtype.element_ty))
        keys = slab + (head // (HEADS // KV_HEADS)) * D + d[None, :]
        q = tl.load(Q + (row * HEADS + head) * D + d).to(tl.float32) * scale
        peaks = tl.full((BLOCK,), -1e30, tl.float32)
        weights = tl.zeros((BLOCK,), tl.float32)
        sums = tl.zeros((BLOCK, D), tl.float32)
        for at in range(begin, tl.minimum(begin + SPLIT, tokens), BLOCK):
            token = at + lane
            there = token < tokens
            place = keys + token.to(tl.int64)[:, None] * (2 * KV_HEADS * D)
            k = tl.load(place, mask=there[:, None], other=0.0).to(tl.float32)
            v = tl.load(place + KV_HEADS * D, mask=there[:, None], other=0.0).to(tl.float32)
            x = tl.where(there, tl.sum(k * q[None, :], 1), -1e30)
            higher = tl.maximum(peaks, x)
            p = tl.where(there, tl.exp(x - higher), 0.0)
            kept = tl.exp(peaks - higher)
            sums = sums * kept[:, None] + p[:, None] * v
            weights = weights * kept + p
            peaks = higher
        peak = tl.max(peaks, 0)
        share = tl.exp(peaks - peak)
        at = (row * HEADS + head) * tl.num_programs(1) + split
        tl.store(SUMS + at * D + d, tl.sum(sums * share[:, None], 0))
        tl.store(PEAKS + at, peak)
        tl.store(WEIGHTS + at, tl.sum(weights * share, 0))


@triton.jit
def _combine(
    SUMS, PEAKS, WEIGHTS, POSITIONS, OUT,
    HEADS: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1)
    used = tl.cdiv(tl.load(POSITIONS + row) + 1, SPLIT)
    split, d = tl.arange(0, PADDED), tl.arange(0, D)
    there = split < used
    at = (row * HEADS + head) * SPLITS + split
    peaks = tl.load(PEAKS + at, mask=there, other=-float("inf"))
    share = tl.where(there, tl.exp(peaks - tl.max(peaks, 0)), 0.0)
    weight = tl.sum(share * tl.load(WEIGHTS + at, mask=there, other=0.0), 0)
    sums = tl.load(SUMS + at[:, None] * D + d[None, :], mask=there[:, None], other=0.0)
    out = tl.sum(share[:, None] * sums, 0) / tl.where(used > 0, weight, 1.0)
    tl.store(OUT + (row * HEADS + head) * D + d, out.to(OUT.dtype.element_ty))


class RowAttention:
    """Attention of one token for each of `rows` sessions. Its buffers are taken once; a row at position -1 is padding."""

    def __init__(
        self,
        rows: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows, self.heads, self.kv_heads, self.head_dim = rows, heads, kv_heads, head_dim
        self.splits = triton.cdiv(max_tokens, SPLIT)
        self.queries = torch.empty((rows, heads, head_dim), dtype=dtype, device=device)
        self.out = torch.empty((rows, heads * head_dim), dtype=dtype, device=device)
        partial = (rows, heads, self.splits)
        self.sums = torch.empty((*partial, head_dim), dtype=torch.float32, device=device)
        self.peaks, self.weights = (torch.empty(partial, dtype=torch.float32, device=device) for _ in range(2))

    def __call__(
        self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, table: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Rotate, write the new token's key and value to its slab, attend; returns `(rows, heads * head_dim)`.

        qkv: `(rows, (heads + 2 * kv_heads) * head_dim)`. cos, sin: `(rows, head_dim)`. table: int64 `(rows,)`, the address
        of each session's slab of this layer. positions: int32 `(rows,)`, of the new token; -1 in padding.
        """
        heads, kv_heads, d = self.heads, self.kv_heads, self.head_dim
        _rotate_and_write[(heads + 2 * kv_heads, self.rows)](
            qkv, cos, sin, table, positions, self.queries, heads, kv_heads, d, num_warps=1
        )
        _attend_split[(heads, self.splits, self.rows)](
            self.queries, table, positions, self.sums, self.peaks, self.weights, d**-0.5,
            heads, kv_heads, d, SPLIT, BLOCK, num_warps=WARPS,
        )  # fmt: skip
        _combine[(heads, self.rows)](
            self.sums, self.peaks, self.weights, positions, self.out,
            heads, d, SPLIT, self.splits, triton.next_power_of_2(self.splits), num_warps=4,
        )  # fmt: skip
        return self.out
