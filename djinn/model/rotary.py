"""Rotary tables that grow with the longest sequence seen: brought back to the start before every pass.

With `rope_type` dynamic, transformers keeps the longest length ever seen in the module and scales the frequencies by
it, so one session's long pass would change another's bits. From its first state the module computes what the running
pass's own positions ask for. Longrope chooses by the pass's positions alone, but leaves its choice in the module too.

Both ask for the largest position of the whole pass: a row would get its table by the longest of its neighbours.
"""

from __future__ import annotations

import torch

GROWING = ("dynamic", "longrope")


class RotaryState:
    """The first state of every rotary module that changes as it runs; nothing for the models that have none."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._first = [(m, *_first_state(m)) for m in model.modules() if _grows(m)]
        self.grows = bool(self._first)

    def reset(self) -> None:
        for module, buffers, plain in self._first:
            # Copies, since newer transformers write the frequencies in place; ordinary tensors, since somebody may run the
            # model outside of inference mode next.
            with torch.inference_mode(False):
                module._buffers.update({name: value.clone() for name, value in buffers.items()})
            vars(module).update(plain)


def _grows(module: torch.nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)  # Gemma 3 has one for each type of layer
    kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
    return any(word in kind for kind in kinds if isinstance(kind, str) for word in GROWING)


def _first_state(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Buffers, and what else is a number or a tensor, as they were before the model's first pass: it may have run already."""
    buffers = {name: value.clone() for name, value in module.named_buffers(recurse=False)}
    plain = {name: value for name, value in vars(module).items() if isinstance(value, (int, float, torch.Tensor))}
    for name in list(buffers):
        if name.endswith("original_inv_freq"):
            buffers[name.replace("original_inv_freq", "inv_freq")] = buffers[name]
    for name in plain:
        if name.endswith("max_seq_len_cached"):
            plain[name] = module.original_max_seq_len
    return buffers, plain
