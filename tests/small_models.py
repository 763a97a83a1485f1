"""Checkpoints of tiny Llamas on disk, for servers that must hold a certain model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}


def save_llama(folder: Path, layers: int, vocabulary: int = 64, hidden: int = 16) -> LlamaForCausalLM:
    """A Llama with random weights and a tokenizer of one word; change its weights and `save_pretrained` again."""
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
    words = folder / "words.json"
    words.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": WORDS}))
    PreTrainedTokenizerFast(tokenizer_file=str(words), unk_token="<unk>").save_pretrained(folder)
    return model


def save_steep_llama(folder: Path, gain: float) -> None:
    """Two layers; the second adds `256 * gain` to a state, whatever that state is, so that float16 can overflow there."""
    model = save_llama(folder, layers=2)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.layers[1].self_attn.v_proj.weight.fill_(1.0)
        model.model.layers[1].self_attn.o_proj.weight.fill_(gain)
    model.save_pretrained(folder)
