"""transformers' continuous batching: paged KV, prefix sharing, its own pool on the host. It cannot pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evaluation.contenders.by_hand import LeftForward, Local
from evaluation.contenders.contender import (
    FACTOR,
    Evidence,
    Job,
    Unable,
    a_few,
    more_than_fit,
    offload_bytes,
    pool_for,
    said,
    tails,
)
from evaluation.contenders.hf_manager import Batching

BLOCK = 256  # tokens of a block, as shipped


class HFBatching(Local):
    # Left alone it takes the size of a pass from all memory that the machine has free, whatever the budget: it is given here.
    # room: the share of the budget's room for KV that becomes blocks, where a large pass or graphs need some of it.
    # Behind the shipped one those come first that have been the fastest so far, since there may not be time for all.
    TUNED = (
        {"max_batch_tokens": 512},
        {"max_batch_tokens": 4096, "use_cuda_graph": True, "room": 0.85},
        {"max_batch_tokens": 4096},
        {"max_batch_tokens": 16384, "room": 0.85},
        {"max_batch_tokens": 1024, "block_size": 64},
        {"max_batch_tokens": 1024, "cpu_offload_space": True},  # as large as the host budget
    )

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_grad_enabled(True)  # it takes care of this itself, in a thread of its own
        setting = {"block_size": BLOCK, **job.setting}
        if setting.get("use_cuda_graph") and self.place.type != "cuda":
            raise Unable("CUDA graphs need a card")
        if setting.get("cpu_offload_space"):
            setting["cpu_offload_space"] = offload_bytes(job) / 2**30
        room = int(setting.pop("room", 1.0) * job.kv_room)
        setting["num_blocks"] = room // (setting["block_size"] * self.facts["kv_bytes_per_token"])
        if self.place.type == "cuda":
            setting["max_memory_percent"] = 1.0  # the budget says what it may have: its own margin would refuse these
        self.setting = setting
        self.batching = Batching(self.model, job.new_tokens + 1)
        self.unseen = 0
        try:
            self.batching.start(setting)
            self.batching.run([job.prompts[0][:8]], 2)
        except (RuntimeError, ValueError, AssertionError, MemoryError) as error:
            raise Unable(said(error)) from error

    def close(self) -> None:
        self.batching.close()

    @contextmanager
    def tokens_computed(self) -> Iterator[list[int]]:
        """Inside, the tokens of every pass through the first layer are noted."""
        seen: list[int] = []
        hook = self.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
            with_kwargs=True,
        )
        try:
            yield seen
        finally:
            hook.remove()

    @property
    def hooks_fire(self) -> bool:
        """A CUDA graph replays layers without their hooks."""
        return not self.setting.get("use_cuda_graph")

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """And from here on without graphs: the probes stop, edit and count with hooks."""
        if not self.hooks_fire:
            self.setting["use_cuda_graph"] = False
            self.batching.start(self.setting)
        with super().repeating():
            yield

    @property
    def _how(self) -> str:
        """Behind what a hook did."""
        return "; without its CUDA graphs, in which none fires" if self.job.setting.get("use_cuda_graph") else ""

    def workload(self, sessions: int) -> dict[str, Any]:
        self.batching.start(self.setting)  # a new cache: the blocks of an earlier round would be found again
        self.batching.run([self.job.prompts[0][:8]], 2)
        prompts = self.job.prompts[:sessions]
        with self.tokens_computed() as computed:
            self.wait()
            began = time.perf_counter()
            try:
                done = self.batching.run(prompts, self.job.new_tokens + 1)
            except RuntimeError as error:
                if "out of memory" in str(error):  # this setting is none for so many; the others may be
                    raise Unable(said(error)) from error
                raise
            ended = time.perf_counter()
        if self.hooks_fire and sum(computed) < sum(map(len, prompts)):
            raise RuntimeError(f"{sum(computed)} tokens computed: this was not the whole work")
        tokens = [output.generated_tokens for output in done]
        return {
            "seconds": ended - began,
            "tokens": tokens,
            "paused": False,
            "parts": {"all": ended - began},
            "off_device_bytes": 0,
        }

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """The next token of a prompt and its first ones: with its blocks in the cache, and with nothing of it."""
        times: dict[str, list[float]] = {"prefix_cached": [], "dropped": []}
        for number in range(warmup + samples):
            begun = self._unseen(number)
            (two,) = self.batching.run([begun], 2)  # blocks are shared once their request has come to a second token
            sessions = {"prefix_cached": [*begun, *two.generated_tokens], "dropped": [*self._unseen(number), 0, 0]}
            for place, session in sessions.items():
                with self.tokens_computed() as computed:
                    times[place].append(self.ms(lambda session=session: self.batching.run([session], 1)))
                if self.hooks_fire and (place == "dropped") != (sum(computed) >= len(session)):
                    raise RuntimeError(f"{place}: {sum(computed)} of {len(session)} tokens were computed")
        return {place: listed[warmup:] for place, listed in times.items()}

    def _unseen(self, number: int) -> list[int]:
        """A prompt with a first token that it never had before: no block of it is in the cache."""
        self.unseen += 1
        first, *rest = self.job.prompts[number % len(self.job.prompts)]
        return [(first + self.unseen) % self.facts["vocab_size"], *rest]

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """One prompt alone in the batch; prompts differ, so that no block is shared."""
        times: dict[str, list[float]] = {"plain": [], "hook": []}
        for number in range(warmup + samples):
            plain, hooked = self._unseen(number), self._unseen(number)
            times["plain"].append(self.ms(lambda prompt=plain: self.batching.run([prompt], 1)))
            with self.scaling() as fired:
                times["hook"].append(self.ms(lambda prompt=hooked: self.batching.run([prompt], 1)))
            if not fired:
                raise Unable("the hook did not fire in its pass (CUDA graphs replay without hooks)")
        return {way: listed[warmup:] for way, listed in times.items()}

    def stop(self) -> Evidence:
        """A hook that raises, with two requests in flight: what becomes of them."""

        def leave(module: torch.nn.Module, inputs: Any) -> None:
            raise LeftForward("out of the forward")

        handle = self.layers[self.job.layer].register_forward_pre_hook(leave)
        named = self.batching.add(self.job.prompts[:2], 4)
        try:
            done = self.batching.collect(named)
            errors = [output.error for output in done if output.error is not None]
            ended = f"LeftForward: {errors[0]}" if errors else None
        except RuntimeError as error:
            errors, ended = named, said(error)
        finally:
            handle.remove()
        assert errors, "the hook did not fire: this probe shows nothing"
        alive = self.batching.manager.is_running()
        if not alive:
            self.batching.start(self.setting)
        after = "" if alive else ", its generation thread has ended and a new manager is needed"
        return Evidence(
            "no", f"a hook that raises leaves the pass: {len(errors)} of 2 requests are lost{after}{self._how}", ended
        )

    def edit(self) -> Evidence:
        """By a hook; this API gives tokens and their log probabilities, no logits."""
        prompt = self._unseen(2)
        with self.scaling() as fired:
            (hooked,) = self.batching.run([prompt], 1)
        (unhooked,) = self.batching.run([prompt], 1)
        assert fired, "the hook did not fire: this probe shows nothing"
        moved = abs(hooked.logprobs[0] - unhooked.logprobs[0])
        seen = f"a forward hook fired for {sum(fired)} tokens of the batch and moved the log probability by {moved:.3g}"
        return Evidence(
            "partly" if moved > 0 else "no",
            f"{seen} (×{FACTOR} on every request in the pass; no logits come out){self._how}",
        )

    def park(self) -> Evidence:
        """More sessions than the device is given blocks for, each left after two tokens, then each gone on with: what is computed
        again.

        Leaving is ending the request here (or cancel_request, which keeps no more): there is no call that pauses one.
        """
        whole, block_size, tokens = self.setting["num_blocks"], self.setting["block_size"], len(self.job.prompts[0]) + 2
        few = a_few(whole, block_size, tokens)
        many = more_than_fit(few, block_size, tokens)
        given = self.setting | {"num_blocks": few}
        if given.get("cpu_offload_space"):
            given["cpu_offload_space"] = pool_for(self.job, many, block_size, tokens) / 2**30
        self.batching.start(given)
        left = []
        for number in range(many):  # one by one: what a pass costs here grows with the square of its tokens
            prompt = self._unseen(number)
            (done,) = self.batching.run([prompt], 2)
            left.append([*prompt, *done.generated_tokens])
        with self.tokens_computed() as computed:
            for session in left:
                self.batching.run([session], 1)
        every, again = sum(map(len, left)), sum(computed)
        seen = (
            f"{many} sessions, more than the {few} of {whole} blocks that the device was given hold, left, then gone on with: "
            f"{again} of {every} tokens computed again"
        )
        kept = again <= tails(left, block_size)
        return Evidence("partly" if kept else "no", f"{seen}; its pool on the host is its scheduler's alone")

    def exact(self) -> Evidence:
        prompt, new = self._unseen(0), self.job.new_tokens
        (whole,) = self.batching.run([prompt], new)
        half = new // 2
        (first,) = self.batching.run([prompt], half)
        (rest,) = self.batching.run([[*prompt, *first.generated_tokens]], new - half)
        tokens = [*first.generated_tokens, *rest.generated_tokens] == whole.generated_tokens
        numbers = [*first.logprobs, *rest.logprobs] == whole.logprobs
        beside = self.batching.run([prompt, *self.job.prompts[1:6]], new)[0]
        alone = beside.generated_tokens == whole.generated_tokens and beside.logprobs == whole.logprobs
        seen = f"gone on by a new request: tokens equal: {tokens}, log probabilities: {numbers}; beside others, both: {alone}"
        return Evidence("yes" if tokens and numbers and alone else "partly" if tokens else "no", seen)

    def leave(self, folder: Path) -> None:
        self.batching.run([self.job.prompts[0]], 1)

    def come_back(self, folder: Path) -> Evidence:
        with self.tokens_computed() as computed:
            self.batching.run([self.job.prompts[0]], 1)
        return Evidence(
            "no", f"in a new process {sum(computed)} of {len(self.job.prompts[0])} tokens are computed again"
        )


SYSTEM = HFBatching
