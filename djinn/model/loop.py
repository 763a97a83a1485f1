"""A loop of our own over the layers of a Llama-type decoder: fewer and larger kernels than the model's own forward.

The same promises as the executor's: a pass stops behind any layer and goes on from there to the bit. It serves what such
a session mostly does, a first pass over many tokens and passes over one token of many sessions, and leaves the rest (a
further turn over many tokens) to re-entry. Which of the two runs a pass is a function of that pass alone, never of
where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from djinn.model.executor import Executor, Finished, Stopped, Tap, stops_at
from djinn.model.fused import after, before, fuse
from djinn.model.slabs import SlabCache

# cuDNN's first, where it is: over many tokens it takes half of flash attention's time on an H100, and repeats its bits
# (400 of 400 runs, also beside copies; over one token it does not, so it is off everywhere else).
PREFILL = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Loop:
    """Drives the model of `executor`. One thread at a time, as for the executor."""

    def __init__(
        self, executor: Executor, rows: int, max_tokens: int, *, compiled: bool = True, graphs: bool = True
    ) -> None:
        """rows: sessions that share a pass over one token. compiled: the halves of a layer, by torch.compile.

        graphs: decode as CUDA graphs. Without CUDA nothing is compiled, and passes over one token are the executor's.
        """
        self.reentry, self.model, self.depth = executor, executor.model, executor.depth
        self.layers, self.shape = fuse(self.model)
        self._before, self._after = before, after
        self.rows = None
        if self.model.device.type == "cuda":
            from djinn.model.graphs import RowGraphs  # needs Triton, which torch for CPUs does not bring

            self.rows = RowGraphs(
                self.model, self.layers, self.shape, rows, max_tokens, captured=graphs, compiled=compiled
            )
            if compiled:
                self.compile()

    @torch.inference_mode()
    def compile(self) -> None:
        """Compile the halves, once and for any number of tokens, here and not in somebody's first request.

        Once, because two compiled forms of one half may sum in another order: a pass that met both, one below a stop and one
        above it, would not have the bits of the pass that was not stopped. So a pass that would need another form fails.
        """
        self._before, self._after = torch.compile(before), torch.compile(after)
        tokens, shape = 64, self.shape
        ids = torch.zeros(tokens, dtype=torch.int64, device=self.model.device)
        hidden = self.model.model.embed_tokens(ids)
        cos, sin = self._tables(hidden, 0)
        with torch.inference_mode(False):  # as the arena is; torch compiles for each of the two kinds of tensors
            room = torch.zeros((tokens, 2, shape.kv_heads, shape.head_dim), dtype=hidden.dtype, device=hidden.device)
        attended = hidden.new_zeros((tokens, shape.heads * shape.head_dim))
        for one in (hidden, cos, sin, room, attended):
            torch._dynamo.mark_dynamic(one, 0)
        layer = self.layers[0]
        self._before(hidden, layer.norm, layer.qkv, cos, sin, room, shape)
        self._after(hidden, attended, layer.out, layer.mlp_norm, layer.gate_up, layer.down, shape.eps)

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
        if past or ids.shape[1] == 1:
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
        return self._first_pass(cache, ids[0], start, hidden, stops_at(stop), taps or {}, all_logits, on_first)

    @torch.inference_mode()
    @torch.compiler.set_stance("fail_on_recompile")
    @sdpa_kernel(PREFILL, set_priority=True)
    def _first_pass(
        self,
        cache: SlabCache,
        ids: torch.Tensor,
        start: int,
        hidden: torch.Tensor | None,
        stop: Callable[[int], bool],
        taps: Mapping[int, Tap],
        all_logits: bool,
        on_first: Callable[[], None],
    ) -> Stopped | Finished:
        cache.begin(0)
        # A copy: of the kind of tensor that an embedding gives, wherever it lay.
        state = self.model.model.embed_tokens(ids) if hidden is None else hidden[0].clone()
        cos, sin = self._tables(state, 0)
        for index in range(start, self.depth):
            layer, kept = self.layers[index], cache.layers[index]
            room = kept.claim(len(ids))
            queries = self._before(state, layer.norm, layer.qkv, cos, sin, room, self.shape)
            attended = attend(queries, room)
            kept.wrote(len(ids))
            state = self._after(state, attended, layer.out, layer.mlp_norm, layer.gate_up, layer.down, self.shape.eps)
            done = index + 1
            if index == start:
                on_first()
            if done in taps:
                taps[done](state[None])
            if stop(done):
                return Stopped(state[None], done)
        logits = self._logits(state if all_logits else state[-1:])[None]
        if start == self.depth:
            on_first()
        return Finished(logits)

    def run_rows(
        self,
        caches: Sequence[SlabCache],
        tokens: Sequence[int],
        pasts: Sequence[int],
        rows: int,
        *,
        start: int = 0,
        hidden: torch.Tensor | None = None,
        stop: int | None = None,
        taps: Mapping[int, Tap] | None = None,
        on_first: Callable[[], None] = lambda: None,
    ) -> Stopped | Finished:
        """As `Executor.run_rows`; on CUDA always in the rows that were captured."""
        if self.rows is None:
            return self.reentry.run_rows(
                caches, tokens, pasts, rows, start=start, hidden=hidden, stop=stop, taps=taps, on_first=on_first
            )
        return self._rows_pass(caches, tokens, pasts, start, hidden, stop, taps or {}, on_first)

    @torch.inference_mode()
    def _rows_pass(
        self,
        caches: Sequence[SlabCache],
        tokens: Sequence[int],
        pasts: Sequence[int],
        start: int,
        hidden: torch.Tensor | None,
        stop: int | None,
        taps: Mapping[int, Tap],
        on_first: Callable[[], None],
    ) -> Stopped | Finished:
        rows, live = self.rows, len(caches)
        for cache, past in zip(caches, pasts, strict=True):
            cache.begin(past)
        rows.begin(tokens, pasts, np.stack([cache.addresses for cache in caches], axis=1))
        if start:
            rows.set_hidden(hidden[:, 0])
        else:
            rows.embed()
        end = self.depth if stop is None else stop
        on_their_way = [cache for cache in caches if cache.gated]
        for index in range(start, end):
            for cache in on_their_way:
                cache.layers[index].pass_gate()
            rows.run(index)
            if index == start:
                on_first()
            if index + 1 in taps:
                taps[index + 1](rows.hidden[:live, None])
        for cache in caches:
            cache.wrote_one(start, end)
        if stop is not None:
            return Stopped(rows.hidden[:live, None].clone(), stop)
        logits = rows.head()[:live, None]
        if start == self.depth:
            on_first()
        return Finished(logits)

    def _tables(self, state: torch.Tensor, past: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin `(tokens, head_dim)` of positions from `past` on."""
        positions = torch.arange(past, past + len(state), device=state.device)
        cos, sin = self.model.model.rotary_emb(state[None], positions[None])
        return cos[0], sin[0]

    def _logits(self, state: torch.Tensor) -> torch.Tensor:
        return F.linear(self.model.model.norm(state), self.model.lm_head.weight)


def attend(queries: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Causal attention of a first pass, keys and values read where they lie.

    queries: `(tokens, heads, head_dim)`. room: `(tokens, 2, kv_heads, head_dim)`. Returns `(tokens, heads * head_dim)`.
    """
    keys, values = (room[:, which].transpose(0, 1)[None] for which in (0, 1))
    out = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys,
        values,
        is_causal=True,
        enable_gqa=queries.shape[1] != room.shape[2],
    )
    return out[0].transpose(0, 1).flatten(1)
