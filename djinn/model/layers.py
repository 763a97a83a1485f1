"""Where a model keeps its decoder layers, and what each of them keeps for a session: found by looking, not by family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from djinn.errors import UnsupportedModel

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "keep_window_size")  # what configs call them
# What a foreign model's forward raises when it is handed something that it was not made for.
FORWARD_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def text_config(model: PreTrainedModel) -> Any:
    """The decoder's config (a multimodal model keeps it one level down)."""
    return model.config.get_text_config(decoder=True)


def windows(config: Any) -> set[int]:
    """In tokens: each beyond which the config says that a token does not see all before it."""
    named = [getattr(config, key, None) for key in WINDOWS]
    return {window for window in named if isinstance(window, int) and window > 0}


def find_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The one list of `num_hidden_layers` layers; lists inside those (eight experts in each of eight layers) do not count."""
    depth = text_config(model).num_hidden_layers
    found: dict[str, torch.nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and not inside:
            found[name] = module
    if len(found) != 1:
        raise UnsupportedModel(
            f"{type(model).__name__} has {len(found)} lists of {depth} layers; a decoder has exactly one"
        )
    return next(iter(found.values()))


class _Record(CacheLayerMixin):
    """Hands keys and values through and keeps their shapes."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.keys_shape = self.values_shape = None
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        self.keys_shape, self.values_shape = tuple(key_states.shape), tuple(value_states.shape)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1


@torch.inference_mode()
def kv_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(kv_heads, head_dim) that every layer keeps for a token, seen in one pass over one token.

    Seen, because configs say it in many ways (multi_query, num_kv_heads, head_dim or none of them). Raises
    UnsupportedModel, naming the layers, for a model that keeps anything else than one key and one value of the same
    shape in each layer: state-space and linear-attention layers, latent attention, layers that share their keys.
    """
    name, config = type(model).__name__, text_config(model)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder: sessions are made of a decoder's keys and values alone")
    if not getattr(config, "num_attention_heads", None):
        raise UnsupportedModel(f"{name} has no attention heads: sessions are made of keys and values")
    records = [_Record() for _ in range(config.num_hidden_layers)]
    ids = torch.tensor([[plain_ids(config)[0]]], device=model.device)
    with refusing(f"{name} cannot run on a cache of keys and values alone{_other_layers(config)}"):
        model(input_ids=ids, past_key_values=Cache(layers=records), use_cache=True)
    silent = [index + 1 for index, record in enumerate(records) if record.keys_shape is None]
    if silent:
        raise UnsupportedModel(
            f"{name} keeps no keys and values in layers {silent} of {len(records)}{_other_layers(config)}: "
            "it is no decoder (is_decoder=False), or keeps other state there, or shares another layer's"
        )
    for index, record in enumerate(records):
        if record.keys_shape != record.values_shape or len(record.keys_shape) != 4:
            raise UnsupportedModel(
                f"{name} layer {index + 1} keeps keys {record.keys_shape} and values {record.values_shape}; "
                "only one shape (1, kv_heads, tokens, head_dim) for both can be stored"
            )
    shapes = {record.keys_shape for record in records}
    if len(shapes) > 1:
        raise UnsupportedModel(f"{name} has layers of different keys, {sorted(shapes)}: every layer must keep the same")
    _, heads, _, head_dim = shapes.pop()
    return heads, head_dim


def plain_ids(config: Any) -> list[int]:
    """Token ids without a special meaning: no padding, image placeholder or end."""
    special = set()
    for key, value in config.to_dict().items():
        if key.endswith(("_token_id", "_token_index")):
            special |= set(value) if isinstance(value, list) else {value}
    return [i for i in range(min(config.vocab_size, 4096)) if i not in special] or [0]


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """What a foreign model's forward raises in here, as an UnsupportedModel that says `what`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # the machine's fault, not the model's
    except FORWARD_FAILURES as reason:
        first_line = (str(reason).splitlines() or [""])[0]
        raise UnsupportedModel(f"{what}: {type(reason).__name__}: {first_line}") from reason


def _other_layers(config: Any) -> str:
    """What the config itself calls the layers that are not attention."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    others = sorted({str(kind) for kind in kinds if "attention" not in str(kind) or "linear" in str(kind)})
    return f" (its layer types: {', '.join(others)})" if others else ""
