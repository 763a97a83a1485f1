"""SmolLM2-135M with its real weights: paused to the bit in fp32 and bf16, and the tokens of plain generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from djinn.model.executor import Executor
from djinn.model.load import LoadedModel, load_model
from djinn.model.slabs import SlabCache
from djinn.model.weights import fetch_weights

pytestmark = pytest.mark.slow

PROMPTS = sorted((Path(__file__).parent.parent / "workflow" / "resources" / "prompts").glob("*.txt"))
COUNT = {"float32": 20, "bfloat16": 3}  # prompts compared with plain generate
# of them, token by token, some 12 s each; the others in one pass over the prompt and what plain generate gave
STEPPED = 3
LENGTH = 64  # tokens of each prompt
TOKENS = 64


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield load_model("smollm2-135m", dtype=request.param)
    torch.set_num_threads(before)


def ids_of(path: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(fetch_weights())
    return torch.tensor([tokenizer(path.read_text(encoding="utf-8"))["input_ids"][:LENGTH]])


def fresh(loaded: LoadedModel) -> SlabCache:
    facts = loaded.facts
    cache = SlabCache(facts["layers"])
    shape = (facts["layers"], LENGTH + TOKENS, 2, facts["kv_heads"], facts["head_dim"])
    cache.bind(torch.full(shape, torch.nan, dtype=loaded.model.dtype))
    return cache


def test_paused_in_prefill_and_decode_is_bit_equal(loaded):
    executor = Executor(loaded.model)
    for path, layers in ((PROMPTS[0], (1, 15, 29)), (PROMPTS[7], (6, 22, 30))):
        ids, cache = ids_of(path), fresh(loaded)
        whole = [executor.run(cache, ids, 0).logits]
        tokens = []
        for step in range(5):
            tokens.append(whole[-1][:, -1].argmax(-1, keepdim=True))
            whole.append(executor.run(cache, tokens[-1], LENGTH + step).logits)
        for layer in layers:
            cache = fresh(loaded)
            for index, (given, past) in enumerate([(ids, 0), *((t, LENGTH + i) for i, t in enumerate(tokens))]):
                stopped = executor.run(cache, given, past, stop=layer)
                done = executor.run(cache, given, past, start=layer, hidden=stopped.hidden)
                assert torch.equal(done.logits, whole[index])


def test_tokens_are_those_of_plain_generate(loaded):
    """In fp32 all of them; in bf16 a near tie may fall otherwise, so only the first token of each prompt is demanded."""
    executor = Executor(loaded.model)
    loaded.model.generation_config.eos_token_id = None
    paths = PROMPTS[: COUNT[loaded.facts["dtype"]]]
    wanted = TOKENS if loaded.facts["dtype"] == "float32" else 1
    together = torch.cat([ids_of(path) for path in paths])
    plain_tokens = loaded.model.generate(together, do_sample=False, max_new_tokens=wanted, pad_token_id=0)[:, LENGTH:]
    compared = list(zip(paths, together.split(1), plain_tokens, strict=True))
    for path, ids, plain in compared[STEPPED:]:
        given = torch.cat([ids, plain[None, :-1]], dim=1)
        logits = executor.run(fresh(loaded), given, 0, all_logits=True).logits
        assert torch.equal(logits[0, LENGTH - 1 :].argmax(-1), plain), path.name
    for path, ids, plain in compared[:STEPPED]:
        cache = fresh(loaded)
        logits, tokens = executor.run(cache, ids, 0).logits, []
        for step in range(wanted):
            tokens.append(logits[0, -1].argmax())
            logits = executor.run(cache, tokens[-1].view(1, 1), LENGTH + step).logits
        assert torch.equal(torch.stack(tokens), plain), path.name
