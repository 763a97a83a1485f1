"""Decoding as CUDA graphs: one for each layer, so that a pass can start, stop and wait between any two of them.

All rows' inputs lie in fixed places: what a step changes (tokens, positions, addresses of slabs) is one copy of a few
kilobytes, and a layer is one launch. Cost: rows x (vocabulary + a few hidden states) of device memory, and the capture,
once; a launch a layer (a few microseconds) for each pass. The graphs share their memory, since they run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from djinn.model.fused import Layer, Shape, after, project
from djinn.model.kernels import RowAttention
from djinn.model.upload import small


class RowGraphs:
    """`rows` sessions, one token each. `run` is called for the layers in order; between two the caller may do as it likes."""

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[Layer], shape: Shape, rows: int, max_tokens: int,
        captured: bool, compiled: bool,
    ) -> None:  # fmt: skip
        """captured: as graphs; else a layer's kernels are launched one by one. compiled: the halves of a layer."""
        self.model, self.layers, self.shape, self.rows = model, layers, shape, rows
        self.captured = captured
        halves = (project, after)
        self._project, self._after = (torch.compile(half, dynamic=False) for half in halves) if compiled else halves
        device, depth, hidden_size = model.device, len(layers), model.config.hidden_size
        self.attention = RowAttention(
            rows, shape.heads, shape.kv_heads, shape.head_dim, max_tokens, model.dtype, device
        )
        # token, position and a slab's address in every layer, of each row: one copy brings a step's
        self._staged = torch.zeros((2 + depth, rows), dtype=torch.int64, pin_memory=True)
        self._inputs = torch.zeros((2 + depth, rows), dtype=torch.int64, device=device)
        self._inputs[1] = -1  # padding, while the graphs are made
        self.hidden = torch.zeros((rows, hidden_size), dtype=model.dtype, device=device)
        self._logits = torch.zeros((rows, model.config.vocab_size), dtype=torch.float32, device=device)
        # of each row in every layer: -1 where it is not in that layer
        self._positions = torch.zeros((depth, rows), dtype=torch.int32, device=device)
        self._cos, self._sin = (torch.zeros((rows, shape.head_dim), dtype=model.dtype, device=device) for _ in range(2))
        self._small, self._copied = small(device), torch.cuda.Event()
        self._pool = torch.cuda.graph_pool_handle()
        # One stream makes them all: cuBLAS takes a workspace of 32 MiB for each stream that it meets, and torch deals out 32.
        self._capturing = torch.cuda.Stream()
        self._begin = self._capture(self._prepare)
        self._embed = self._capture(self._look_up)
        self._layer = [self._capture(lambda index=index: self._run_layer(index)) for index in range(depth)]
        self._head = self._capture(self._finish)

    # -- what is captured --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        positions = self._inputs[1]
        self._positions.copy_(torch.where(self._inputs[2:] != 0, positions, -1))
        cos, sin = self.model.model.rotary_emb(self.hidden[None], positions.clamp_min(0)[None])
        self._cos.copy_(cos[0])
        self._sin.copy_(sin[0])

    def _look_up(self) -> None:
        self.hidden.copy_(self.model.model.embed_tokens(self._inputs[0]))

    def _run_layer(self, index: int) -> None:
        layer = self.layers[index]
        qkv = self._project(self.hidden, layer.norm, layer.qkv, self.shape.eps)
        attended = self.attention(qkv, self._cos, self._sin, self._inputs[2 + index], self._positions[index])
        out = self._after(self.hidden, attended, layer.out, layer.mlp_norm, layer.gate_up, layer.down, self.shape.eps)
        self.hidden.copy_(out)

    def _finish(self) -> None:
        self._logits.copy_(F.linear(self.model.model.norm(self.hidden), self.model.lm_head.weight))

    def _capture(self, work: Callable[[], None]) -> Callable[[], None]:
        stream = self._capturing
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.stream(stream):
            work()  # compiles what is compiled, and lets cuBLAS take its workspace
            if not self.captured:
                stream.synchronize()
                return work
            stream.synchronize()
            # other threads may pin memory or copy meanwhile: only this one must keep to what a graph can hold
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            work()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        return graph.replay

    # -- a pass --------------------------------------------------------------------------------------------

    def begin(self, tokens: Sequence[int] | torch.Tensor, positions: Sequence[int], addresses: np.ndarray) -> None:
        """tokens: of the host, or int64 `(live rows,)` on the device. addresses: int64 `(layers, live rows)`, of the slabs; 0 where
        a row is not in a layer yet. Rows beyond the live ones are padding."""
        live, there = len(tokens), isinstance(tokens, torch.Tensor)
        self._copied.synchronize()  # the copy of the step before has been made
        staged = self._staged.numpy()
        staged[0, :live], staged[1, :live], staged[1, live:] = 0 if there else tokens, positions, -1
        staged[2:, :live] = addresses
        self._copied = self._small.up(self._inputs, self._staged)
        if there:
            self._inputs[0, :live].copy_(tokens)
        self._begin()

    def embed(self) -> None:
        self._embed()

    def set_hidden(self, rows: slice, hidden: torch.Tensor) -> None:
        """`(of these rows, hidden_size)`, behind the layer below the next that runs."""
        self.hidden[rows].copy_(hidden)

    def run(self, index: int) -> None:
        """Layer `index`, from 0."""
        self._layer[index]()

    def head(self) -> torch.Tensor:
        """Logits float32 `(rows, vocabulary)`, in a place that the next pass overwrites."""
        self._head()
        return self._logits
