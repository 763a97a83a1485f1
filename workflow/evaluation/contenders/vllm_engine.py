"""vLLM's engine for the contender: one at a time, exchanged when a question needs another setting; hooks put on its model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evaluation.contenders.contender import FACTOR, Job, Unable, offload_bytes, said

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the model is in this process, where a hook can be put on it
    VLLM_USE_FLASHINFER_SAMPLER="0",  # compiled at first use, by a compiler that is not everywhere
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
)

import torch
from torch._dynamo.exc import TorchDynamoException
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown

CPU_BLOCK = 128  # tokens of a block, as shipped for CPUs


class Engine:
    """At most one vLLM engine, of the job's sizes. setting: arguments of LLM; an offload of "host_budget" has its size."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._llm: LLM | None = None
        self._setting: dict[str, Any] | None = None
        self._blocks: dict[str, tuple[int, int]] = {}  # by setting
        self.cuda = job.device.startswith("cuda")
        self.longest = max(map(len, job.prompts)) + job.new_tokens + 8  # tokens of a session
        if not self.cuda:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, -(-job.kv_room // 2**30)))  # GiB, whole
            mine = sorted(os.sched_getaffinity(0))[: job.threads]
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, mine))

    def use(self, setting: dict[str, Any]) -> None:
        """Have an engine with that setting running. Raises Unable when it cannot be started so."""
        if self._llm is None or self._setting != setting:
            self.stop()
            try:
                self._llm, self._setting = self._start(setting), setting
            finally:
                if self._llm is None:
                    self._clean()
            cache = self._llm.llm_engine.vllm_config.cache_config
            self._blocks[repr(setting)] = (cache.num_gpu_blocks, cache.block_size)

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()  # left to the collector, its KV stays on a card and the next finds no room
            self._llm = None
            self._clean()

    def _clean(self) -> None:
        """What a vLLM engine leaves behind in its process, also one that did not come up."""
        ensure_kv_transfer_shutdown()
        cleanup_dist_env_and_memory()

    def _start(self, setting: dict[str, Any]) -> LLM:
        job, given = self.job, dict(setting)
        if job.draws_weights:
            given["load_format"] = "dummy"
        if given.get("kv_offloading_size") == "host_budget":
            given["kv_offloading_size"] = offload_bytes(job) / 2**30  # GiB
        if self.cuda:
            given["gpu_memory_utilization"] = job.device_budget / torch.cuda.get_device_properties(0).total_memory
        else:
            given["block_size"] = CPU_BLOCK
            given.setdefault("num_gpu_blocks_override", job.kv_room // (CPU_BLOCK * job.kv_bytes_per_token))
        try:
            return LLM(
                model=job.weights,
                dtype=job.model["dtype"],
                seed=job.model["seed"],
                skip_tokenizer_init=True,
                max_model_len=self.longest,
                max_num_seqs=len(job.prompts),
                enable_prefix_caching=True,
                **given,
            )
        except TorchDynamoException as error:  # it compiles: without a compiler it runs in eager passes alone
            raise Unable(said(error)) from error
        except Exception as error:
            if type(error) is not Exception:  # what it says of a platform it does not support is a bare one
                raise
            raise Unable(said(error)) from error

    def blocks(self, setting: dict[str, Any]) -> tuple[int, int]:
        """Blocks of its cache on the device with that setting, and tokens of a block. It is started if it never was."""
        if repr(setting) not in self._blocks:
            self.use(setting)
        return self._blocks[repr(setting)]

    def run(self, prompts: list[list[int]], new: int, logits: bool = False) -> list[Any]:
        """`new` greedy tokens for each prompt, as vLLM's RequestOutputs; logits: with those of the whole vocabulary."""
        params = SamplingParams(
            max_tokens=new, temperature=0, ignore_eos=True, detokenize=False, logprobs=-1 if logits else None
        )
        return self._llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)

    def forget(self) -> None:
        """No token of before is found in its caches."""
        if not self._llm.reset_prefix_cache(reset_connector=True):
            raise RuntimeError("vLLM did not clear its prefix cache")

    @contextmanager
    def scaling(self, factor: float = FACTOR) -> Iterator[list[int]]:
        """Inside, layer L's output is scaled; what is yielded holds the tokens of each pass that the hook saw."""
        fired: list[int] = []

        def scale(module: torch.nn.Module, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> Any:
            added, residual = output  # its layers hand the sum of these two on
            fired.append(added.shape[0])
            return added * factor, residual * factor

        put = self._llm.apply_model(lambda model: model.model.layers[self.job.layer - 1].register_forward_hook(scale))
        with removed(put):
            yield fired

    @contextmanager
    def before_the_next(self, call: Callable[[], None]) -> Iterator[None]:
        """Inside, `call` runs before layer L+1 of every pass."""
        put = self._llm.apply_model(
            lambda model: model.model.layers[self.job.layer].register_forward_pre_hook(lambda module, inputs: call())
        )
        with removed(put):
            yield


@contextmanager
def removed(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_logits(output: Any) -> torch.Tensor:
    """Of the last token of a RequestOutput `(vocabulary,)`."""
    last = output.outputs[0].logprobs[-1]
    return torch.tensor([last[token].logprob for token in range(len(last))])


def new_tokens(output: Any) -> list[int]:
    return list(output.outputs[0].token_ids)


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in this thread when the block takes longer: an engine that spins has no time limit of its own."""

    def over(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
