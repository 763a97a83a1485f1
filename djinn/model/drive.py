"""Which way a loaded model is driven: probed, refused where it cannot be stopped, by our own loop where that computes the same."""

from __future__ import annotations

import logging
from collections.abc import Set

from transformers import PreTrainedModel

from djinn.model.executor import Executor
from djinn.model.fused import why_not
from djinn.model.loop import Loop
from djinn.model.probe import probe
from djinn.model.probe_loop import differs
from djinn.model.probe_rows import probe_rows

log = logging.getLogger(__name__)


def drive(
    model: PreTrainedModel, rows: int, max_tokens: int, prefill_tokens: int, without: Set[str]
) -> tuple[Executor | Loop, int]:
    """(what runs passes, how many sessions may share one over a token: 0 where none can). Raises UnsupportedModel.

    rows: at most so many. max_tokens: of the longest session. prefill_tokens: of the prompts that share a first pass.
    without: parts to leave out, of `batching`, `own-loop`, `compiling`, `graphs`.
    """
    executor = Executor(model)
    probe(executor)
    log.info("probe: %d layers agree with the plain forward", executor.depth)
    wanted = 1 if "batching" in without else rows
    reason = _reason(model, max_tokens, without)
    if reason is None:
        together = 0 if "batching" in without else prefill_tokens
        how = {"compiled": "compiling" not in without, "graphs": "graphs" not in without}
        loop = Loop(executor, wanted, max_tokens, together, **how)
        reason = differs(loop)
    if reason is None:
        log.info("driven by the loop of our own, decoding in %d rows", wanted)
        return loop, wanted
    log.info("driven by re-entry into the model's own forward: %s", reason)
    return executor, wanted if probe_rows(executor) else 0


def _reason(model: PreTrainedModel, max_tokens: int, without: Set[str]) -> str | None:
    if "own-loop" in without:
        return "the own loop is switched off"
    if model.device.type != "cuda":
        return "the own loop is for CUDA devices"
    return why_not(model, max_tokens)
