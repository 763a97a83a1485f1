"""transformers' manager of continuous batching for the contender: one at a time, exchanged when another setting is needed."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

PATIENCE_S = 300.0


class Batching:
    """At most one manager over `model`; requests are greedy. new_tokens: of a request, where it asks for no other number."""

    def __init__(self, model: PreTrainedModel, new_tokens: int) -> None:
        self.model = model
        self.greedy = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        self.manager: Any = None
        self._stack = ExitStack()

    def start(self, setting: dict[str, Any]) -> None:
        """In the place of the one that was there, with an empty cache. setting: arguments of ContinuousBatchingConfig."""
        self.close()
        managing = self.model.continuous_batching_context_manager(
            generation_config=self.greedy,
            continuous_batching_config=ContinuousBatchingConfig(return_logprobs=True, **setting),
        )
        self.manager = self._stack.enter_context(managing)

    def close(self) -> None:
        """Its blocks go too: a manager keeps the exception that ended its thread, and with that whatever its thread held."""
        self._stack.close()
        self.manager = None
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def add(self, prompts: list[list[int]], new: int) -> list[str]:
        """The names of their requests."""
        return [self.manager.add_request(prompt, max_new_tokens=new, eos_token_id=-1) for prompt in prompts]

    def run(self, prompts: list[list[int]], new: int) -> list[Any]:
        """The finished outputs in the order of `prompts`. Raises RuntimeError when one failed."""
        done = self.collect(self.add(prompts, new))
        wrong = [output.error for output in done if output.error is not None]
        if wrong:
            raise RuntimeError(f"{len(wrong)} of {len(prompts)} requests failed: {wrong[0]}")
        return done

    def collect(self, named: list[str]) -> list[Any]:
        """The outputs of these requests, failed ones too. Raises RuntimeError where some never end."""
        done: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE_S
        while len(done) < len(named):
            output = self.manager.get_result(timeout=0.5)
            if output is not None and output.is_finished():
                done[output.request_id] = output
            elif output is None and (not self.manager.is_running() or time.monotonic() > until):
                raise RuntimeError(f"{len(named) - len(done)} of {len(named)} requests never ended")
        return [done[name] for name in named]
