"""What a request asks of the device next: one pass, and what is to be done on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from djinn.model.executor import Tap
from djinn.model.slabs import SlabCache


@dataclass(frozen=True)
class Pass:
    """One pass of the model over `ids`, or what is left of it above layer `start`."""

    ids: tuple[int, ...]
    past: int  # tokens before it
    start: int = 0
    hidden: torch.Tensor | None = None  # (1, len(ids), hidden_size), after layer `start`


@dataclass(slots=True)
class Step:
    """span: (layers done, layer to stop after) of a pass over one token. Those with the same can be run as one, and all that stop
    nowhere: who has layers done joins the others there."""

    cache: SlabCache
    one: Pass
    stop: int | None = None  # leave after this layer
    on_stop: Tap = lambda hidden: None  # called when that has been queued: what is to be kept must be copied now
    taps: Mapping[int, Tap] = field(default_factory=dict)
    all_logits: bool = False
    on_first: Callable[[], None] = lambda: None
    followed: bool = False  # whatever it gives, a whole pass over its likeliest token is wanted next
    left: int = 0  # passes that the request wants behind it at most
    span: tuple[int, int | None] | None = field(init=False)

    def __post_init__(self) -> None:
        self.span = None if len(self.one.ids) > 1 else (self.one.start, self.stop)

    @property
    def ends(self) -> bool:
        """Whether the request ends with it, whatever it gives."""
        return not self.left


class Ran(NamedTuple):
    """What a pass that ran to its end gave one request, on the host. likeliest: the first of the largest of `last`, or a NaN."""

    logits: torch.Tensor  # (kept positions, vocabulary), float32
    last: torch.Tensor  # (vocabulary,), of the last position
    likeliest: int
    largest: float  # its logit
