"""First passes over many tokens, of one prompt or of several as one: halves of a layer, and attention between them.

Prompts that share a pass share its matrix products; each attends by itself. On a card a product over few rows has other
kernels than one over many (H100, 5,120 and 13,824 wide: other bits below 200 rows, the same from there to 8,192), so a pass
has LEAST rows at least, and `alike` finds out for a number of rows whether a row's bits are those that it has among LEAST.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from djinn.model.alike import alike
from djinn.model.executor import Finished, Stopped, Tap
from djinn.model.fused import Layer, Shape, after, place, project
from djinn.model.slabs import SlabCache

LEAST = 256  # rows; reading the weights takes about as long as the products of so many
# cuDNN's first, where it is: over many tokens it takes half of flash attention's time on an H100, and repeats its bits
# (400 of 400 runs, also beside copies; over one token it does not, so it is off everywhere else).
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class FirstPass:
    """Of a model of the Llama type. One thread at a time."""

    @torch.inference_mode()
    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], shape: Shape, least: int, max_tokens: int
    ) -> None:
        """least: rows that a pass has at least, those beyond its tokens being padding. max_tokens: of the longest prompt."""
        self.model, self.layers, self.shape, self.least = model, layers, shape, least
        # Of all positions, since each has its own whoever else is asked for: made in a pass they stood before its first kernel.
        first = model.model.embed_tokens.weight[:1]
        self._tables = model.model.rotary_emb(first, torch.arange(max_tokens, device=first.device)[None])
        self._project, self._place, self._after = project, place, after
        self._alike: dict[int, bool] = {}

    @torch.inference_mode()
    def compile(self) -> None:
        """Compile the halves, once and for any number of tokens, here and not in somebody's first request.

        Once, because two compiled forms of one half may sum in another order: a pass that met both, one below a stop and one
        above it, would not have the bits of the pass that was not stopped. So a pass that would need another form fails. (What
        lies between product and attention sums nothing.)
        """
        self._project, self._place, self._after = map(torch.compile, (project, place, after))
        tokens, shape, layer = 64, self.shape, self.layers[0]
        ids = torch.zeros(2 * tokens, dtype=torch.int64, device=self.model.device)
        hidden = self.model.model.embed_tokens(ids)
        torch._dynamo.mark_dynamic(hidden, 0)
        # As of two prompts: torch compiles for a view at the start of its storage and for one behind it.
        projected = self._project(hidden, layer.norm, layer.qkv, shape.eps).split(tokens)
        cos, sin = self._first_positions(tokens)
        with torch.inference_mode(False):  # as the arena is; torch compiles for each of the two kinds of tensors
            room = torch.zeros((tokens, 2, shape.kv_heads, shape.head_dim), dtype=hidden.dtype, device=hidden.device)
        attended = hidden.new_zeros((2 * tokens, shape.heads * shape.head_dim))
        for one in (*projected, cos, sin, room, attended):
            torch._dynamo.mark_dynamic(one, 0)
        for part in projected:
            self._place(part, cos, sin, room, shape)
        self._after(hidden, attended, layer.out, layer.mlp_norm, layer.gate_up, layer.down, shape.eps)

    @torch.inference_mode()
    @torch.compiler.set_stance("fail_on_recompile")
    def alike(self, rows: int) -> bool:
        """Whether in a first pass over so many rows each has the bits that it has in every other for which this is true, and
        in its own prompt's pass. Found out once for each number.
        """
        rows = max(rows, self.least)
        if rows not in self._alike:
            halves = self._project, self._after
            self._alike[rows] = alike(*halves, self.layers[0], self.shape, few=self.least, many=rows)
        return self._alike[rows]

    @torch.inference_mode()
    @torch.compiler.set_stance("fail_on_recompile")
    @sdpa_kernel(ATTENTION, set_priority=True)
    def run(
        self,
        caches: Sequence[SlabCache],
        ids: Sequence[torch.Tensor],
        start: int,
        hidden: Sequence[torch.Tensor] | None,
        stop: Callable[[int], bool],
        taps: Mapping[int, Tap],
        all_logits: bool,
        on_first: Callable[[], None],
    ) -> list[Stopped] | Finished:
        """As `Executor.run`: where each of the prompts stopped, or a row of logits of each; taps and all_logits serve one alone."""
        for cache in caches:
            cache.begin(0)
        if start == len(self.layers):  # no product is left that all their rows go into
            finished = self._finished([one[0] for one in hidden], all_logits)
            on_first()
            return finished
        lengths = [one.shape[1] for one in ids]
        padding = max(0, self.least - sum(lengths))

        def each(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return rows[: sum(lengths)].split(lengths)

        # A copy: of the kind of tensor that an embedding gives, wherever it lay.
        state = self.model.model.embed_tokens(torch.cat(ids, 1)) if hidden is None else torch.cat(list(hidden), 1)
        state = F.pad(state[0], (0, 0, 0, padding)) if padding else state[0]
        beyond = [state.new_zeros((padding, self.shape.heads * self.shape.head_dim))] if padding else []
        for index, layer in enumerate(self.layers[start:], start):
            parts = each(self._project(state, layer.norm, layer.qkv, self.shape.eps))
            attended = [self._attended(*one, index) for one in zip(caches, parts, strict=True)] + beyond
            joined = torch.cat(attended) if len(attended) > 1 else attended[0]
            state = self._after(state, joined, layer.out, layer.mlp_norm, layer.gate_up, layer.down, self.shape.eps)
            done = index + 1
            if index == start:
                on_first()
            if done in taps:
                taps[done](each(state)[0][None])
            if stop(done):
                return [Stopped(part[None], done) for part in each(state)]
        return self._finished(each(state), all_logits)

    def _finished(self, states: Sequence[torch.Tensor], all_logits: bool) -> Finished:
        """The logits of each prompt by itself, so that its bits are its own."""
        return Finished(torch.stack([self._logits(state if all_logits else state[-1:]) for state in states]))

    def _attended(self, cache: SlabCache, projected: torch.Tensor, index: int) -> torch.Tensor:
        """One prompt's attention in layer `index`, its keys and values written where they stay."""
        tokens, kept = len(projected), cache.layers[index]
        room = kept.claim(tokens)
        attended = attend(self._place(projected, *self._first_positions(tokens), room, self.shape), room)
        kept.wrote(tokens)
        return attended

    def _first_positions(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin `(tokens, head_dim)`."""
        cos, sin = self._tables
        return cos[0, :tokens], sin[0, :tokens]

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
