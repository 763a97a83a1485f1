"""Run a decoder's own forward, stop it after any layer, and go on from there later: re-entry.

Layers already done are replaced by stand-ins that hand the saved hidden state through, so masks, positions and rotary
tables come from the model's own code and no family needs glue. Nothing above the stop runs: the forward is left by an
exception raised right behind layer L. Cost of a pause: the embedding and the mask once more on resume (0.2-0.5 ms on a
CPU), nothing while no pause is asked for but one Python call a layer.

A pass is a function of the ids, their positions, the stored keys and values, and the saved hidden state: no mask,
position or rotary table comes from the cache's current lengths or from what other sessions ran before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedModel

from djinn.model.layers import find_layers
from djinn.model.rotary import RotaryState
from djinn.model.rows import Joining, RowsCache, joinings, rows_attended, use_row_attention
from djinn.model.slabs import SlabCache
from djinn.model.upload import uploaded

Tap = Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Stopped:
    hidden: torch.Tensor  # (rows, tokens, hidden_size), after `layer` layers
    layer: int


@dataclass(frozen=True)
class Finished:
    logits: torch.Tensor  # (rows, kept positions, vocabulary)


class _Stop(BaseException):
    """Leaves the model's forward. Not an Exception, so that no handler in a model takes it for a failure."""

    def __init__(self, hidden: torch.Tensor, layer: int) -> None:
        self.stopped = Stopped(hidden, layer)


@dataclass
class _Pass:
    start: int = 0  # layers already done
    hidden: torch.Tensor | None = None
    stop: Callable[[int], bool] = lambda layer: False
    taps: Mapping[int, Tap] = field(default_factory=dict)
    # By layers done: what is called when the next one has been issued, and which rows begin there.
    on_first: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    joins: Mapping[int, Joining] = field(default_factory=dict)


