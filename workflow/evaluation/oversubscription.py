"""MEASURES' oversubscription: N sessions alive at once whose KV does not fit, each resumed and compared with itself alone.

Each session prefills its own prompt with a breakpoint in the middle, goes on, and pauses again in decode, so its
prompt's KV exists in every layer. At the barrier all N are paused; then each generates. Nothing closes before all are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from djinn.sizes import format_bytes, parse_bytes
from evaluation import lengths
from evaluation.process_memory import Reader, Sampler
from evaluation.prompts import load_prompts
from evaluation.servers import server_for
from evaluation.settings import given_out

STOPPED = {"paused", "io_wait", "evicting", "host"}
Progress = Callable[[str], None]


class NotOversubscribed(RuntimeError):
    """The barrier did not hold what the experiment is about."""


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    wanted = settings.oversubscription
    prompts = load_prompts(settings.model, wanted.sessions, wanted.prompt_tokens)
    reader = Reader(settings.device)
    with (
        server_for(settings, lengths.oversubscription(settings), given_out(settings.budget)) as server,
        djinn.connect(server.endpoint) as client,
        djinn.connect(server.endpoint) as watcher,
    ):
        budget = client.server.plan["device_budget_bytes"] + parse_bytes(settings.budget.overhead)
        run = Run(client, watcher, reader, server.pid, prompts, wanted, budget, progress)
        return run.all()


class Run:
    def __init__(
        self,
        client: djinn.Client,
        watcher: djinn.Client,
        reader: Reader,
        pid: int | None,
        prompts: list[list[int]],
        wanted: Any,
        budget: int,
        progress: Progress,
    ) -> None:
        self.client, self.watcher, self.reader, self.pid = client, watcher, reader, pid
        self.prompts, self.wanted, self.budget, self.progress = prompts, wanted, budget, progress
        self.plan = client.server.plan
        self.phases: list[dict[str, Any]] = []
        self.dispatch: list[float] = []

    def all(self) -> dict[str, Any]:
        with Sampler(lambda: self.tiers(self.watcher)) as sampler:
            self.began = sampler.began
            sessions, by_n, paused_at = self.phase("prefill", self.fill)
            barrier = self.phase("barrier", lambda: self.barrier(sessions))
            outs, waits, decodes, parked = self.phase("resume", lambda: self.resume(sessions, paused_at))
        moved = {
            k: v
            for k, v in self.client.stats()["bytes"].items()
            if k in ("evicted_bytes", "restored_bytes", "evictions", "restores")
        }
        for session in sessions:
            session.close()
        equal = self.phase("alone", lambda: self.alone(outs))
        spans = {phase["name"]: phase["end_s"] - phase["start_s"] for phase in self.phases}
        return {
            "sessions": self.wanted.sessions,
            "prompt_tokens": self.wanted.prompt_tokens,
            "new_tokens": self.wanted.new_tokens,
            "break_at": self.wanted.break_at,
            "budget_bytes": self.budget,
            **{k: self.plan[k] for k in ("weights_bytes", "workspace_bytes", "arena_bytes", "host_budget_bytes")},
            "by_n": by_n,
            "timeline": sampler.rows,
            "phases": self.phases,
            "barrier": barrier,
            "completed": len(outs),
            "bit_equal": sum(equal),
            "moved": moved,
            "seconds": {
                "total": spans["prefill"] + spans["barrier"] + spans["resume"],
                "prefill": spans["prefill"],
                "parked": float(np.mean(parked)),
                "restore_wait": sum(waits),
                "decode": sum(decodes),
                "alone": spans["alone"],
            },
            "client_dispatch_ms": self.dispatch,
        }

    def phase(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic() - self.began
        result = work()
        self.phases.append({"name": name, "start_s": start, "end_s": time.monotonic() - self.began})
        return result

    def tiers(self, client: djinn.Client) -> dict[str, Any]:
        lives = client.stats()["bytes"]
        return {
            **{tier: lives[tier] for tier in ("device_bytes", "host_bytes", "disk_bytes")},
            "process_bytes": self.reader.read(self.pid) if self.pid else None,
        }

    def fill(self) -> tuple[list[djinn.Session], list[dict], list[int]]:
        sessions, by_n, paused_at = [], [], []
        for number, prompt in enumerate(self.prompts, 1):
            session = self.client.open()
            pause = session.prefill(prompt, break_at=self.wanted.break_at)
            self.dispatched(pause.stamps)
            pause = session.resume(max_new_tokens=1, break_at=self.wanted.break_at, break_token=1)
            self.dispatched(pause.stamps)
            sessions.append(session)
            paused_at.append(pause.stamps["done"])
            tiers = self.tiers(self.client)
            live = tiers["device_bytes"] + tiers["host_bytes"] + tiers["disk_bytes"]
            by_n.append({"sessions": number, **tiers, "demand_bytes": live + self.plan["weights_bytes"]})
            if number % 10 == 0 or number == len(self.prompts):
                self.progress(
                    f"oversubscription: {number} sessions paused, {format_bytes(tiers['host_bytes'])} off the device"
                )
        return sessions, by_n, paused_at

    def barrier(self, sessions: list[djinn.Session]) -> dict[str, Any]:
        alive = sum(session.state in STOPPED for session in sessions)
        tiers = self.tiers(self.client)
        live = tiers["device_bytes"] + tiers["host_bytes"] + tiers["disk_bytes"]
        demand, budget = live + self.plan["weights_bytes"], self.budget
        off = tiers["host_bytes"] + tiers["disk_bytes"]
        if alive != self.wanted.sessions or demand <= budget or off < demand - budget:
            raise NotOversubscribed(
                f"{alive} of {self.wanted.sessions} sessions paused, demand {format_bytes(demand)} on a budget of "
                f"{format_bytes(budget)}, {format_bytes(off)} off the device: "
                "raise oversubscription.sessions or lower budget.device"
            )
        self.progress(
            f"oversubscription: barrier, {alive} alive, demand {format_bytes(demand)} on {format_bytes(budget)}"
        )
        return {
            "sessions_alive": alive,
            **tiers,
            "demand_bytes": demand,
            "demand_over_budget": demand / budget,
            "off_device_fraction": off / live,
        }

    def resume(
        self, sessions: list[djinn.Session], paused_at: list[int]
    ) -> tuple[list[djinn.Out], list[float], list[float], list[float]]:
        outs, waits, decodes, parked = [], [], [], []
        for session, since in zip(sessions, paused_at, strict=True):
            out = session.resume(max_new_tokens=self.wanted.new_tokens)
            self.dispatched(out.stamps)
            outs.append(out)
            waits.append((out.stamps["ready"] - out.stamps["accepted"]) / 1e9)
            decodes.append((out.stamps["done"] - out.stamps["ready"]) / 1e9)
            parked.append((out.stamps["accepted"] - since) / 1e9)
            if len(outs) % 10 == 0 or len(outs) == len(sessions):
                self.progress(f"oversubscription: {len(outs)} sessions resumed and finished")
        return outs, waits, decodes, parked

    def alone(self, outs: list[djinn.Out]) -> list[bool]:
        """The same sessions, one at a time with nobody beside them and never paused: tokens and last logits, bit for bit."""
        equal = []
        for prompt, out in zip(self.prompts, outs, strict=True):
            session = self.client.open()
            alone = session.prefill(prompt, max_new_tokens=1 + self.wanted.new_tokens)
            session.close()
            equal.append(
                bool(np.array_equal(alone.tokens[1:], out.tokens) and np.array_equal(alone.logits, out.logits))
            )
        self.progress(f"oversubscription: {sum(equal)} of {len(equal)} bit-equal to the session run alone")
        return equal

    def dispatched(self, stamps: dict[str, int]) -> None:
        """Client's call to the server's accepted, on one machine's monotonic clock (ms)."""
        self.dispatch.append((stamps["accepted"] - stamps["client_called"]) / 1e6)
