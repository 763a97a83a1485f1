"""Run a decoder's own forward, stop it after any layer, and go on from there later: re-entry.

Layers already done are replaced by stand-ins that hand the saved hidden state through, so masks, positions and rotary
tables come from the model's own code and no family needs glue. Nothing above the stop runs: the forward is left by an
exception raised right behind layer L. Cost of a pause: the embedding and the mask once more on resume (0.2-0.5 ms on a
CPU), nothing while no pause is asked for but one Python call a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from djinn.errors import UnsupportedModel
from djinn.model.load import text_config
from djinn.model.slabs import SlabCache

Tap = Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Stopped:
    hidden: torch.Tensor  # (1, tokens, hidden_size), after `layer` layers
    layer: int


@dataclass(frozen=True)
class Finished:
    logits: torch.Tensor  # (1, kept positions, vocabulary)


class _Stop(BaseException):
    """Leaves the model's forward. Not an Exception, so that no handler in a model takes it for a failure."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


@dataclass
class _Pass:
    start: int = 0  # layers already done
    hidden: torch.Tensor | None = None
    stop: int | None = None
    taps: Mapping[int, Tap] = field(default_factory=dict)
    on_first: Callable[[], None] = lambda: None


class Executor:
    """Drives one model. One thread at a time: a pass is state of the executor."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.depth = text_config(model).num_hidden_layers
        self._pass: _Pass | None = None
        for index, layer in enumerate(self._find_layers()):
            layer.forward = self._wrap(index, layer.forward)

    def _find_layers(self) -> torch.nn.ModuleList:
        found = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == self.depth]
        if len(found) != 1:
            raise UnsupportedModel(
                f"{type(self.model).__name__} has {len(found)} lists of {self.depth} layers; a decoder has exactly one"
            )
        return found[0]

    def _wrap(self, index: int, forward: Callable) -> Callable:
        done = index + 1  # layers done once this one has run

        def stand_in(*args, **kwargs):
            run = self._pass
            if run is None:
                return forward(*args, **kwargs)
            if index < run.start:
                return run.hidden
            hidden = forward(*args, **kwargs)
            if not isinstance(hidden, torch.Tensor):
                raise UnsupportedModel(f"layer {done} returns {type(hidden).__name__}, not one hidden state")
            if index == run.start:
                run.on_first()
            if done in run.taps:
                run.taps[done](hidden)
            if done == run.stop:
                raise _Stop(hidden)
            return hidden

        return stand_in

    @torch.inference_mode()
    def run(
        self,
        cache: SlabCache,
        ids: torch.Tensor,
        past: int,
        *,
        start: int = 0,
        hidden: torch.Tensor | None = None,
        stop: int | None = None,
        taps: Mapping[int, Tap] | None = None,
        all_logits: bool = False,
        on_first: Callable[[], None] = lambda: None,
    ) -> Stopped | Finished:
        """One pass over `ids` `(1, n)` at positions past..past+n-1.

        start, hidden: go on above layer `start` with this state `(1, n, hidden_size)`. stop: leave after that layer.
        taps: called with the hidden state after those layers, the pass running on. on_first: called when the first
        layer that runs has been issued.
        """
        cache.begin(past)
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
        # An index, not the slice -1: torch copies the whole head's weights for a sliced row (70 ms a pass on one CPU core).
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        self._pass = _Pass(start, hidden, stop, taps or {}, on_first)
        try:
            out = self.model(
                input_ids=ids,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if all_logits else last,
            )
        except _Stop as stopped:
            return Stopped(stopped.hidden, stop)
        finally:
            self._pass = None
        return Finished(out.logits)