class Executor:
    """Drives one model. One thread at a time: a pass is state of the executor."""

    together = 0  # no prompts share a pass: its tokens would attend to each other

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.layers = find_layers(model)
        self.depth = len(self.layers)
        self.rotary = RotaryState(model)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        # How many values each layer returns behind its hidden state in a tuple; -1: the hidden state alone. None: not seen yet.
        self._extras: list[int | None] = [None] * self.depth
        self._pass: _Pass | None = None
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        # Whether `run_rows` may be tried; the probe finds out if it serves. Its rows are too few and short to see a table grow.
        self.takes_rows = takes_positions and not self.rotary.grows and use_row_attention(model, self.depth)
        for index, layer in enumerate(self.layers):
            layer.forward = self._wrap(index, layer.forward)

    def _wrap(self, index: int, forward: Callable) -> Callable:
        done = index + 1  # layers done once this one has run

        def stand_in(*args, **kwargs):
            run = self._pass
            if run is not None and index < run.start:
                extras = self._extras[index]
                return run.hidden if extras < 0 else (run.hidden, *[None] * extras)
            out = forward(*args, **kwargs)
            self._extras[index] = len(out) - 1 if isinstance(out, tuple) else -1
            if run is None:
                return out
            hidden = out[0] if isinstance(out, tuple) else out
            if done in run.joins:
                hidden = run.joins[done].to(hidden)
                out = (hidden, *out[1:]) if isinstance(out, tuple) else hidden
            if index in run.on_first:
                run.on_first[index]()
            if done in run.taps:
                run.taps[done](hidden)
            if run.stop(done):
                raise _Stop(hidden, done)
            return out

        return stand_in

    def reads(self, tokens: int, past: int, start: int) -> bool:
        """Whether a pass over so many tokens from layer `start` on needs their ids, and not only how many they are."""
        return True

    def run(
        self,
        cache: SlabCache,
        ids: torch.Tensor,
        past: int,
        *,
        start: int = 0,
        hidden: torch.Tensor | None = None,
        stop: int | Callable[[int], bool] | None = None,
        taps: Mapping[int, Tap] | None = None,
        all_logits: bool = False,
        on_first: Callable[[], None] = lambda: None,
    ) -> Stopped | Finished:
        """One pass over `ids` `(1, n)` at positions past..past+n-1.

        start, hidden: go on above layer `start` with this state `(1, n, hidden_size)`. stop: leave after that layer, or
        after the first for which it is true. taps: called with the hidden state after those layers, the pass running
        on. on_first: called when the first layer that runs has been issued, or the norm and the head where none is left.
        """
        cache.begin(past)  # the model counts its positions from here: RoBERTa's start at 2, so they are left to it
        # An index, not the slice -1: torch copies the whole head's weights for a sliced row (70 ms a pass on one CPU core).
        last = 0 if all_logits else torch.full((1,), ids.shape[1] - 1, device=ids.device)
        return self._forward(cache, ids, last, _Pass(start, hidden, stops_at(stop), taps or {}, {start: on_first}))

    def run_rows(
        self,
        caches: Sequence[SlabCache],
        tokens: Sequence[int] | torch.Tensor,
        pasts: Sequence[int],
        rows: int,
        *,
        starts: Sequence[int] | None = None,
        hidden: Sequence[torch.Tensor | None] | None = None,
        stop: int | None = None,
        taps: Mapping[int, Tap] | None = None,
        on_first: Callable[[int], None] = lambda start: None,
        counted: bool = True,
    ) -> Stopped | Finished:
        """One token of each cache in one pass of `rows` rows, those beyond the caches being padding.

        tokens: of the host, or int64 `(live rows,)` on the device, where the host does not know them yet. counted: as of
        `SlabCache.begin`. starts: the layers that each row has behind it (none), in rising order; it joins the others there with
        its `hidden` `(1, 1, hidden_size)`. stop, taps: as for `run`, for all rows alike. on_first: called with each of `starts`
        when the layer above it has been issued. What comes back, and what taps are given, holds the live rows.
        """
        live, device = len(caches), self.model.device
        padding = [0] * (rows - live)
        starts = starts or [0] * live
        cache = RowsCache(caches, starts, self.depth)
        begin, *later = joinings(starts, hidden)
        for one, past in zip(caches, pasts, strict=True):
            one.begin(past, counted)
        known = [0] * live if isinstance(tokens, torch.Tensor) else tokens
        ids, positions = uploaded([[*known, *padding], [*pasts, *padding]], device)[..., None]
        if isinstance(tokens, torch.Tensor):
            ids[:live, 0] = tokens
        below = None
        if begin.layer:
            below = begin.hidden.new_zeros((rows, *begin.hidden.shape[1:]))
            below[begin.rows] = begin.hidden
        last = torch.zeros(1, dtype=torch.int64, device=device)
        tapped = {layer: partial(_live_rows, tap, live) for layer, tap in (taps or {}).items()}
        firsts = {start: partial(on_first, start) for start in starts}
        joins = {one.layer: one for one in later}
        with rows_attended(cache):
            run = _Pass(begin.layer, below, stops_at(stop), tapped, firsts, joins)
            result = self._forward(cache, ids, last, run, position_ids=positions)
        if isinstance(result, Stopped):
            return Stopped(result.hidden[:live], result.layer)
        return Finished(result.logits[:live])

    @torch.inference_mode()
    def _forward(
        self,
        cache: SlabCache | RowsCache,
        ids: torch.Tensor,
        last: torch.Tensor | int,
        run: _Pass,
        **positions: torch.Tensor,
    ) -> Stopped | Finished:
        keep = {"logits_to_keep": last} if self._keeps else {}
        if None in self._extras[: run.start]:  # a session that another process paused: no layer has run here yet
            self.model(input_ids=ids[:1, :1], use_cache=False)
        self.rotary.reset()
        self._pass = run
        try:
            out = self.model(
                input_ids=ids,
                past_key_values=cache,
                use_cache=True,
                **keep,
                **positions,
            )
        except _Stop as left:
            return left.stopped
        finally:
            self._pass = None
        if self.depth in run.on_first:
            run.on_first[self.depth]()
        return Finished(out.logits if isinstance(last, int) else out.logits[:, -1:])


def _live_rows(tap: Tap, live: int, hidden: torch.Tensor) -> None:
    tap(hidden[:live])


def stops_at(where: int | Callable[[int], bool] | None) -> Callable[[int], bool]:
    return where if callable(where) else lambda layer: layer == where
