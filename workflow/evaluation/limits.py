"""What a well-formed configuration may ask for and the model or the device cannot give, in words. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from djinn.model.presets import PRESETS, depth
from djinn.sizes import parse_bytes

GPT2 = "gpt2-small"
CPU_ALLOCATORS = ("default", "mmap64k", "mmap1m", "arena1")  # what each means: parking_lot.py
CUDA_ALLOCATORS = ("default", "expandable", "split512")


def beyond_the_model(settings: Any) -> list[str]:
    """One line for each layer, and for each length, that the model does not have."""
    model = settings.model
    if model.source in ("wheel", "random") and depth(model.name) is None:
        return [
            f"config: model.name = {model.name!r}: expected one of {', '.join(sorted(PRESETS))} for source {model.source}"
        ]
    layers = model_layers(model)
    wrong = list(_layers(_breakpoints(settings), layers, model.name))
    wrong += _layers(_numbered("breakpoints.gpt2_layers", settings.breakpoints.gpt2_layers), depth(GPT2), GPT2)
    for name, tokens in _lengths(settings).items():
        wrong += _length(name, tokens, model.name)
    wrong += _length("breakpoints.prompt_tokens", _breakpoint_tokens(settings), GPT2)
    return list(dict.fromkeys(wrong))


def _breakpoints(settings: Any) -> dict[str, int]:
    return {
        "oversubscription.break_at": settings.oversubscription.break_at,
        "activation_steering.steering_layer": settings.activation_steering.steering_layer,
        **_numbered("resume.layers", settings.resume.layers),
        **_numbered("breakpoints.layers", settings.breakpoints.layers),
    }


def _numbered(name: str, layers: list[int]) -> dict[str, int]:
    return {f"{name}[{number}]": layer for number, layer in enumerate(layers)}


def _layers(breakpoints: dict[str, int], layers: int | None, model: str) -> Iterator[str]:
    for name, layer in breakpoints.items():
        if layers is None and layer < 1:
            yield f"config: {name} = {layer}: expected 1 or more"
        elif layers is not None and not 1 <= layer <= layers:
            yield f"config: {name} = {layer}: expected 1..{layers} ({model} has {layers} layers)"


def _lengths(settings: Any) -> dict[str, int]:
    over = settings.oversubscription
    return {
        "oversubscription.prompt_tokens": over.prompt_tokens + over.new_tokens,
        "resume.prompt_tokens": settings.resume.prompt_tokens + 1,
        "breakpoints.prompt_tokens": _breakpoint_tokens(settings),
        "checkpoint_cost.prompt_tokens": settings.checkpoint_cost.prompt_tokens,
    }


def _breakpoint_tokens(settings: Any) -> int:
    return settings.breakpoints.prompt_tokens + settings.breakpoints.new_tokens


def _length(name: str, tokens: int, model: str) -> Iterator[str]:
    longest = PRESETS.get(model, {}).get("max_position_embeddings")
    if longest is not None and tokens > longest:
        yield f"config: {name}: {tokens} tokens with the new ones: expected {longest} at most ({model}'s positions)"


def model_layers(model: Any) -> int | None:
    """Decoder layers, from the preset or the local folder's config.json; None when only a hub knows."""
    if model.source == "path":
        config = Path(model.path or model.name) / "config.json"
        return json.loads(config.read_text()).get("num_hidden_layers") if config.is_file() else None
    return None if model.source == "hub" else depth(model.name)


def of_another_device(settings: Any) -> list[str]:
    """One line for each allocator setting that means nothing on the device."""
    known = CPU_ALLOCATORS if settings.device == "cpu" else CUDA_ALLOCATORS
    return [
        f"config: eager.allocators[{number}] = {name!r}: expected one of {', '.join(known)} on {settings.device}"
        for number, name in enumerate(settings.eager.allocators)
        if name not in known
    ]


def beyond_the_budget(settings: Any) -> list[str]:
    """One line where CUDA's own part leaves nothing of the device budget to give out."""
    device, overhead = settings.budget.device, settings.budget.overhead
    if parse_bytes(overhead) < parse_bytes(device):
        return []
    return [f"config: budget.overhead = {overhead!r}: expected less than budget.device, {device!r}"]
