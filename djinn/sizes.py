"""Sizes in bytes: reading them from text, and the arithmetic of KV caches; lengths of time and ports from text. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from djinn.errors import BadRequest

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def parse_bytes(text: str | int) -> int:
    """Bytes from `"750MB"`, `"2GiB"` or a plain number of bytes. GB = 1e9, GiB = 2**30."""
    try:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
        if match and match[2].upper() in UNITS:
            return int(float(match[1]) * UNITS[match[2].upper()])
    except (OverflowError, ValueError):  # more than a float holds, or than Python writes down
        raise BadRequest("no size has so many digits: write a number and a unit, such as 750MB or 2GiB") from None
    raise BadRequest(f"{text!r} is not a size: write a number and a unit, such as 750MB or 2GiB")


def parse_seconds(text: str | float) -> float:
    """Seconds from `"24h"`, `"30m"`, `"7d"` or a plain number of seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(text))
    if not match or not 0 < (seconds := float(match[1]) * SECONDS[match[2]]) < math.inf:
        raise BadRequest(f"{text!r} is not a length of time: write a number and s, m, h or d, such as 24h")
    return seconds


def parse_port(text: str) -> int:
    """A port to listen on; 0 is whichever is free."""
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise BadRequest(f"{text} is no port: give 0 to 65535, 0 takes a free one")
    return port


def format_seconds(seconds: float) -> str:
    """`86400` as `24.0 h`, `90` as `1.5 min`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def format_bytes(count: float) -> str:
    """`1311000000` as `1.31 GB`: three figures that a person reads."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}" if abs(count) < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype: str) -> int:
    """Key and value of one token in every layer: 2 * layers * kv_heads * head_dim * bytes(dtype)."""
    return 2 * layers * kv_heads * head_dim * DTYPE_BYTES[dtype]


UNIT_TOKENS = 32  # memory is handed out in units of this many tokens of one layer


@dataclass(frozen=True)
class KVShape:
    """What one model keeps for a session, in bytes."""

    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    dtype: str

    @property
    def layer_token_bytes(self) -> int:
        """Key and value of one token in one layer."""
        return kv_bytes_per_token(1, self.kv_heads, self.head_dim, self.dtype)

    @property
    def unit_bytes(self) -> int:
        """What the tiers hand out multiples of: small enough to waste little, one size so that every hole is of use."""
        return UNIT_TOKENS * self.layer_token_bytes

    def kv_bytes(self, tokens: int) -> int:
        """All layers of `tokens` tokens."""
        return self.layers * tokens * self.layer_token_bytes

    def hidden_bytes(self, tokens: int) -> int:
        """One layer's hidden state of `tokens` tokens."""
        return tokens * self.hidden_size * DTYPE_BYTES[self.dtype]
