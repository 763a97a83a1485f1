"""At load: can this model decode several sessions in one pass?"""

from __future__ import annotations

import logging
from typing import Any

import torch

from djinn.model.executor import Executor
from djinn.model.layers import FORWARD_FAILURES, kv_shape, plain_ids, text_config
from djinn.model.probe import TOLERANCE
from djinn.model.slabs import SlabCache

log = logging.getLogger(__name__)
LENGTHS, ROWS = (16, 9), 4  # tokens held by two sessions, and rows of the pass that decodes them
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # as configs name their number


def probe_rows(executor: Executor) -> bool:
    """Whether each row of a shared pass is what it would be alone in as many rows: bit for bit, and near its own pass; and one
    that joins the others behind the first layer what it is in a pass of its own.

    False for a model whose attention does not go through the interface that rows need, and for every mixture of experts: an
    expert is given as many rows as choose it, so a row's bits depend on who else does, which these two sessions need not
    show. Cost: two prefills of a few tokens and five decode passes.
    """
    if (several := experts(text_config(executor.model))) > 1:
        log.info("sessions are decoded one by one: the rows of %d experts depend on who else chooses them", several)
        return False
    if not executor.takes_rows:
        return False
    model, draw = executor.model, torch.Generator().manual_seed(0)
    kv_heads, head_dim = kv_shape(model)
    usable = torch.tensor(plain_ids(text_config(model)))
    caches, tokens = [], []
    for length in LENGTHS:
        ids = usable[torch.randint(len(usable), (1, length + 1), generator=draw)].to(model.device)
        shape = (executor.depth, length + 1, 2, kv_heads, head_dim)
        cache = SlabCache(executor.depth)
        cache.bind(torch.zeros(shape, dtype=model.dtype, device=model.device))
        executor.run(cache, ids[:, :-1], 0)
        caches.append(cache)
        tokens.append(int(ids[0, -1]))
    single = executor.run(caches[0], torch.tensor([tokens[:1]], device=model.device), LENGTHS[0]).logits
    try:
        alone = executor.run_rows(caches[:1], tokens[:1], LENGTHS[:1], ROWS).logits
        among = executor.run_rows(caches[::-1], tokens[::-1], LENGTHS[::-1], ROWS).logits[1:]
        below = executor.run_rows(caches[:1], tokens[:1], LENGTHS[:1], ROWS, stop=1).hidden
        late = {"starts": [0, 1], "hidden": [None, below]}
        joined = executor.run_rows(caches[::-1], tokens[::-1], LENGTHS[::-1], ROWS, **late).logits[1:]
    except FORWARD_FAILURES as reason:
        log.info("sessions are decoded one by one: %s: %s", type(reason).__name__, reason)
        return False
    difference = ((alone - single).double().norm() / single.double().norm()).item()
    if difference > TOLERANCE[model.dtype] or not (torch.equal(alone, among) and torch.equal(alone, joined)):
        log.info("sessions are decoded one by one: a row differs from its own pass, or by its neighbours")
        return False
    return True


def experts(config: Any) -> int:
    """How many a layer chooses from, at most; 0 where the config names none."""
    named = [getattr(part, key, None) for part in (config, getattr(config, "ffn_config", None)) for key in EXPERTS]
    return max(each or 0 for each in named)
