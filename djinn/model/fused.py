"""Decoders of the Llama type, their weights laid out for few large matrix products: which models are, and the halves of a layer.

A layer is two halves with attention between them. Query, key and value are one product, gate and up another; the model's
own modules go on working, since their weights become views of the joined ones. Joining costs one layer's projections of
memory while it is done, and nothing after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from djinn.model.layers import find_layers, text_config

FAMILIES = ("llama", "mistral")


@dataclass(frozen=True)
class Layer:
    """One layer's weights, `(outputs, inputs)` each."""

    norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    eps: float

    @property
    def widths(self) -> list[int]:
        """Columns of query, key and value."""
        return [self.heads * self.head_dim, *[self.kv_heads * self.head_dim] * 2]


def why_not(model: PreTrainedModel, max_tokens: int) -> str | None:
    """What keeps `model` from being driven by the halves below; None when nothing does."""
    config = text_config(model)
    window = getattr(config, "sliding_window", None)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is not of the Llama type"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if window is not None and window < max_tokens:
        return f"its sliding window of {window} is shorter than the longest session, {max_tokens} tokens"
    if head_dim & (head_dim - 1):
        return f"its heads are {head_dim} wide, not a power of two"
    if rope in ("dynamic", "longrope"):
        return f"its rotary tables change with the length ({rope})"
    if any(m.bias is not None for layer in find_layers(model) for m in layer.modules() if isinstance(m, nn.Linear)):
        return "its projections have biases"
    return None


def fuse(model: PreTrainedModel) -> tuple[list[Layer], Shape]:
    """Join the projections of every layer in place. Call only where `why_not` has nothing to say."""
    layers = []
    for layer in find_layers(model):
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            Layer(
                layer.input_layernorm.weight,
                _join(attention.q_proj, attention.k_proj, attention.v_proj),
                attention.o_proj.weight,
                layer.post_attention_layernorm.weight,
                _join(mlp.gate_proj, mlp.up_proj),
                mlp.down_proj.weight,
            )
        )
        if model.device.type == "cuda":
            torch.cuda.empty_cache()  # else what was joined keeps its old place too, in pieces too small for the next
    config = text_config(model)
    head_dim = attention.head_dim
    shape = Shape(config.num_attention_heads, config.num_key_value_heads, head_dim, config.rms_norm_eps)
    return layers, shape


def _join(*projections: nn.Linear) -> torch.Tensor:
    joined = torch.cat([one.weight.detach() for one in projections])
    for one, rows in zip(projections, joined.split([one.out_features for one in projections]), strict=True):
        one.weight = nn.Parameter(rows, requires_grad=False)
    return joined


# -- the halves of a layer; `hidden` is (tokens, hidden_size), compiled on a GPU ----------------------------------------


def project(hidden: torch.Tensor, norm: torch.Tensor, qkv: torch.Tensor, eps: float) -> torch.Tensor:
    """Queries, keys and values side by side, before their rotation."""
    return F.linear(rms_norm(hidden, norm, eps), qkv)


def place(
    projected: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, room: torch.Tensor, shape: Shape
) -> torch.Tensor:
    """Of one prompt's part of `project`: rotated queries `(tokens, heads, head_dim)`; keys and values are written to `room`.

    cos, sin: `(tokens, head_dim)`. room: `(tokens, 2, kv_heads, head_dim)` of the slab.
    """
    queries, keys, values = projected.split(shape.widths, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    room[:, 0].copy_(rotate(keys.unflatten(-1, (shape.kv_heads, shape.head_dim)), cos, sin))
    room[:, 1].copy_(values.unflatten(-1, (shape.kv_heads, shape.head_dim)))
    return rotate(queries.unflatten(-1, (shape.heads, shape.head_dim)), cos, sin)


def after(
    hidden: torch.Tensor,
    attended: torch.Tensor,
    out: torch.Tensor,
    norm: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """From what attention gave `(tokens, heads * head_dim)` to the layer's output."""
    hidden = hidden + F.linear(attended, out)
    gate, up = F.linear(rms_norm(hidden, norm, eps), gate_up).chunk(2, dim=-1)
    return hidden + F.linear(F.silu(gate) * up, down)


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """In float32, rounded before the weight, as transformers does it for this type."""
    wide = hidden.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(hidden.dtype)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-high, low), dim=-1) * sin
