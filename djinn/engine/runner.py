"""Carry out one request on the compute thread: passes, sampling, pauses and checkpoints.

The session has all the memory it needs when this starts. Greedy sampling, one row: a session's bits cannot depend on
its neighbours. Copies made here: a pause or checkpoint copies one hidden state into its reserved place.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from djinn.engine.clock import Clock
from djinn.engine.edit import apply
from djinn.engine.session import Checkpoint, Outcome, Paused, Session, Work
from djinn.errors import IllegalMove
from djinn.layout import Layout
from djinn.model.executor import Executor, Finished, Stopped


class Runner:
    def __init__(self, executor: Executor, layout: Layout, device: torch.device) -> None:
        self.executor, self.layout, self.device = executor, layout, device
        self.clock = Clock(device)

    def run(self, work: Work) -> Paused | Outcome:
        """Runs until the pause, the last token or a stop token. Leaves the session's lengths and kept states true."""
        session = work.session
        session.cache.bind(self.layout.slabs(session.residence))
        try:
            return self._run(session, work)
        finally:
            session.cache.unbind()
            session.residence.lengths = session.cache.lengths

    def _run(self, session: Session, work: Work) -> Paused | Outcome:
        tokens: list[int] = []
        kept_logits: list[torch.Tensor] = []
        checkpoints: dict[int, str] = {}
        stamps = {"accepted": work.accepted_ns, **session.residence.stamps}
        self.clock.start()
        first_layer = None
        logits: torch.Tensor | None = None

        ids, past, start, hidden = self._begin(session, work)
        if not ids:
            logits = session.last_logits
        while True:
            if ids:
                if past or start == 0:
                    session.residence.resident.wait()  # a pass over a past needs all of the past
                here = work.break_token is None or work.break_token == len(tokens)

                def on_first() -> None:
                    nonlocal first_layer
                    if first_layer is None and "logits" not in stamps:  # of the first pass alone
                        first_layer = self.clock.mark()

                taps = {}
                if work.checkpoint_at and not tokens:
                    taps = {
                        layer: partial(self._checkpoint, session, work, ids, past, checkpoints, layer)
                        for layer in work.checkpoint_at
                    }
                result = self.executor.run(
                    session.cache,
                    torch.tensor([ids], device=self.device),
                    past,
                    start=start,
                    hidden=hidden,
                    stop=work.break_at if here else None,
                    taps=taps,
                    all_logits=work.logits == "all",
                    on_first=on_first,
                )
                if isinstance(result, Stopped):
                    return self._pause(session, work, result, ids, past, tokens, stamps, first_layer)
                logits = self._to_host(result, kept_logits, work)
                if "logits" not in stamps:
                    stamps["logits"] = time.monotonic_ns()
                session.length, session.pause, session.unfed = past + len(ids), None, []
                session.last_logits = logits
            if len(tokens) == work.max_new_tokens or (tokens and tokens[-1] in work.stop_tokens):
                break
            if work.cancelled:
                raise IllegalMove("the session was cancelled")
            tokens.append(int(logits.argmax()))
            session.unfed = [tokens[-1]]
            ended = tokens[-1] in work.stop_tokens or len(tokens) == work.max_new_tokens
            if ended and not (work.break_at and work.break_token == len(tokens)):
                break
            ids, past, start, hidden = tuple(session.unfed), session.length, 0, None

        session.residence.resident.wait()
        stamps["resident"] = session.residence.stamps.get("resident", stamps.get("ready", work.accepted_ns))
        stamps["first_layer"] = first_layer() if first_layer else stamps.get("logits", work.accepted_ns)
        stamps["done"] = time.monotonic_ns()
        every = torch.cat(kept_logits) if work.logits == "all" else logits
        return Outcome(tokens, None if work.logits == "none" else every, checkpoints, stamps)

    def _begin(self, session: Session, work: Work) -> tuple[tuple[int, ...], int, int, torch.Tensor | None]:
        """Input, past, layers done and hidden state of the first pass."""
        source = work.resume_from
        if source is None:
            return tuple(session.unfed) + work.ids if work.ids else tuple(session.unfed), session.length, 0, None
        if work.rewind:
            session.residence.resident.wait()
            for index, layer in enumerate(session.cache.layers):
                layer.length = source.past + (len(source.ids) if index < source.layer else 0)
            session.length, session.unfed = source.past, []
        hidden = self.layout.hidden(session.residence, source.name)
        if work.activation is not None:
            hidden = work.activation.to(device=self.device, dtype=hidden.dtype)
        for edit in work.edits:
            hidden = apply(edit, hidden)
        return source.ids, source.past, source.layer, hidden

    def _checkpoint(
        self,
        session: Session,
        work: Work,
        ids: tuple[int, ...],
        past: int,
        made: dict[int, str],
        layer: int,
        hidden: torch.Tensor,
    ) -> None:
        name = next(n for n in work.keeps if n.startswith(f"checkpoint@{layer}-"))
        self._keep(session, name, hidden)
        session.checkpoints[name] = Checkpoint(name, layer, ids, past)
        made[layer] = name

    def _pause(
        self,
        session: Session,
        work: Work,
        result: Stopped,
        ids: tuple[int, ...],
        past: int,
        tokens: list[int],
        stamps: dict[str, int],
        first_layer,
    ) -> Paused:
        self._keep(session, work.pause_name, result.hidden)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # a paused session's bytes may be copied by others from now on
        session.pause = Checkpoint(work.pause_name, result.layer, ids, past)
        session.residence.hidden_suffices = past == 0
        if first_layer:
            stamps["first_layer"] = first_layer()
        stamps["done"] = time.monotonic_ns()
        return Paused(work.pause_name, result.layer, len(ids), tokens, stamps)

    def _keep(self, session: Session, name: str, hidden: torch.Tensor) -> None:
        self.layout.hidden(session.residence, name).copy_(hidden)
        session.residence.kept[name].filled = True

    def _to_host(self, result: Finished, kept: list[torch.Tensor], work: Work) -> torch.Tensor:
        """The last position's logits, float32 on the host; all of them are kept aside when asked for."""
        logits = result.logits[0].float().cpu()
        if work.logits == "all":
            kept.append(logits)
        return logits[-1]
