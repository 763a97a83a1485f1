"""Breakpoint correctness: paused at each layer in prefill and in decode, parked both times, resumed: are the tokens the same?

Two models: the campaign's, at its quarter points and the seed's layer 20, and GPT-2 small at the seed's 3, 6 and 9. The
same prompts run uninterrupted, interrupted at each layer, and through plain transformers. Always on servers of its own:
a server elsewhere holds one model in one dtype. Nothing here is timed, so both models are asked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import djinn
from evaluation import lengths
from evaluation.limits import GPT2
from evaluation.parking import put_aside
from evaluation.plain import Plain
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

GPT2_HUB = "openai-community/gpt2"
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    wanted = settings.breakpoints
    torch.set_num_threads(settings.threads)
    asked = {"dtype": wanted.dtype}
    gpt2 = {"name": GPT2, "source": wanted.gpt2_source, "seed": settings.model.seed, "path": None, "revision": None}
    models = {
        "campaign": (vars(settings.model) | asked, wanted.layers, wanted.prompts),
        "gpt2": (gpt2 | asked | {"hub_id": GPT2_HUB}, wanted.gpt2_layers, wanted.gpt2_prompts),
    }
    plain = {which: Plain(model, settings.device) for which, (model, _, _) in models.items()}  # they share torch's seed
    with ThreadPoolExecutor(len(models), "model") as pool:
        found = {
            which: pool.submit(of_model, settings, plain[which], *asked_of, partial(_say, progress, which))
            for which, asked_of in models.items()
        }
    return {
        "prompt_tokens": wanted.prompt_tokens,
        "new_tokens": wanted.new_tokens,
        "models": {which: rows.result() for which, rows in found.items()},
    }


def _say(progress: Progress, which: str, text: str) -> None:
    progress(f"breakpoints, {which}: {text}")


def of_model(
    settings: Any, plain: Plain, model: dict[str, Any], layers: list[int], count: int, progress: Progress
) -> dict[str, Any]:
    """One model: `count` uninterrupted sessions against plain transformers, and each layer's against both."""
    wanted, section = settings.breakpoints, SimpleNamespace(**model)
    prompts = load_prompts(section, count, wanted.prompt_tokens)
    tokens = lengths.breakpoints(settings)
    own = SimpleNamespace(**{**vars(settings), "model": section, "server": None, "weights": plain.facts})
    budget = budget_for(plain.facts, len(prompts), tokens, tokens)
    with ExitStack() as stack:
        server = stack.enter_context(server_for(own, tokens, budget, decode_rows=len(prompts), held=len(prompts)))
        client = stack.enter_context(djinn.connect(server.endpoint))
        alone, compared = [], []
        for prompt, out in zip(prompts, uninterrupted(client, prompts, wanted.new_tokens), strict=True):
            compared.append(plain.compare(prompt, out.tokens, out.logits))
            alone.append((out.tokens, out.logits[-1]))
        progress("plain transformers generates the same prompts")
        generated = list(plain.generate(prompts, wanted.new_tokens))
        rows = []
        for layer in layers:
            rows.append({"layer": layer, **held_against(interrupted(client, prompts, layer, wanted), alone, generated)})
            progress(f"layer {layer}: {sum(rows[-1]['as_uninterrupted'])} of {rows[-1]['tokens']} tokens the same")
    same = [matched(ours, theirs) for (ours, _), theirs in zip(alone, generated, strict=True)]
    return {
        "facts": plain.facts,
        "prompts": count,
        "layers": rows,
        "plain": {"tokens": wanted.new_tokens * len(prompts), "as_generate": same, "positions": compared},
    }


def uninterrupted(client: djinn.Client, prompts: list[list[int]], new_tokens: int) -> list[djinn.Out]:
    """Tokens, and the logits of every position computed: `(prompt + new_tokens - 1, vocabulary)`."""
    sessions = [client.open() for _ in prompts]
    asked = [
        session.prefill(prompt, max_new_tokens=new_tokens, logits="all", wait=False)
        for session, prompt in zip(sessions, prompts, strict=True)
    ]
    outs = [pending.result() for pending in asked]
    for session in sessions:
        session.close()
    return outs


def interrupted(
    client: djinn.Client, prompts: list[list[int]], layer: int, wanted: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, last logits) of sessions paused after `layer` layers of their prefill and of the pass of their middle token.

    All stand paused at once, each time off the device.
    """
    half = wanted.new_tokens // 2
    sessions = [client.open() for _ in prompts]
    for pending in [s.prefill(p, break_at=layer, wait=False) for s, p in zip(sessions, prompts, strict=True)]:
        pending.result()
    put_aside(sessions)
    into_decode = [s.resume(max_new_tokens=half, break_at=layer, break_token=half, wait=False) for s in sessions]
    first = [pending.result().tokens for pending in into_decode]
    put_aside(sessions)
    to_the_end = [s.resume(max_new_tokens=wanted.new_tokens - half, wait=False) for s in sessions]
    rest = [pending.result() for pending in to_the_end]
    for session in sessions:
        session.close()
    return [(np.concatenate([a, b.tokens]), b.logits) for a, b in zip(first, rest, strict=True)]


def held_against(
    found: list[tuple[np.ndarray, np.ndarray]], alone: list[tuple[np.ndarray, np.ndarray]], plain: list[np.ndarray]
) -> dict[str, Any]:
    """By prompt: tokens that are the uninterrupted session's, and plain generate's; how many end in the same logits."""
    return {
        "tokens": sum(len(tokens) for tokens, _ in found),
        "as_uninterrupted": [matched(tokens, whole) for (tokens, _), (whole, _) in zip(found, alone, strict=True)],
        "as_generate": [matched(tokens, whole) for (tokens, _), whole in zip(found, plain, strict=True)],
        "bit_equal": sum(np.array_equal(a, b) for (_, a), (_, b) in zip(found, alone, strict=True)),
    }


def matched(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Positions with the same token."""
    return int(np.sum(np.asarray(ours) == np.asarray(theirs)))
