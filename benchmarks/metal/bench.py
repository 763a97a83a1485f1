"""What the groups share: one server at a time and its client, the plain model in this process, prompts.

A server's start pins host memory for seconds, so one is kept until another kind of it is asked for, or a row failed.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import torch

import djinn
from benchmarks.metal.local import Local
from benchmarks.metal.report import say
from benchmarks.metal.setting import Setting
from evaluation.servers import MARGIN_TOKENS, await_pool, budget_for

FILLERS = 4  # idle sessions kept beyond those that the arena holds


class Bench:
    def __init__(self, setting: Setting, vllm: str | None = None) -> None:
        self.setting, self.vllm = setting, vllm
        self._server: djinn.LocalServer | None = None
        self._client: djinn.Client | None = None
        self._kind: tuple[Any, ...] = ()
        self._local: Local | None = None

    # -- servers -----------------------------------------------------------------------------------------------------

    def small(self) -> djinn.Client:
        """A server whose arena holds `in_arena` sessions, small enough to leave room for the plain model beside it."""
        s = self.setting
        room = (s.parked + s.in_arena + FILLERS + 2) * s.shape.kv_bytes(s.tokens)
        facts = {
            "layers": s.depth,
            "kv_heads": s.shape.kv_heads,
            "head_dim": s.shape.head_dim,
            "hidden_size": s.shape.hidden_size,
            "dtype": s.dtype,
            "bytes": s.weights_bytes,
            "intermediate_size": preset(s)["intermediate_size"],
            "vocab_size": preset(s)["vocab_size"],
        }
        longest = s.tokens + 2 * len(s.layers) + 2
        budget = budget_for(facts, s.in_arena, s.tokens, longest)
        return self.client(device_budget=budget, host_budget=room, max_tokens=longest + MARGIN_TOKENS)

    def full(self, wait_for_pool: bool = True, **options: Any) -> djinn.Client:
        """A server with the budget of the paper setting; the plain model makes room for it."""
        self.drop_local()
        s = self.setting
        sizes = {"device_budget": s.budget, "host_budget": s.full_host, "prefill_tokens": 2 * s.session_tokens}
        return self.client(wait_for_pool, **(sizes | options))

    def client(self, wait_for_pool: bool = True, **options: Any) -> djinn.Client:
        """A client of the server with these options: the one that runs, or a new one in its place."""
        s = self.setting
        longest = max(s.tokens, s.session_tokens, *(tokens for _, tokens in s.oversub)) + MARGIN_TOKENS
        given = {"max_tokens": longest + MARGIN_TOKENS} | options | s.options
        kind = tuple(sorted(given.items()))
        if self._client is not None and kind == self._kind:
            return self._client
        self.stop()
        say(f"a server starts: {given}")
        self._server = djinn.serve(
            s.model,
            weights="random",
            dtype=s.dtype,
            seed=s.seed,
            device=s.device,
            threads=1 if s.device == "cpu" else None,
            **given,
        )
        self._kind = kind
        self._client = djinn.connect(self._server.endpoint)
        say(f"it accepts after {self._server.start_s:.1f} s")
        if wait_for_pool:
            await_pool(self._client)
        return self._client

    @property
    def server(self) -> djinn.LocalServer:
        return self._server

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()
        self._client = self._server = None

    # -- the plain model ---------------------------------------------------------------------------------------------

    def local(self) -> Local:
        if self._local is None:
            say("the plain model is loaded beside it")
            self._local = Local(self.setting)
        return self._local

    def drop_local(self) -> None:
        """Give back what this process holds of the card."""
        self._local = None
        gc.collect()
        torch.cuda.empty_cache()

    # -- prompts -----------------------------------------------------------------------------------------------------

    def prompts(self, count: int, tokens: int, seed: int = 0) -> np.ndarray:
        """(count, tokens) int64: no two sessions share a prefix."""
        return np.random.default_rng([seed, count, tokens]).integers(
            3, preset(self.setting)["vocab_size"], (count, tokens)
        )


def preset(setting: Setting) -> dict[str, Any]:
    from djinn.model.presets import PRESETS

    return PRESETS[setting.model]


def settle(client: djinn.Client) -> None:
    """Return when no session is on its way between the tiers."""
    while any(state in client.stats()["sessions"] for state in ("evicting", "restoring")):
        time.sleep(0.001)


def ms(stamps: dict[str, int], later: str, earlier: str) -> float:
    return (stamps[later] - stamps[earlier]) / 1e6
