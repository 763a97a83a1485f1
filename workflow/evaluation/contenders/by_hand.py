"""What the contenders written by hand share: the plain model in this process, its hooks, stamps and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from transformers import Cache, DynamicCache

from djinn.model.load import load_model
from evaluation.contenders.contender import FACTOR, Contender, Evidence, Job

Tensor = torch.Tensor


class LeftForward(Exception):
    """Raised in a hook to leave the forward: the only way out of it that a hook has."""


class Local(Contender):
    """A contender that holds transformers' own model of the Llama type in its process. Every pass is without gradients."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_num_threads(job.threads)
        torch.set_grad_enabled(False)
        loaded = load_model(**job.model, device=job.device)
        self.model, self.facts = loaded.model, loaded.facts
        self.layers, self.depth = self.model.model.layers, loaded.facts["layers"]
        self.place = self.model.device

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Without cuDNN's attention, whose bits differ from run to run on a card: our server does without it too."""
        torch.backends.cuda.enable_cudnn_sdp(False)
        try:
            yield
        finally:
            torch.backends.cuda.enable_cudnn_sdp(True)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "transformers")}

    def ids(self, tokens: list[int]) -> Tensor:
        return torch.tensor([tokens], device=self.place)

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        """Last-token logits `(rows, vocabulary)`, on the device."""
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def whole(self, prompt: list[int]) -> Tensor:
        """The uninterrupted prefill's last-token logits."""
        return self.forward(self.ids(prompt), DynamicCache(config=self.model.config))

    def wait(self) -> None:
        if self.place.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, call: Callable[[], Any]) -> float:
        """Milliseconds of one call, the device idle at both ends."""
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return 1000 * (time.perf_counter() - began)

    def in_turn(self, warmup: int, samples: int, **ways: Callable[[list[int]], Any]) -> dict[str, list[float]]:
        """way → ms, one sample of each way in turn, another prompt each time."""
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(warmup + samples):
            prompt = self.job.prompts[number % len(self.job.prompts)]
            for way, call in ways.items():
                times[way].append(self.ms(lambda call=call, prompt=prompt: call(prompt)))
        return {way: listed[warmup:] for way, listed in times.items()}

    @contextmanager
    def scaling(self) -> Iterator[list[int]]:
        """Inside, a forward hook scales layer L's output by FACTOR; what is yielded holds how often it did."""
        fired: list[int] = []

        def scale(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
            fired.append(output.shape[1])
            return output * FACTOR

        handle = self.layers[self.job.layer - 1].register_forward_hook(scale)
        try:
            yield fired
        finally:
            handle.remove()

    def hooked(self, prompt: list[int]) -> Tensor:
        with self.scaling() as fired:
            logits = self.whole(prompt)
        assert fired == [len(prompt)], f"the hook saw passes of {fired} tokens"
        return logits

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """The hook is its own way."""
        return self.in_turn(warmup, samples, plain=lambda p: self.whole(p).cpu(), hook=lambda p: self.hooked(p).cpu())

    @contextmanager
    def counting(self) -> Iterator[list[int]]:
        """Inside, every layer that runs is noted by its number, from 1: at its attention, which a skipped layer does not reach."""
        ran: list[int] = []
        handles = [
            layer.self_attn.register_forward_hook(lambda module, inputs, output, number=number: ran.append(number))
            for number, layer in enumerate(self.layers, 1)
        ]
        try:
            yield ran
        finally:
            for handle in handles:
                handle.remove()

    def compare_edit(self, ours: Tensor, prompt: list[int]) -> Evidence:
        """Our edited last-token logits against the hook's."""
        hook, plain = self.hooked(prompt), self.whole(prompt)
        assert not torch.equal(hook, plain), "the edit changed nothing: this probe shows nothing"
        difference = float((ours.float() - hook.float()).abs().max())
        step = 2 ** torch.floor(torch.log2(hook.float().abs().max())) * torch.finfo(hook.dtype).eps
        seen = f"max |Δlogit| {difference:.3g} to a forward hook, {float((hook - plain).abs().max()):.3g} to the unedited pass"
        return Evidence("yes" if difference <= step else "no", seen)

    def stop_with_a_hook(self) -> Evidence:
        """Leave the forward by an exception in a hook before layer L+1, run another prompt, and call the forward again."""
        prompt, other = self.job.prompts[0], self.job.prompts[1]
        cache = DynamicCache(config=self.model.config)

        def leave(module: torch.nn.Module, inputs: Any) -> None:
            raise LeftForward("out of the forward")

        refused = None
        with self.counting() as ran:
            handle = self.layers[self.job.layer].register_forward_pre_hook(leave)
            try:
                self.forward(self.ids(prompt), cache)
            except LeftForward as error:
                refused = f"{type(error).__name__}: {error}"
            finally:
                handle.remove()
            assert ran == list(range(1, self.job.layer + 1)), f"layers {ran} ran before the hook"
            self.whole(other)
            before = len(ran)
            self.forward(self.ids(prompt), DynamicCache(config=self.model.config))
            again = len([number for number in ran[before:] if number <= self.job.layer])
        assert refused, "the hook did not leave the forward"
        if again == 0:
            return Evidence("yes", "the forward went on where it was left")
        seen = f"an exception leaves the forward, nothing goes back in: going on ran layers 1..{again} again"
        return Evidence("no", seen, refused)
