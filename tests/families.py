"""The families that are tested, as data: tiny random models, at least 8 layers, every kind of layer that the family has.

One line here is one row of docs/families.md (`pytest tests/test_families.py --write-families` writes it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 97
DEEP = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
SMALL = DEEP | {"intermediate_size": 96, "max_position_embeddings": 256}
GROUPED = SMALL | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 4, "sliding_window": 12}
UNTIED = {"tie_word_embeddings": False}  # tied and random, Gemma's large embedding makes every token its own successor
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    name: str
    model_type: str
    config: dict[str, Any]
    notes: str  # positions, windows, what is particular
    prompt: int = 24  # tokens; longer than every window
    seed: int = 7  # of the weights; another where this one's model repeats one token


FAMILIES = [
    Family("Llama MHA", "llama", GROUPED | {"num_key_value_heads": 4}, "rotary"),
    Family("Llama GQA", "llama", GROUPED, "rotary"),
    Family("Llama MQA", "llama", GROUPED | {"num_key_value_heads": 1}, "rotary"),
    Family(
        "Llama dynamic rope",
        "llama",
        GROUPED
        | {
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
        },
        "rotary, scaled by the length from token 33 on",
    ),
    Family("Mistral", "mistral", GROUPED | {"sliding_window": 12}, "rotary, sliding 12"),
    Family(
        "GPT-2",
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 12, "n_head": 4, "n_positions": 256},
        "learned; breakpoints 3, 6, 9 among all 12",
    ),
    Family(
        "Qwen2",
        "qwen2",
        GROUPED | ALTERNATING | {"use_sliding_window": True},
        "rotary, sliding 12 and full",
    ),
    Family(
        "Qwen3",
        "qwen3",
        GROUPED | ALTERNATING | {"use_sliding_window": True, "head_dim": 16},
        "rotary, sliding 12 and full",
    ),
    Family(
        "Gemma 2",
        "gemma2",
        GROUPED | ALTERNATING | UNTIED | {"head_dim": 32},
        "rotary, sliding 12 and full, capped logits",
    ),
    Family(
        "Gemma 3",
        "gemma3_text",
        GROUPED
        | UNTIED
        | {"head_dim": 32, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2, "sliding_window": 12},
        "two rotary tables, sliding 12 and full",
    ),
    Family("Phi-3", "phi3", GROUPED | {"sliding_window": 12}, "rotary, sliding 12"),
    Family("GPT-NeoX", "gpt_neox", SMALL | {"use_parallel_residual": True}, "rotary on a quarter, parallel", seed=8),
    Family("Phi", "phi", GROUPED, "rotary on a half, parallel"),
    Family(
        "GPT-J",
        "gptj",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 8, "n_head": 4, "rotary_dim": 8, "n_positions": 256},
        "rotary on a half, parallel",
    ),
    Family("Falcon", "falcon", DEEP | {"multi_query": True, "parallel_attn": True}, "rotary, parallel"),
    Family(
        "Falcon alibi",
        "falcon",
        DEEP | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        "alibi",
    ),
    Family("Cohere", "cohere", GROUPED, "rotary, parallel"),
    Family("Cohere 2", "cohere2", GROUPED | ALTERNATING, "rotary on sliding 12, none on full, parallel"),
    Family("StableLM", "stablelm", GROUPED | {"use_parallel_residual": True}, "rotary on a quarter, parallel"),
    Family("OLMo 2", "olmo2", GROUPED, "rotary, norms behind each part"),
    Family("OPT", "opt", DEEP | {"ffn_dim": 96, "word_embed_proj_dim": 64, "max_position_embeddings": 256}, "learned"),
    Family("BLOOM", "bloom", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 8, "n_head": 4}, "alibi"),
    Family("MPT", "mpt", {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 8, "n_heads": 4}, "alibi"),
    Family(
        "GPT-BigCode",
        "gpt_bigcode",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 8, "n_head": 4, "n_positions": 256, "multi_query": True},
        "learned",
    ),
    Family(
        "GPT-Neo",
        "gpt_neo",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_layers": 8,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 4]],
            "window_size": 12,
            "max_position_embeddings": 256,
        },
        "learned, local 12 and global",
    ),
    Family("Starcoder 2", "starcoder2", GROUPED | {"sliding_window": 12}, "rotary, sliding 12"),
    Family("Granite", "granite", GROUPED | {"attention_multiplier": 0.25, "residual_multiplier": 0.5}, "rotary"),
    Family(
        "Mixtral",
        "mixtral",
        GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        "rotary, 2 of 4 experts",
    ),
    Family("Qwen3-MoE", "qwen3_moe", GROUPED | EXPERTS | {"head_dim": 16}, "rotary, 2 of 4 experts"),
    Family(
        "GPT-OSS",
        "gpt_oss",
        GROUPED | ALTERNATING | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
        "rotary, sliding 12 and full, sinks, 2 of 4 experts",
    ),
    Family("SmolLM3", "smollm3", GROUPED, "rotary on three of four layers"),
]


@dataclass(frozen=True)
class Refused:
    name: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    says: str = ""  # in the message


LATENT = {
    "num_key_value_heads": 4,
    "head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
GATED_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

REFUSED = [
    Refused("BERT, both directions", "bert", BERT, "not causal"),
    Refused("T5", "t5", {"vocab_size": 97, "d_model": 32, "num_layers": 2}, "not a causal language model"),
    Refused("ViT", "vit", {"hidden_size": 32, "num_hidden_layers": 2}, "not a causal language model"),
    Refused("Mamba", "mamba", {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2}, "no attention heads"),
    Refused("RWKV", "rwkv", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}, "no attention heads"),
    Refused("Jamba", "jamba", GROUPED | {"num_experts": 2}, "linear_attention"),
    Refused("Qwen3-Next", "qwen3_next", GROUPED | EXPERTS | GATED_DELTA, "linear_attention"),
    Refused("RecurrentGemma", "recurrent_gemma", GROUPED, "no keys and values in layers"),
    Refused(
        "DeepSeek V3",
        "deepseek_v3",
        GROUPED
        | LATENT
        | {"v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
        "only one shape",
    ),
    Refused("MiniCPM 3", "minicpm3", GROUPED | LATENT | {"v_head_dim": 8}, "only one shape"),
    Refused(
        "Gemma 3n",
        "gemma3n_text",
        GROUPED | {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": VOCABULARY},
        r"no keys and values in layers \[7, 8\]",
    ),
    Refused("MiMo V2 Flash", "mimo_v2_flash", GROUPED | EXPERTS, "only one shape"),
    Refused(
        "GPT (2018)", "openai-gpt", {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2}, "no keys and values"
    ),
]
