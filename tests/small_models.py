"""Checkpoints of tiny Llamas on disk, for servers that must hold a certain model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def save_llama(folder: Path, layers: int, vocabulary: int = 64, hidden: int = 16) -> LlamaForCausalLM:
    """A Llama with random weights; change them and `save_pretrained` again."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def save_steep_llama(folder: Path, gain: float) -> None:
    """Two layers; the second adds `256 * gain` to a state, whatever that state is, so that float16 can overflow there."""
    model = save_llama(folder, layers=2)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.layers[1].self_attn.v_proj.weight.fill_(1.0)
        model.model.layers[1].self_attn.o_proj.weight.fill_(gain)
    model.save_pretrained(folder)
