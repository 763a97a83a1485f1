"""How a session chooses its next token, as data: it travels on the wire and is carried out on the server. Pure."""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Draw tokens as `transformers.generate(do_sample=True)` does, in its order: temperature, top_k, top_p, one draw.

    temperature: 0 takes the likeliest token, else at least 0.001. top_k: keep the k likeliest, None keeps all.
    top_p: keep the likeliest that together reach this probability, in (0, 1]. seed: 0..2**64-1; the session's random
    stream starts there when the request that carries this begins, and is the session's alone from then on.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling(temperature=0.0)
