"""Decoding and keeping a session by hand: greedy tokens, sizes, and a file that outlives the process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import Cache

if TYPE_CHECKING:
    from evaluation.contenders.by_hand import Local


def greedy(local: Local, cache: Cache, token: int, new: int) -> list[int]:
    """`new` tokens after `token`, one row."""
    ids, tokens = local.ids([token]), []
    for _ in range(new):
        ids = local.forward(ids, cache).argmax(-1, keepdim=True)
        tokens.append(ids)
    return torch.cat(tokens, 1)[0].tolist() if tokens else []


def kv_bytes(cache: Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def keep(folder: Path, **tensors: torch.Tensor) -> None:
    """Written whole, fsync left to the system: a process's death loses nothing that was written."""
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / "session.safetensors")


def kept(folder: Path, place: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(place) for name, tensor in load_file(folder / "session.safetensors").items()}
