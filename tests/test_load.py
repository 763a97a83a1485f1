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
        ({"name": "x", "source": "path", "path": "/nowhere"}, WeightsUnavailable, "config.json"),
        ({"name": "tiny-llama", "source": "ftp"}, BadRequest, "wheel, hub, path, random"),
        ({"name": "tiny-llama", "dtype": "int3"}, BadRequest, "bfloat16"),
        ({"name": "tiny-llama", "device": "tpu"}, NoDevice, "use cpu or cuda:0"),
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
