"""A copy by a kernel, one of whose ends may be pinned memory of the host. Needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024  # values of one program


@triton.jit(do_not_specialize=["count"])  # else it is compiled anew for some counts, in somebody's request
def _copy(TARGET, SOURCE, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(TARGET + at, tl.load(SOURCE + at, mask=at < count), mask=at < count)


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Queue it on the current stream. Both contiguous, of one dtype and size; a host's tensor must outlive it."""
    count = source.numel()
    _copy[(triton.cdiv(count, BLOCK),)](target, source, count, BLOCK=BLOCK)
