"""Who may share a pass over a token: a session beside others has the bits that it has alone, or goes one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from djinn.model.executor import Executor
from djinn.model.layers import kv_shape
from djinn.model.probe_rows import experts, probe_rows
from djinn.model.slabs import SlabCache

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
ROWS, NEW, SHORT, LONG = 4, 8, 10, 70  # rows of a pass, tokens decoded, tokens of two prompts


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(family: str, **config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | config)).eval()
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() >= 2:
            parameter.mul_(4)  # attention far from uniform
    return model


def decoded(model: PreTrainedModel, lengths: tuple[int, ...]) -> torch.Tensor:
    """The first prompt's logits, beside the others wherever they may share its passes."""
    executor = Executor(model)
    together, caches = probe_rows(executor), []
    ids = torch.randint(3, 97, (len(lengths), max(lengths) + NEW), generator=torch.Generator().manual_seed(1))
    heads, head_dim = kv_shape(model)
    for prompt, length in zip(ids, lengths, strict=True):
        cache = SlabCache(executor.depth)
        cache.bind(torch.zeros(executor.depth, length + NEW, 2, heads, head_dim))
        executor.run(cache, prompt[None, :length], 0)
        caches.append(cache)
    found = []
    for step in range(NEW):
        pasts = [length + step for length in lengths]
        if together:
            tokens = [int(prompt[past]) for prompt, past in zip(ids, pasts, strict=True)]
            found.append(executor.run_rows(caches, tokens, pasts, ROWS).logits[:1])
        else:
            found.append(executor.run(caches[0], ids[:1, pasts[0], None], pasts[0]).logits)
    return torch.cat(found)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}),
        ("llama", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC}),
    ],
    ids=["longrope", "dynamic"],
)
def test_a_table_that_grows_with_the_longest_is_no_neighbours(family, config):
    alone, beside = (decoded(tiny(family, **config), lengths) for lengths in ((SHORT,), (SHORT, LONG)))
    assert torch.equal(alone, beside)


WINDOW = {"sliding_window": 12}
EXPERTS = {"num_experts_per_tok": 1, "num_experts": 1, "num_local_experts": 1}  # one: a mixture is refused for itself
KINDS = {"layer_types": ["sliding_attention", "full_attention"] * 2}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("doge", WINDOW),
        ("doge", {"keep_window_size": 12}),
        ("qwen2_moe", EXPERTS | WINDOW | KINDS | {"use_sliding_window": True, "moe_intermediate_size": 32}),
        ("phimoe", WINDOW | {"num_local_experts": 4}),
        ("llama4_text", EXPERTS | {"attention_chunk_size": 12, "attn_temperature_tuning": False}),
        ("gpt2", {"window_size": 12}),
        ("llama", {"attn_temperature_tuning": True}),
    ],
    ids=["doge", "doge-kept", "qwen2_moe", "phimoe", "llama4_text", "any", "temperature"],
)
def test_what_the_mask_or_the_caches_length_says_alone_is_decoded_one_by_one(family, config):
    """Rows are given no mask, and are told no length."""
    model = tiny(family, **config)
    assert not Executor(model).takes_rows


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("mistral", WINDOW),
        ("phi3", WINDOW),
        ("gemma2", WINDOW | KINDS),
        ("gemma3_text", WINDOW | KINDS),
        ("qwen2", {"sliding_window": 12, "use_sliding_window": False}),
        ("qwen3", WINDOW | KINDS | {"use_sliding_window": True}),
        ("cohere2", WINDOW | KINDS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_shares_a_pass_has_the_bits_that_it_has_alone(family, config):
    model = tiny(family, **config)
    assert probe_rows(Executor(model))
    alone, beside = (decoded(tiny(family, **config), lengths) for lengths in ((SHORT,), (SHORT, LONG)))
    assert torch.equal(alone, beside)


def test_experts_are_given_as_many_rows_as_choose_them_so_a_mixture_shares_no_pass():
    """What the load probe decodes, two sessions in four rows, need not meet at an expert."""
    config = {"num_experts": 16, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    alone, beside = (decoded(tiny("qwen3_moe", **config), lengths) for lengths in ((SHORT,), (SHORT, LONG)))
    assert torch.equal(alone, beside)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("mixtral", {"num_local_experts": 4, "sliding_window": None}),
        ("glm4_moe", {"n_routed_experts": 4, "moe_intermediate_size": 32}),
        ("ernie4_5_moe", {"moe_num_experts": 4, "moe_intermediate_size": 32}),
        ("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_why_a_mixture_is_decoded_one_by_one_is_logged(family, config, caplog):
    with caplog.at_level("INFO"):
        assert not probe_rows(Executor(tiny(family, **config)))
    assert "one by one: the rows of 4 experts depend on who else chooses them" in caplog.text


def test_experts_are_counted_wherever_a_config_has_them():
    assert experts(AutoConfig.for_model("dbrx", ffn_config={"moe_num_experts": 4})) == 4
    assert experts(AutoConfig.for_model("llama")) == 0
