"""Djinn's resume: the intervals of MEASURES for prefill and decode pauses, cold and warm, by layer.

Cold: every session was parked and is on the host, and others fill the arena; each is resumed in turn and somebody must go
for it. Warm: the session is resumed at once, still on the device. Cost: a prefill a sample for prefill pauses, one decode
step for decode pauses, and a prefill for each session that fills the arena.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from evaluation import lengths
from evaluation.parking import put_aside
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for, shape_of

IN_ARENA = 8  # sessions that the arena of this rule holds
Progress = Callable[[str], None]


class NotCold(RuntimeError):
    """A sample that should have been cold was not: the arena was larger than this rule assumes."""


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    resume = settings.resume
    count = resume.warmup + resume.samples
    prompts = load_prompts(settings.model, count, resume.prompt_tokens)
    tokens = lengths.djinn_resume(settings)
    budget = budget_for(settings.weights, IN_ARENA, resume.prompt_tokens, tokens)
    cases: list[dict[str, Any]] = []
    with server_for(settings, tokens, budget) as server, djinn.connect(server.endpoint) as client:
        runner = Cases(client, prompts, resume.warmup, count)
        for layer in resume.layers:
            progress(f"djinn: prefill pauses at layer {layer}, cold and warm")
            cases += [runner.prefill_cold(layer), runner.prefill_warm(layer)]
        runner.open_decoders(progress)
        for layer in resume.layers:
            progress(f"djinn: decode pauses at layer {layer}, cold and warm")
            cases += [runner.decode_cold(layer), runner.decode_warm(layer)]
        plan = client.server.plan
    return {"system": "djinn", "prompt_tokens": resume.prompt_tokens, "plan": plan, "cases": cases}


class Cases:
    def __init__(self, client: djinn.Client, prompts: list[list[int]], warmup: int, count: int) -> None:
        self.client, self.prompts, self.warmup, self.count = client, prompts, warmup, count
        self.shape = shape_of(client.server.model)
        session = client.open()
        self.reference = session.prefill(prompts[warmup]).logits  # of an uninterrupted pass
        session.close()
        self.decoders: list[djinn.Session] = []
        self.fillers: list[djinn.Session] = []

    def prefill_cold(self, layer: int) -> dict[str, Any]:
        sessions = [self.client.open() for _ in self.prompts]
        for session, prompt in zip(sessions, self.prompts, strict=True):
            session.prefill(prompt, break_at=layer)
        case = self._cold("prefill", layer, sessions)
        for session in sessions:
            session.close()
        return case

    def prefill_warm(self, layer: int) -> dict[str, Any]:
        samples, equal = [], None
        for index, prompt in enumerate(self.prompts):
            session = self.client.open()
            session.prefill(prompt, break_at=layer)
            out = session.resume()
            session.close()
            samples.append(intervals(out.stamps))
            if index == self.warmup:
                equal = bool(np.array_equal(out.logits, self.reference))
        return self._case("prefill", "warm", layer, samples, 0, equal)

    def open_decoders(self, progress: Progress) -> None:
        progress(f"djinn: {len(self.prompts)} sessions prefilled for the decode pauses")
        for prompt in self.prompts:
            self.decoders.append(self.client.open())
            self.decoders[-1].prefill(prompt)

    def decode_cold(self, layer: int) -> dict[str, Any]:
        for session in self.decoders:
            session.generate(max_new_tokens=1, break_at=layer, break_token=1)
        return self._cold("decode", layer, self.decoders)

    def decode_warm(self, layer: int) -> dict[str, Any]:
        samples = []
        for session in self.decoders:
            session.generate(max_new_tokens=1, logits="none")  # comes back whole, if it was away
            session.generate(max_new_tokens=1, break_at=layer, break_token=1)
            samples.append(intervals(session.resume().stamps))
        return self._case("decode", "warm", layer, samples, 0, None)

    def _free(self) -> int:
        return self.client.stats()["bytes"]["arena_free_bytes"]

    def _fill(self, sessions: list[djinn.Session]) -> None:
        """Park `sessions`, then fill the arena with others until no further one would fit."""
        for session in self.fillers:
            session.close()
        put_aside(sessions)
        self.fillers = []
        while self._free() >= self.shape.kv_bytes(len(self.prompts[0])):
            self.fillers.append(self.client.open())
            self.fillers[-1].prefill(self.prompts[len(self.fillers) % len(self.prompts)], logits="none")
            if len(self.fillers) > 4 * IN_ARENA:
                raise NotCold(
                    f"{len(self.fillers)} sessions do not fill the arena: it is larger than this rule assumes"
                )

    def _cold(self, phase: str, layer: int, sessions: list[djinn.Session]) -> dict[str, Any]:
        self._fill(sessions)
        samples, equal = [], None
        before = self.client.stats()["bytes"]["restored_bytes"]
        for index, session in enumerate(sessions):
            free, state = self._free(), session.state
            if state != "host" or free >= self.shape.kv_bytes(len(self.prompts[0])):
                raise NotCold(f"layer {layer}, sample {index}: session is {state}, {free} bytes of the arena are free")
            out = session.resume()
            samples.append(intervals(out.stamps))
            if phase == "prefill" and index == self.warmup:
                equal = bool(np.array_equal(out.logits, self.reference))
        moved = self.client.stats()["bytes"]["restored_bytes"] - before
        return self._case(phase, "cold", layer, samples, moved // self.count, equal)

    def _case(
        self, phase: str, temperature: str, layer: int, samples: list[dict], moved: int, equal: bool | None
    ) -> dict[str, Any]:
        return {
            "phase": phase,
            "temperature": temperature,
            "layer": layer,
            "bytes": moved,
            "logits_bit_equal": equal,
            "samples": samples[self.warmup :],
        }


def intervals(stamps: dict[str, int]) -> dict[str, float]:
    """MEASURES' five intervals (ms) from the stamps of one resume."""

    def ms(later: str, earlier: str) -> float:
        return (stamps[later] - stamps[earlier]) / 1e6

    return {
        "ready_ms": ms("ready", "accepted"),
        "first_layer_ms": ms("first_layer", "ready"),
        "logits_ms": ms("logits", "accepted"),
        "resident_ms": ms("resident", "accepted"),
        "client_ms": ms("client_received", "client_called"),
    }
