"""At load: does the loop of our own compute what the model's own forward does? Else it is not used."""

from __future__ import annotations

import torch

from djinn.model.layers import FORWARD_FAILURES, kv_shape, plain_ids, text_config
from djinn.model.loop import Loop
from djinn.model.probe import TOKENS, TOLERANCE, apart
from djinn.model.slabs import SlabCache


@torch.inference_mode()
def differs(loop: Loop) -> str | None:
    """Where the loop's first pass or its decoding leaves the executor's by more than rounding; None where neither does.

    Layer by layer, each from the executor's state below it. Cost: four forwards of 17 tokens.
    """
    model, executor = loop.model, loop.reentry
    kv_heads, head_dim = kv_shape(model)
    shape = (loop.depth, TOKENS + 1, 2, kv_heads, head_dim)
    ours, theirs = SlabCache(loop.depth), SlabCache(loop.depth)
    for cache in (ours, theirs):
        with torch.inference_mode(False):  # as the arena is
            cache.bind(torch.zeros(shape, dtype=model.dtype, device=model.device))
    usable = torch.tensor(plain_ids(text_config(model)))
    chosen = torch.randint(len(usable), (1, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    ids = usable[chosen].to(model.device)
    for phase, past, end in (("prefill", 0, TOKENS), ("decode", TOKENS, TOKENS + 1)):
        below = None
        for layer in range(loop.depth + 1):
            stop = layer + 1 if layer < loop.depth else None
            how = {"start": layer, "hidden": below, "stop": stop}
            expected = executor.run(theirs, ids[:, past:end], past, **how)
            try:
                if phase == "prefill":
                    found = loop.run(ours, ids[:, past:end], past, **how)
                else:
                    token = int(ids[0, past])
                    found = loop.run_rows([ours], [token], [past], 1, starts=[layer], hidden=[below], stop=stop)
            except FORWARD_FAILURES as reason:  # a compiled half that would have to be compiled again, for one
                return f"layer {layer + 1} in {phase} fails: {type(reason).__name__}: {reason}"
            below = expected.hidden.clone() if stop else None
            states = (found.hidden, expected.hidden) if stop else (found.logits, expected.logits)
            worst = apart(*(state.to(model.device) for state in states)).max().item()
            if not worst <= TOLERANCE[model.dtype]:
                where = f"layer {stop}" if stop else "the logits"
                return f"{where} in {phase} by {worst:.2g} (relative L2)"
    return None
