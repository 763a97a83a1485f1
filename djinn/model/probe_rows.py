"""At load: can this model decode several sessions in one pass?"""

from __future__ import annotations

import logging

import torch

from djinn.model.executor import Executor
from djinn.model.layers import FORWARD_FAILURES, kv_shape, plain_ids, text_config
from djinn.model.probe import TOLERANCE
from djinn.model.slabs import SlabCache

log = logging.getLogger(__name__)
LENGTHS, ROWS = (16, 9), 4  # tokens held by two sessions, and rows of the pass that decodes them


def probe_rows(executor: Executor) -> bool:
    """Whether each row of a shared pass is what it would be alone in as many rows: bit for bit, and near its own pass; and one
    that joins the others behind the first layer what it is in a pass of its own.

    False for a model whose attention does not go through the interface that rows need, or whose rows see each other
    (experts that are given all rows' tokens together). Cost: two prefills of a few tokens and five decode passes.
    """
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
