"""What is measured, at two scales: the card's own (a Llama-2-13B shape) and a tiny one that shows on a CPU that all of it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from djinn.model.presets import PRESETS
from djinn.sizes import DTYPE_BYTES, KVShape


@dataclass(frozen=True)
class Setting:
    """Sizes in tokens, sessions and bytes; counts of samples."""

    model: str
    dtype: str
    device: str
    layers: tuple[int, ...]  # pauses of the resume rows
    tokens: int  # of a session in the resume rows
    session_tokens: int  # of a session in the other rows
    new_tokens: int
    samples: int  # for a median
    tail: int  # for a p99
    pairs: int  # for a bound on a ratio
    rounds: int  # of a workload that takes seconds
    in_arena: int  # sessions of `tokens` that the small server's arena holds
    parked: int  # cold sessions prepared at a time
    oversub: tuple[tuple[int, int], ...]  # (sessions, tokens)
    batch: int  # sessions decoded together
    decoders: int  # sessions decoding in the load
    budget: int  # of the full server
    full_host: int  # its host pool
    card_reserve: int  # what a server on the whole card leaves free
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # of djinn.serve, for a variant
    variant: str = ""

    @property
    def shape(self) -> KVShape:
        preset = PRESETS[self.model]
        head = preset["hidden_size"] // preset["num_attention_heads"]
        return KVShape(
            preset["num_hidden_layers"], preset["num_key_value_heads"], head, preset["hidden_size"], self.dtype
        )

    @property
    def depth(self) -> int:
        return PRESETS[self.model]["num_hidden_layers"]

    @property
    def middle(self) -> int:
        return self.depth // 2

    @property
    def weights_bytes(self) -> int:
        """Of the Llama type, as transformers makes it."""
        p, shape = PRESETS[self.model], self.shape
        attention = 2 * p["hidden_size"] ** 2 + 2 * p["hidden_size"] * shape.kv_heads * shape.head_dim
        layer = attention + 3 * p["hidden_size"] * p["intermediate_size"] + 2 * p["hidden_size"]
        vocabulary = p["vocab_size"] * p["hidden_size"] * (1 if p["tie_word_embeddings"] else 2)
        return (self.depth * layer + vocabulary + p["hidden_size"]) * DTYPE_BYTES[self.dtype]

    def as_dict(self) -> dict[str, Any]:
        """For a raw file, with the sizes that the table's floors are made of."""
        return asdict(self) | {"weights_bytes": self.weights_bytes, "kv_bytes_per_token": self.shape.kv_bytes(1)}


PAPER = Setting(
    model="llama-2-13b",
    dtype="bfloat16",
    device="cuda:0",
    layers=(1, 10, 20, 30, 40),
    tokens=2048,
    session_tokens=1600,
    new_tokens=16,
    samples=30,
    tail=200,
    pairs=50,
    rounds=3,
    in_arena=8,
    parked=10,
    oversub=((50, 1600), (50, 2048), (100, 1600)),
    batch=25,
    decoders=8,
    budget=80 * 10**9,
    full_host=100 * 10**9,
    card_reserve=1_500_000_000,
)
TINY = replace(
    PAPER,
    model="tiny-llama",
    dtype="float32",
    device="cpu",
    layers=(1, 4, 8),
    tokens=96,
    session_tokens=64,
    new_tokens=4,
    samples=4,
    tail=6,
    pairs=6,
    rounds=2,
    in_arena=6,
    parked=3,
    oversub=((16, 64), (12, 96)),
    batch=2,
    decoders=2,
    budget=30 * 10**6,
    full_host=200 * 10**6,
    card_reserve=0,
)
SCALES = {"paper": PAPER, "tiny": TINY}


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,key=value` → name, options of `djinn.serve`: numbers, text, true and false; `a+b` (and every
    `without`) is a list. Raises ValueError."""
    name, _, given = text.partition(":")
    pairs = [pair.partition("=") for pair in given.split(",") if pair]
    if not name or not all(key and equals for key, equals, _ in pairs):
        raise ValueError(f"{text!r}: expected NAME:KEY=VALUE,KEY=VALUE")
    return name, {key: _value(key, value) for key, _, value in pairs}


def _value(key: str, value: str) -> Any:
    if key == "without" or "+" in value:
        return tuple(value.split("+"))
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.lstrip("-").isdigit() else value
