"""Provision: what this machine can do at best, and that a server starts on it, answers, pauses once and leaves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

import djinn
from evaluation.prompts import load_prompts
from evaluation.servers import await_pool, budget_for, server_for

SIZES_MIB = (1, 4, 16, 64)
REPEATS = 9
PROMPT_TOKENS = 64
LEAVES_WITHIN_S = 10.0
Progress = Callable[[str], None]


class ServerStayed(RuntimeError):
    """A server that was told to leave is still there."""


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    progress(f"provision: copies on {settings.device}")
    result = {"ceilings": copy_ceilings(torch.device(settings.device))}
    progress("provision: a server starts, answers, pauses a session and leaves")
    return result | {"server": first_server(settings)}


def copy_ceilings(device: torch.device) -> dict[str, dict[str, float]]:
    """GB/s (1e9) by block size: host to host; on CUDA also pinned and pageable host to device, and back. Median of nine."""
    ceilings: dict[str, dict[str, float]] = {"memcpy_GBps": {}}
    for size in SIZES_MIB:
        name, count = f"{size}MiB", size * 2**20
        host, other = torch.ones(count, dtype=torch.uint8), torch.zeros(count, dtype=torch.uint8)
        ceilings["memcpy_GBps"][name] = _speed(other, host)
        if device.type == "cuda":
            pinned, card = host.pin_memory(), torch.zeros(count, dtype=torch.uint8, device=device)
            for kind, target, source in (
                ("h2d_pinned", card, pinned),
                ("d2h_pinned", pinned, card),
                ("h2d_pageable", card, host),
            ):
                ceilings.setdefault(f"{kind}_GBps", {})[name] = _speed(target, source)
    return ceilings


def _speed(target: torch.Tensor, source: torch.Tensor) -> float:
    wait = torch.cuda.synchronize if target.is_cuda or source.is_cuda else lambda: None
    seconds = []
    for _ in range(REPEATS + 2):  # two to warm up
        wait()
        began = time.perf_counter()
        target.copy_(source, non_blocking=True)
        wait()
        seconds.append(time.perf_counter() - began)
    return source.nbytes / statistics.median(seconds[2:]) / 1e9


def first_server(settings: Any) -> dict[str, Any]:
    """Seconds to start, from there to the first pause, and from the start until all of its host pool was ready; left: its
    process is gone. None but for the pause, where the server is not ours."""
    prompt = load_prompts(settings.model, 1, PROMPT_TOKENS)[0]
    budget = budget_for(settings.weights, 1, PROMPT_TOKENS, PROMPT_TOKENS)
    with server_for(settings, PROMPT_TOKENS, budget, wait_for_pool=False) as server:
        with djinn.connect(server.endpoint) as client:
            began = time.monotonic()
            session = client.open()
            session.prefill(prompt, break_at=1)
            paused = time.monotonic() - began
            session.resume()
            session.close()
            if server.pid:
                await_pool(client)
            pool = time.monotonic() - began
        process = psutil.Process(server.pid) if server.pid else None
    left = None
    if process is not None:
        left = not psutil.wait_procs([process], timeout=LEAVES_WITHIN_S)[1]
        if not left:
            raise ServerStayed(
                f"the server (pid {process.pid}) is still there {LEAVES_WITHIN_S:.0f} s after it was told to leave"
            )
    return {
        "start_s": server.start_s,
        "first_pause_s": paused,
        "pool_s": server.start_s + pool if server.pid else None,
        "left": left,
    }
