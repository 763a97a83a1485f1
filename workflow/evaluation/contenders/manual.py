"""Manual offload with an own loop over the layers: what a careful engineer writes for one model type, pinned buffers and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.contenders.by_hand import Local
from evaluation.contenders.contender import FACTOR, Evidence, Unable
from evaluation.contenders.continuing import keep, kept
from evaluation.continuation import Case, Layers, Pass, SessionCache, Timer, make_cases, resume
from evaluation.manual_offload import Paused

Tensor = torch.Tensor


class Manual(Local):
    def __init__(self, job: Any) -> None:
        super().__init__(job)
        self.loop = Layers(self.model)

    def _cases(self, number: int) -> dict[str, Case]:
        prompt = self.job.prompts[number % len(self.job.prompts)]
        return {case.phase: case for case in make_cases(self.model, [prompt], [self.job.layer])}

    def _held(self, tokens: int) -> SessionCache:
        return SessionCache(self.facts, tokens, self.model.lm_head.weight)

    def workload(self, sessions: int) -> dict[str, Any]:
        raise Unable("the loop is for one session; of many, written by hand, are the rows of the hand-written swap")

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """A pause in decode at layer L, its hidden state and KV in host buffers allocated before.

        Whatever was not restored is NaN and shows in the logits; whether they are the same bits is what `exact` asks.
        """
        times = []
        for number in range(warmup + samples):
            case = self._cases(number)["decode"]
            restore, before, _ = Paused(self.loop, self._held(case.prompt.shape[1] + 1), case).full()
            before()
            sample, logits = resume(self.loop, case.layer, restore, Timer(self.place), True)
            assert bool(logits.isfinite().all()), "the session was not restored whole"
            times.append(sample["logits_ms"])
        return {"offloaded": times[warmup:]}

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        return self.in_turn(
            warmup,
            samples,
            plain=lambda prompt: self.whole(prompt).cpu(),
            hook=lambda prompt: self.hooked(prompt).cpu(),
            own=self._scaled,
        )

    def _scaled(self, prompt: list[int]) -> Tensor:
        cache = self._held(len(prompt)).start([0] * self.depth)
        hidden, given = self.loop.begin(Pass(self.ids(prompt), 0))
        below = self.loop.run(hidden, given, cache, 0, self.job.layer)
        return self.loop.logits(self.loop.run(below * FACTOR, given, cache, self.job.layer, self.depth))

    def stop(self) -> Evidence:
        prompt, other = self.job.prompts[0], self.job.prompts[1]
        cache = DynamicCache(config=self.model.config)
        with self.counting() as ran:
            hidden, given = self.loop.begin(Pass(self.ids(prompt), 0))
            hidden = self.loop.run(hidden, given, cache, 0, self.job.layer)
            below = list(ran)
            self.whole(other)
            between = len(ran) - len(below)
            logits = self.loop.logits(self.loop.run(hidden, given, cache, self.job.layer, self.depth))
            above = ran[len(below) + between :]
        assert below + above == list(range(1, self.depth + 1)) and between == self.depth, ran
        same = torch.equal(logits, self.whole(prompt).cpu())
        seen = f"its own loop ran {len(below)} layers, {between} of another prompt, then the other {len(above)}"
        return Evidence(
            "yes" if same else "no", f"{seen}; logits bit-equal: {same}; a loop written for this model type"
        )

    def edit(self) -> Evidence:
        return self.compare_edit(self._scaled(self.job.prompts[0]).to(self.place), self.job.prompts[0])

    def park(self) -> Evidence:
        return self._put_aside("prefill", "its buffer was another session's meanwhile")

    def exact(self) -> Evidence:
        return self._put_aside("decode", "paused in decode, restored from host buffers")

    def _put_aside(self, phase: str, how: str) -> Evidence:
        case = self._cases(0)[phase]
        held = self._held(case.prompt.shape[1] + 1)
        restore, before, moved = Paused(self.loop, held, case).full()
        before()  # NaN wherever the session was
        assert bool(held.buffer.isnan().all())
        with self.counting() as ran:
            _, logits = resume(self.loop, case.layer, restore, Timer(self.place), True)
        again = len([number for number in ran if number <= case.layer])
        same = torch.equal(logits, case.reference)
        seen = f"{how}; {moved} bytes moved back, {again} layers run again, logits bit-equal: {same}"
        return Evidence("yes" if same and again == 0 else "no", seen)

    def leave(self, folder: Path) -> None:
        ids = self.ids(self.job.prompts[0])
        held = self._held(ids.shape[1])
        hidden, given = self.loop.begin(Pass(ids, 0))
        hidden = self.loop.run(hidden, given, held.start([0] * self.depth), 0, self.job.layer)
        keep(folder, ids=ids, hidden=hidden, kv=held.buffer[: self.job.layer])

    def come_back(self, folder: Path) -> Evidence:
        session = kept(folder, self.place)
        held = self._held(session["ids"].shape[1])
        held.poison()
        held.buffer[: self.job.layer] = session["kv"]
        tokens = session["ids"].shape[1]
        cache = held.start([tokens if layer < self.job.layer else 0 for layer in range(self.depth)])
        given = self.loop.tables(Pass(session["ids"], 0), session["hidden"])
        logits = self.loop.logits(self.loop.run(session["hidden"], given, cache, self.job.layer, self.depth))
        same = torch.equal(logits, self.whole(self.job.prompts[0]).cpu())
        return Evidence(
            "yes" if same else "no", f"by a safetensors file of its own, read in a new process; bit-equal: {same}"
        )


SYSTEM = Manual
