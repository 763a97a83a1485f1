"""A loop of our own over the layers of a Llama-type decoder: fewer and larger kernels than the model's own forward.

The same promises as the executor's: a pass stops behind any layer and goes on from there to the bit. It serves what such
a session mostly does, first passes over many tokens, of one prompt or of several as one, and passes over one token of many
sessions, and leaves the rest (a further turn over many tokens) to re-entry. Which of the two runs a pass is a function of
that pass alone, never of where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from djinn.model.executor import Executor, Finished, Stopped, Tap, stops_at
from djinn.model.first_pass import LEAST, FirstPass
from djinn.model.fused import fuse
from djinn.model.rows import Joining, joinings
from djinn.model.slabs import SlabCache

NOWHERE = 0  # the address of no slab: in a layer where a row has this it is as padding is


class Loop:
    """Drives the model of `executor`. One thread at a time, as for the executor."""

    def __init__(
        self,
        executor: Executor,
        rows: int,
        max_tokens: int,
        together: int = 0,
        *,
        compiled: bool = True,
        graphs: bool = True,
    ) -> None:
        """rows: sessions that share a pass over one token. together: tokens of the prompts that share a first pass.

        compiled: the halves of a layer, by torch.compile. graphs: decode as CUDA graphs. Without CUDA nothing is compiled, and
        passes over one token are the executor's.
        """
        self.reentry, self.model, self.depth = executor, executor.model, executor.depth
        self.layers, self.shape = fuse(self.model)
        card = self.model.device.type == "cuda"
        least = min(LEAST, max_tokens) if card else 1
        self.first = FirstPass(self.model, self.layers, self.shape, least, max_tokens)
        self.alike = self.first.alike
        self.together = together
        self.rows = None
        if card:
            from djinn.model.graphs import RowGraphs  # needs Triton, which torch for CPUs does not bring

            self.rows = RowGraphs(
                self.model, self.layers, self.shape, rows, max_tokens, captured=graphs, compiled=compiled
            )
            if compiled:
                self.first.compile()

    def reads(self, tokens: int, past: int, start: int) -> bool:
        """As `Executor.reads`: a first pass goes on from a hidden state alone."""
        return not start or self._by_reentry(tokens, past)

    @staticmethod
    def _by_reentry(tokens: int, past: int) -> bool:
        return past > 0 or tokens == 1

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
        """As `Executor.run`."""
        if self._by_reentry(ids.shape[1], past):
            return self.reentry.run(
                cache,
                ids,
                past,
                start=start,
                hidden=hidden,
                stop=stop,
                taps=taps,
                all_logits=all_logits,
                on_first=on_first,
            )
        given = None if hidden is None else [hidden]
        found = self.first.run([cache], [ids], start, given, stops_at(stop), taps or {}, all_logits, on_first)
        return found if isinstance(found, Finished) else found[0]

    def run_prompts(
        self,
        caches: Sequence[SlabCache],
        ids: Sequence[torch.Tensor],
        *,
        start: int = 0,
        hidden: Sequence[torch.Tensor] | None = None,
        stop: int | Callable[[int], bool] | None = None,
        on_first: Callable[[], None] = lambda: None,
    ) -> list[Stopped] | Finished:
        """First passes of several prompts, through the same layers, as one. ids, hidden: of each what `run` takes.

        Gives where each stopped, or the last logits `(prompts, 1, vocabulary)`. Together they have `together` tokens at most.
        The bits are those of each one's own pass where `alike` says so of their numbers of tokens and of the sum.
        """
        return self.first.run(caches, ids, start, hidden, stops_at(stop), {}, False, on_first)

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
        """As `Executor.run_rows`; on CUDA always in the rows that were captured."""
        if self.rows is None:
            return self.reentry.run_rows(
                caches,
                tokens,
                pasts,
                rows,
                starts=starts,
                hidden=hidden,
                stop=stop,
                taps=taps,
                on_first=on_first,
                counted=counted,
            )
        starts = starts or [0] * len(caches)
        return self._rows_pass(caches, tokens, pasts, starts, hidden, stop, taps or {}, on_first, counted)

    @torch.inference_mode()
    def _rows_pass(
        self,
        caches: Sequence[SlabCache],
        tokens: Sequence[int] | torch.Tensor,
        pasts: Sequence[int],
        starts: Sequence[int],
        hidden: Sequence[torch.Tensor | None] | None,
        stop: int | None,
        taps: Mapping[int, Tap],
        on_first: Callable[[int], None],
        counted: bool,
    ) -> Stopped | Finished:
        rows, live = self.rows, len(caches)
        addresses = np.stack([cache.addresses for cache in caches], axis=1)
        for row, (cache, past, start) in enumerate(zip(caches, pasts, starts, strict=True)):
            cache.begin(past, counted)
            addresses[:start, row] = NOWHERE
        rows.begin(tokens, pasts, addresses)
        joins = {one.layer: one for one in joinings(starts, hidden)}
        if not starts[0]:
            rows.embed()
        end = self.depth if stop is None else stop
        on_their_way = [(cache, start) for cache, start in zip(caches, starts, strict=True) if cache.gated]
        for index in range(starts[0], end):
            self._join(joins, index)
            for cache, start in on_their_way:
                if start <= index:
                    cache.layers[index].pass_gate()
            rows.run(index)
            if index in joins:
                on_first(index)
            if index + 1 in taps:
                taps[index + 1](rows.hidden[:live, None])
        for cache, start in zip(caches, starts, strict=True):
            cache.wrote_one(start, end)
        if stop is not None:
            return Stopped(rows.hidden[:live, None].clone(), stop)
        self._join(joins, end)
        logits = rows.head()[:live, None]
        if end in joins:
            on_first(end)
        return Finished(logits)

    def _join(self, joins: Mapping[int, Joining], layer: int) -> None:
        """Rows that have the layers below behind them, where there are some."""
        if layer and (one := joins.get(layer)):
            self.rows.set_hidden(one.rows, one.hidden[:, 0])
