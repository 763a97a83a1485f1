"""What a well-formed configuration may ask for and the model or the device cannot give, in words. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from djinn.model.presets import PRESETS, WHEEL_MODEL, depth, parameters
from djinn.sizes import DTYPE_BYTES, format_bytes, parse_bytes
from evaluation import lengths

GPT2 = "gpt2-small"
# section of the config → the rules whose sessions begin with prompts of its prompt_tokens, and grow
LONGEST = {
    "oversubscription": (lengths.oversubscription,),
    "resume": (lengths.djinn_resume, lengths.dispatch, lengths.concurrent, lengths.zero_change),
    "breakpoints": (lengths.breakpoints,),
    "checkpoint_cost": (lengths.checkpoint_cost,),
}
ONLY_FOR = {"path": "path", "hub_id": "hub", "revision": "hub"}  # key of model → the source that reads it
CPU_ALLOCATORS = ("default", "mmap64k", "mmap1m", "arena1")  # what each means: parking_lot.py
CUDA_ALLOCATORS = ("default", "expandable", "split512")


def of_another_source(settings: Any) -> list[str]:
    """One line for each key of model that its source does not read: it names weights, and others would be taken."""
    return [
        f"config: model.{key} = {value!r}: expected null for source {settings.model.source} (source {source} reads it)"
        for key, source in ONLY_FOR.items()
        if (value := getattr(settings.model, key)) is not None and settings.model.source != source
    ]


def beyond_the_model(settings: Any) -> list[str]:
    """One line for each layer, and for each length, that the model does not have."""
    model = settings.model
    known = {"wheel": [WHEEL_MODEL], "random": sorted(PRESETS)}.get(model.source)
    if known and model.name not in known:
        return [f"config: model.name = {model.name!r}: expected one of {', '.join(known)} for source {model.source}"]
    layers = model_layers(model)
    wrong = list(_layers(_breakpoints(settings), layers, model.name))
    wrong += _layers(_numbered("breakpoints.gpt2_layers", settings.breakpoints.gpt2_layers), depth(GPT2), GPT2)
    if settings.oversubscription.break_at == layers:
        wrong.append(
            f"config: oversubscription.break_at = {layers}: expected {layers - 1} at most "
            f"(the peers are stopped before the layer behind it, and {model.name} has {layers})"
        )
    for section, rules in LONGEST.items():
        wrong += _length(settings, section, rules, model.name)
    wrong += _length(settings, "breakpoints", LONGEST["breakpoints"], GPT2)
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


def _length(settings: Any, section: str, rules: tuple[Callable[[Any], int], ...], model: str) -> Iterator[str]:
    longest = PRESETS.get(model, {}).get("max_position_embeddings")
    asked = getattr(settings, section).prompt_tokens
    rule = max(rules, key=lambda tokens: tokens(settings))
    new = rule(settings) - asked
    if longest is not None and asked + new > longest:
        yield (
            f"config: {section}.prompt_tokens = {asked}: expected {longest - new} at most "
            f"(of {model}'s {longest} positions {rule.__name__} needs {new} for new tokens)"
        )


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
    """One line for each budget that leaves nothing to give out, as far as the weights' size is known."""
    budget, model = settings.budget, settings.model
    device, overhead = parse_bytes(budget.device), parse_bytes(budget.overhead)
    wrong = []
    if overhead >= device:
        wrong.append(
            f"config: budget.overhead = {budget.overhead!r}: expected less than budget.device, {budget.device!r}"
        )
    elif (weights := _weights_bytes(model)) is not None and device - overhead <= weights:
        wrong.append(
            f"config: budget.device = {budget.device!r}: expected more than {format_bytes(weights + overhead)}, "
            f"which the weights of {model.name} in {model.dtype} and budget.overhead take"
        )
    if parse_bytes(budget.host) == 0:
        wrong.append(f"config: budget.host = {budget.host!r}: expected room for the sessions that leave the device")
    return wrong


def _weights_bytes(model: Any) -> int | None:
    numbers = parameters(model.name) if model.source in ("wheel", "random") else None
    return None if numbers is None else numbers * DTYPE_BYTES[model.dtype]


def not_here(settings: Any) -> list[str]:
    """One line for each thing that the config names and this machine does not have."""
    model, peers, wrong = settings.model, settings.peers, []
    if model.source == "path" and not (Path(model.path or model.name) / "config.json").is_file():
        name, value = ("path", model.path) if model.path else ("name", model.name)
        wrong.append(f"config: model.{name} = {value!r}: expected a folder with config.json in it, for source path")
    if peers.vllm == "on" and not Path(peers.vllm_python).exists():
        wrong.append(
            f"config: peers.vllm_python = {peers.vllm_python!r}: expected a Python that is there, since peers.vllm is on "
            "(`make vllm` makes one)"
        )
    return wrong
