"""Fingerprints of a loaded model: whether numbers that were made with one mean anything to another.

Cost: every weight read once (about 1 GB/s on one CPU core, the memory's speed on a card); nothing larger than one
number a row is allocated.
"""

from __future__ import annotations

import hashlib
import json

import torch
from transformers import PreTrainedModel

# What a configuration says of where it came from, or of how it is run: the model is the same.
INCIDENTAL = {"_name_or_path", "name_or_path", "transformers_version", "_attn_implementation", "dtype", "torch_dtype"}


def config_sha256(model: PreTrainedModel) -> str:
    """Of the configuration, in hexadecimal."""
    return hashlib.sha256(json.dumps(_essential(model.config.to_dict()), sort_keys=True).encode()).hexdigest()


def _essential(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _essential(inner) for key, inner in value.items() if key not in INCIDENTAL}
    if isinstance(value, list | tuple):
        return [_essential(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@torch.inference_mode()
def weights_sha256(model: PreTrainedModel) -> str:
    """Of every weight and buffer in its dtype, in hexadecimal: names, shapes, and a hash of each row's bits."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        if values.numel():
            rows = torch.hash_tensor(values.reshape(-1, values.shape[-1] if values.dim() else 1), dim=-1)
            digest.update(rows.view(torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()
