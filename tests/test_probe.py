"""The probe at load: what is broken on purpose is refused, with the layer's number; what is whole is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from djinn.errors import UnsupportedModel
from djinn.model.executor import Executor
from djinn.model.layers import kv_shape
from djinn.model.probe import probe
from djinn.model.slabs import SlabCache

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32, **config) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | config), dtype=dtype).eval()
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() == 2:
            parameter.mul_(8)  # attention far from uniform
    return model


def replaced(layer: torch.nn.Module, change: Callable) -> None:
    """Make `change(own forward, hidden, **kwargs)` the layer's forward."""
    own = layer.forward
    layer.forward = lambda hidden, **kwargs: change(own, hidden, **kwargs)


def test_a_layer_that_counts_its_calls_is_named():
    model, calls = tiny(), []

    def counts(own, hidden, **kwargs):
        calls.append(None)
        return own(hidden, **kwargs) + 1e-2 * len(calls)

    replaced(model.model.layers[4], counts)
    with pytest.raises(UnsupportedModel, match=r"LlamaForCausalLM .*layer 5 of 8 differs in prefill .* by 0\.\d+"):
        probe(Executor(model))


def test_a_layer_whose_mask_is_dropped_beside_a_cache_is_named():
    model = tiny(attn_implementation="eager")

    def unmasked(own, hidden, **kwargs):
        if kwargs.get("past_key_values") is not None:
            kwargs["attention_mask"] = None
        return own(hidden, **kwargs)

    replaced(model.model.layers[2], unmasked)
    with pytest.raises(UnsupportedModel, match="layer 3 of 8 differs in prefill"):
        probe(Executor(model))


def test_a_window_that_does_not_slide_is_seen():
    """The probe's tokens outgrow a short window."""
    model = tiny("mistral", sliding_window=24, attn_implementation="eager")

    def slides_never(own, hidden, **kwargs):
        if kwargs.get("past_key_values") is not None:
            mask = kwargs["attention_mask"]
            kwargs["attention_mask"] = torch.full_like(mask, torch.finfo(mask.dtype).min).triu(
                1 + mask.shape[-1] - mask.shape[-2]
            )
        return own(hidden, **kwargs)

    replaced(model.model.layers[5], slides_never)
    with pytest.raises(UnsupportedModel, match="layer 6 of 8 differs in prefill"):
        probe(Executor(model))


def test_a_layer_wrong_only_in_decode_is_named_so():
    model = tiny()
    replaced(model.model.layers[6], lambda own, h, **kwargs: own(h, **kwargs) * (1.0 if h.shape[1] > 1 else 1.01))
    with pytest.raises(UnsupportedModel, match="layer 7 of 8 differs in decode"):
        probe(Executor(model))


def test_state_passed_between_layers_is_seen():
    model, passed = tiny(), {}

    def gives(own, hidden, **kwargs):
        passed["state"] = own(hidden, **kwargs)
        return passed["state"]

    replaced(model.model.layers[2], gives)
    # taken away, so that layer 4 finds nothing where layer 3 did not run in the same pass
    replaced(model.model.layers[3], lambda own, hidden, **kwargs: own(hidden, **kwargs) + passed.pop("state"))
    with pytest.raises(UnsupportedModel, match=r"layer 4 in prefill fails .*KeyError: 'state'"):
        probe(Executor(model))


def test_state_left_in_a_module_is_seen():
    """It would be another session's."""
    model, passed = tiny(), {}

    def gives(own, hidden, **kwargs):
        passed["state"] = own(hidden, **kwargs)
        return passed["state"]

    def takes(own, hidden, **kwargs):
        return own(hidden, **kwargs) + passed["state"][:, :1]

    replaced(model.model.layers[2], gives)
    replaced(model.model.layers[3], takes)
    with pytest.raises(UnsupportedModel, match="layer 4 of 8 differs in prefill"):
        probe(Executor(model))


def test_a_layer_that_writes_into_anothers_cache_is_named():
    model = tiny()
    executor = Executor(model)
    model.model.layers[3].self_attn.layer_idx = 6
    with pytest.raises(UnsupportedModel, match=r"no keys and values in layers \[4\]"):
        probe(executor)


def test_attention_in_both_directions_is_refused_as_not_causal():
    with pytest.raises(UnsupportedModel, match="Gemma3ForCausalLM is not causal"):
        probe(Executor(tiny("gemma3_text", use_bidirectional_attention=True)))


def test_an_overflow_names_its_layer_and_dtype():
    model = tiny(dtype=torch.float16)
    model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(UnsupportedModel, match=r"overflows in float16 behind layer 2: .*bfloat16"):
        probe(Executor(model))


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_that_hold_nan_are_named(name):
    """And no dtype is advised, which would not help."""
    model = tiny(tie_word_embeddings=False)
    model.get_parameter(name)[0, 0] = torch.nan
    with pytest.raises(UnsupportedModel, match=f"weights hold NaN, in {name}"):
        probe(Executor(model))


def test_an_encoder_decoder_is_refused_by_name():
    config = AutoConfig.for_model("t5", vocab_size=97, d_model=32, num_layers=2, num_heads=2, d_ff=32, d_kv=16)
    with pytest.raises(UnsupportedModel, match="T5ForConditionalGeneration is an encoder-decoder"):
        kv_shape(AutoModelForSeq2SeqLM.from_config(config))


def test_a_probed_model_is_left_as_it_was_at_a_known_cost():
    ids = torch.arange(3, 40)[None]

    def logits(executor: Executor) -> torch.Tensor:
        cache = SlabCache(8)
        cache.bind(torch.zeros(8, 40, 2, 2, 16))
        return executor.run(cache, ids, 0).logits

    untouched, probed = Executor(tiny()), Executor(tiny())
    ran = []
    hooks = [layer.mlp.register_forward_hook(lambda *_: ran.append(None)) for layer in probed.layers]
    probe(probed)
    for hook in hooks:
        hook.remove()
    assert len(ran) == 8 + 2 * 8 + 2 * 8, (
        "one token for the shapes, two plain forwards, each layer in prefill and decode"
    )
    assert torch.equal(logits(untouched), logits(probed))
    assert not any(layer._forward_hooks for layer in probed.layers)
