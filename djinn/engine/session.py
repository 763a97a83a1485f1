"""What the server knows of one session, and what a client can ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from djinn.edits import AnyEdit
from djinn.engine.sampler import Sampler
from djinn.errors import DjinnError
from djinn.model.slabs import SlabCache
from djinn.paging.residence import Residence
from djinn.sampling import Sampling
from djinn.states import Machine, State

Logits = Literal["last", "all", "none"]


@dataclass(frozen=True)
class Checkpoint:
    """A pass stopped, or tapped, after `layer` layers: enough to go on from there."""

    name: str  # of the kept hidden state
    layer: int
    ids: tuple[int, ...]  # the pass's input
    past: int  # tokens before the pass
    sampler: Sampler | None = None  # as it stood there, for a rewind; a pause goes on with the session's own


@dataclass
class Session:
    key: str
    residence: Residence
    cache: SlabCache
    owner: str = ""  # whose it is: opaque here, and kept in its durable file
    ids: list[int] = field(default_factory=list)  # every token given to the model, up to `length`
    length: int = 0  # tokens whose KV is in every layer
    unfed: list[int] = field(default_factory=list)  # sampled, not yet given to the model
    last_logits: torch.Tensor | None = None  # (vocabulary,) float32 on the host
    best: tuple[int, float] | None = None  # the likeliest token by them and its logit, where their pass said so
    pause: Checkpoint | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)
    serial: int = 0  # makes names of kept states unique

    @property
    def machine(self) -> Machine:
        return self.residence.machine

    def fork(self, key: str) -> Session:
        """One that has been given what this one has, and draws what this one would; the accounts of its bytes are not made here."""
        child = replace(
            self,
            key=key,
            residence=Residence(key, Machine(self.machine.state)),
            cache=SlabCache(len(self.cache.layers)),
            ids=[*self.ids],
            unfed=[*self.unfed],
            checkpoints={**self.checkpoints},
            sampler=self.sampler.copy(),
        )
        for layer, same in zip(child.cache.layers, self.cache.layers, strict=True):
            layer.length = same.length
        return child

    def name(self, what: str) -> str:
        self.serial += 1
        return f"{what}-{self.serial}"

    def token_ids(self) -> tuple[int, ...]:
        """All that the session holds: what the model was given, the stopped pass, and what was chosen behind them."""
        return (*self.ids[: self.length], *(self.pause.ids if self.pause else self.unfed))

    def kept(self) -> dict[str, Checkpoint]:
        """The hidden states that can still be gone on from, by name."""
        return self.checkpoints | ({self.pause.name: self.pause} if self.pause else {})


@dataclass(frozen=True)
class Ended:
    """What is remembered of a session that is over."""

    owner: str
    machine: Machine
    why: str


@dataclass
class Work:
    """One request that computes. `reply` is called once, from whichever thread finishes it."""

    session: Session
    ids: tuple[int, ...]  # new input tokens; () goes on with what is there
    accepted_ns: int
    reply: Callable[[Paused | Outcome | DjinnError], None]
    resume_from: Checkpoint | None = None  # a pause, or a checkpoint to rewind to
    rewind: bool = False
    max_new_tokens: int = 0
    break_at: int | None = None
    break_token: int | None = None  # the pass whose input is this new token; None: the last whose input is given
    checkpoint_at: tuple[int, ...] = ()
    edits: tuple[AnyEdit, ...] = ()
    activation: torch.Tensor | None = None  # (1, rows, hidden_size), replaces the kept state before the edits
    logits: Logits = "last"
    stop_tokens: frozenset[int] = frozenset()
    sampling: Sampling | None = None  # None: the session's own goes on
    on_token: Callable[[int, int], None] | None = None  # called with (index, token) as each is chosen
    pause_name: str | None = None
    checkpoint_names: dict[int, str] = field(default_factory=dict)  # layer -> name
    ends: State | None = None  # closed or cancelled meanwhile: so, behind the pass at hand
    stopped: bool = False  # the server is going: no further token is begun

    def fed(self) -> tuple[int, ...]:
        """Input that the request gives beside the pass it resumes: tokens chosen but not yet fed, then the new ones."""
        return self.ids if self.resume_from else (*self.session.unfed, *self.ids)

    def past(self) -> int:
        """Tokens that every layer holds when the request begins."""
        return self.resume_from.past if self.resume_from else self.session.length

    def rows(self) -> int:
        """Tokens of the passes whose input is given."""
        return len(self.fed()) + (len(self.resume_from.ids) if self.resume_from else 0)


@dataclass(frozen=True)
class Paused:
    """The forward is stopped after `layer` layers. `tokens`: sampled in this call; `rows`: tokens of the stopped pass."""

    name: str
    layer: int
    rows: int
    tokens: list[int]
    stamps: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """`logits`: float32 `(vocabulary,)`, or `(positions, vocabulary)` when all were asked for, on the host."""

    tokens: list[int]
    logits: torch.Tensor | None
    checkpoints: dict[int, str]  # layer -> name
    stamps: dict[str, int]


Result = Paused | Outcome | DjinnError
