"""The executor stops for real, above it nothing runs, and what goes on is bit-equal. test_families.py tries many more families."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from djinn.errors import UnsupportedModel
from djinn.model.executor import Executor, Finished, Stopped
from djinn.model.slabs import SlabCache

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
}
FAMILIES = {
    "llama": SMALL | {"num_key_value_heads": 2},
    "mistral": SMALL | {"num_key_value_heads": 1, "sliding_window": 16},
    "qwen3": SMALL | {"num_key_value_heads": 2, "head_dim": 16},
    "gpt2": {"vocab_size": 97, "n_embd": 64, "n_layer": 12, "n_head": 4},
    "gpt_neox": SMALL,
}


def build(family: str) -> tuple[Executor, int]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()
    return Executor(model), model.config.num_hidden_layers


def fresh(executor: Executor) -> SlabCache:
    config = executor.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache = SlabCache(executor.depth)
    cache.bind(
        torch.full((executor.depth, 64, 2, heads, config.hidden_size // config.num_attention_heads), float("nan"))
    )
    return cache


IDS = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_paused_at_every_layer_is_bit_equal_to_unpaused_and_tokens_to_plain(family):
    executor, depth = build(family)
    whole_cache = fresh(executor)
    whole = executor.run(whole_cache, IDS, 0)
    assert isinstance(whole, Finished)
    plain = DynamicCache(config=executor.model.config)
    with torch.inference_mode():
        reference = executor.model(input_ids=IDS, past_key_values=plain, use_cache=True).logits[:, -1:]
    assert torch.allclose(whole.logits, reference, atol=1e-5)
    for layer in range(1, depth + 1):
        cache = fresh(executor)
        stopped = executor.run(cache, IDS, 0, stop=layer)
        assert isinstance(stopped, Stopped)
        assert cache.lengths == [40] * layer + [0] * (depth - layer), "no layer above the pause may have run"
        done = executor.run(cache, IDS, 0, start=layer, hidden=stopped.hidden)
        assert torch.equal(done.logits, whole.logits)
        token = done.logits[:, -1].argmax(-1, keepdim=True)
        stopped = executor.run(cache, token, 40, stop=layer)
        ahead = executor.run(cache, token, 40, start=layer, hidden=stopped.hidden)
        assert torch.equal(ahead.logits, executor.run(whole_cache, token, 40).logits)


def test_nothing_above_the_pause_runs():
    executor, depth = build("llama")
    calls = []
    for index, layer in enumerate(executor.model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: calls.append(index))
    stopped = executor.run(fresh(executor), IDS, 0, stop=3)
    assert calls == [0, 1, 2]
    executor.run(fresh(executor), IDS, 0, start=3, hidden=stopped.hidden)
    assert calls == list(range(depth))


def test_other_work_in_between_changes_nothing():
    executor, _ = build("llama")
    whole = executor.run(fresh(executor), IDS, 0)
    cache = fresh(executor)
    stopped = executor.run(cache, IDS, 0, stop=4)
    executor.run(fresh(executor), IDS.flip(1), 0)
    assert torch.equal(executor.run(cache, IDS, 0, start=4, hidden=stopped.hidden).logits, whole.logits)


def test_a_resume_depends_on_ids_past_and_hidden_alone():
    """Whatever the cache says it holds between pause and resume: masks and positions come from `past`."""
    executor, _ = build("mistral")
    whole_cache, cache = fresh(executor), fresh(executor)
    token = IDS[:, :1]
    whole = [executor.run(whole_cache, IDS, 0).logits, executor.run(whole_cache, token, 40).logits]
    for ids, past, expected in ((IDS, 0, whole[0]), (token, 40, whole[1])):
        stopped = executor.run(cache, ids, past, stop=3)
        cache.position.past = 7
        for number, layer in enumerate(cache.layers):
            layer.length = 1000 + number
        assert torch.equal(executor.run(cache, ids, past, start=3, hidden=stopped.hidden).logits, expected)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
        {
            "rope_type": "longrope",
            "rope_theta": 100.0,
            "original_max_position_embeddings": 32,
            "factor": 2.0,
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_a_rotary_table_that_grew_with_another_session_is_as_it_was(rope):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SMALL, max_position_embeddings=32, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        plain = model(input_ids=IDS[:, :36], use_cache=False).logits[:, -1:]
        model(input_ids=torch.cat([IDS, IDS], 1), use_cache=False)  # grown before the executor has it
    executor = Executor(model)
    for tokens in (20, 36):  # below and above the length that the model was trained for
        whole = executor.run(fresh(executor), IDS[:, :tokens], 0).logits
        for stop in (3, 6):
            cache = fresh(executor)
            stopped = executor.run(cache, IDS[:, :tokens], 0, stop=stop)
            executor.run(fresh(executor), torch.cat([IDS, IDS[:, :20]], 1), 0)  # 60 tokens of somebody else
            done = executor.run(cache, IDS[:, :tokens], 0, start=stop, hidden=stopped.hidden)
            assert torch.equal(done.logits, whole)
    assert torch.allclose(whole, plain, atol=1e-5)
    with torch.no_grad():  # the model is still usable by others
        assert model(input_ids=IDS, use_cache=False).logits.isfinite().all()


class Tupled(torch.nn.Module):
    """A layer of the older kind: (hidden, nothing, nothing)."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs), None, None


def test_layers_that_return_a_tuple_in_a_process_that_ran_none_of_them():
    one, _ = build("llama")
    whole, stopped = one.run(fresh(one), IDS, 0), one.run(cache := fresh(one), IDS, 0, stop=5)
    config = AutoConfig.for_model("llama", **FAMILIES["llama"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.model.layers = torch.nn.ModuleList(Tupled(layer) for layer in model.model.layers)

    class Unpacks(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.tupled = layer

        def forward(self, *args, **kwargs):
            hidden, _, _ = self.tupled(*args, **kwargs)
            return hidden

    executor = Executor(model)
    model.model.layers = torch.nn.ModuleList(Unpacks(layer) for layer in model.model.layers)
    assert torch.equal(executor.run(cache, IDS, 0, start=5, hidden=stopped.hidden).logits, whole.logits)
    assert torch.equal(executor.run(fresh(executor), IDS, 0, stop=5).hidden, stopped.hidden)


def test_a_head_that_knows_no_logits_to_keep_gives_the_last_alone():
    executor, _ = build("llama")
    whole = executor.run(fresh(executor), IDS, 0)
    executor._keeps = False
    assert torch.allclose(executor.run(fresh(executor), IDS, 0).logits, whole.logits, atol=1e-5)
    assert executor.run(fresh(executor), IDS, 0, all_logits=True).logits.shape == (1, 40, 97)


def test_taps_see_what_a_pause_would_keep():
    executor, _ = build("llama")
    seen = {}
    executor.run(fresh(executor), IDS, 0, taps={2: lambda h: seen.update({2: h.clone()})})
    assert torch.equal(seen[2], executor.run(fresh(executor), IDS, 0, stop=2).hidden)


def test_a_model_without_one_stack_of_layers_is_refused_by_name():
    config = AutoConfig.for_model(
        "opt",
        vocab_size=97,
        hidden_size=64,
        ffn_dim=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        word_embed_proj_dim=64,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.model.decoder.layers = torch.nn.ModuleList()
    with pytest.raises(UnsupportedModel, match="OPTForCausalLM"):
        Executor(model)
