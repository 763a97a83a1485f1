"""Whether a model is the same one: any weight and what matters of the configuration count, where it was loaded from does not."""

from __future__ import annotations

import pytest
import torch
from small_models import save_llama
from transformers import AutoModelForCausalLM

from djinn.model.identity import config_sha256, weights_sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("model")
    save_llama(made, layers=2)
    return made


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def test_the_same_model_loaded_twice_and_from_elsewhere_is_the_same(folder, tmp_path):
    first = load(folder)
    first.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert config_sha256(first) == config_sha256(again) and weights_sha256(first) == weights_sha256(again)


def test_one_bit_of_one_weight_makes_another_model(folder):
    model = load(folder)
    before = weights_sha256(model)
    row = model.model.layers[1].mlp.up_proj.weight.data[3]
    row[5] = torch.nextafter(row[5], torch.tensor(1e9))
    assert weights_sha256(model) != before


def test_two_rows_that_change_places_make_another_model(folder):
    model = load(folder)
    before = weights_sha256(model)
    rows = model.model.layers[0].mlp.up_proj.weight.data
    rows[[0, 1]] = rows[[1, 0]]
    assert weights_sha256(model) != before


def test_a_dtype_and_a_setting_that_changes_the_sums_make_another_model(folder):
    model, half = load(folder), load(folder, dtype=torch.bfloat16)
    assert weights_sha256(model) != weights_sha256(half)
    before = config_sha256(model)
    model.config.rms_norm_eps = 1e-3
    assert config_sha256(model) != before
