"""Does a row of a first pass have the same bits however many rows there are? What prompts that share a pass rest on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from djinn.model.fused import Layer, Shape

Half = Callable[..., torch.Tensor]


def alike(project: Half, after: Half, layer: Layer, shape: Shape, few: int, many: int) -> bool:
    """Whether both halves of a layer give `many` rows the bits that each of these has among `few`.

    By trying, with the same `few` drawn rows over and over. Cost: the products of `few` and of `many` rows in one layer, and
    waiting for them.
    """
    draw = torch.Generator(layer.qkv.device).manual_seed(0)

    def drawn(width: int) -> torch.Tensor:
        like = layer.qkv
        return torch.randn((few, width), generator=draw, device=like.device, dtype=torch.float32).to(like.dtype)

    def halves(hidden: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = project(hidden, layer.norm, layer.qkv, shape.eps)
        out = after(hidden, attended, layer.out, layer.mlp_norm, layer.gate_up, layer.down, shape.eps)
        return projected, out

    given = drawn(layer.qkv.shape[1]), drawn(layer.out.shape[1])
    again = [rows.repeat(-(-many // few), 1)[:many] for rows in given]
    return all(
        torch.equal(part, expected[: len(part)])
        for expected, found in zip(halves(*given), halves(*again), strict=True)
        for part in found.split(few)
    )
