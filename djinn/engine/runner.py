"""Carry out one request on the compute thread: which passes it needs, sampling, pauses and checkpoints.

A request is a generator of the passes that it wants (`Step`); whoever drives it runs them, alone or together with those of
others, and sends back what came, when the device has got there and not before. The session has all the memory it needs when
this starts, or gates before what is still on its way. Copies made here: a pause or checkpoint copies one hidden state into
its reserved place.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial

import torch

from djinn.engine.edit import edited
from djinn.engine.sampler import Sampler
from djinn.engine.session import Checkpoint, Outcome, Paused, Session, Work
from djinn.engine.side import Moment, Side
from djinn.engine.steps import Pass, Ran, Step
from djinn.errors import Draining, IllegalMove
from djinn.model.executor import Stopped
from djinn.paging.pager import Pager
from djinn.states import State

Steps = Generator[Step, Stopped | Ran, Paused | Outcome]
WRITE_THROUGH = 32  # tokens of a pass from which on its layers are copied out behind it; fewer wait for an eviction


class Runner:
    def __init__(self, pager: Pager, device: torch.device, side: Side, write_through: bool = True) -> None:
        self.write_through = write_through
        self.pager, self.layout, self.device, self.side = pager, pager.layout, device, side
        self.token_bytes = pager.shape.layer_token_bytes

    def prepare(self, work: Work) -> list[Pass]:
        """The passes whose input the request gives, edits applied. Changes nothing, whatever it raises.

        Raises BadRequest where an activation or an edit leaves the range of the model's dtype.
        """
        past, passes, source = work.past(), [], work.resume_from
        if source is not None:
            kept = self.layout.hidden(work.session.residence, source.name, len(source.ids))
            hidden = kept if work.activation is None else work.activation.to(self.device, kept.dtype)
            if work.activation is not None or work.edits:
                hidden = edited(hidden, work.edits)
            passes.append(Pass(source.ids, source.past, source.layer, hidden))
            past += len(source.ids)
        if work.fed():
            passes.append(Pass(work.fed(), past))
        return passes

    def steps(self, work: Work, given: list[Pass]) -> Steps:
        """The passes until the pause, the last token or a stop token. Leaves the session's lengths and kept states true."""
        session, residence = work.session, work.session.residence
        slabs = self.layout.slabs(residence)
        session.cache.bind(slabs, residence.gates, partial(self._written, session), slabs.addresses)
        try:
            return (yield from _Run(self, work).carry_out(given))
        finally:
            if session.last_logits is not None:
                session.last_logits = alone(session.last_logits)
            session.cache.unbind()
            self.set_lengths(session)

    def set_lengths(self, session: Session) -> None:
        live = {layer: length * self.token_bytes for layer, length in enumerate(session.cache.lengths)}
        self.pager.set_live(session.residence, live)

    def _written(self, session: Session, layer: int, tokens: int) -> None:
        if self.write_through and tokens - session.cache.layers[layer].past >= WRITE_THROUGH:
            self.pager.written(session.residence, layer, tokens * self.token_bytes)


class _Run:
    """One request under way."""

    def __init__(self, runner: Runner, work: Work) -> None:
        self.runner, self.work, self.session = runner, work, work.session
        self.tokens: list[int] = []
        self.all_logits: list[torch.Tensor] = []
        self.residence = work.session.residence
        self.stamps = {"accepted": work.accepted_ns, "ready": self.residence.stamps["ready"]}
        self.first_layer: Moment | None = None

    def carry_out(self, given: list[Pass]) -> Steps:
        work, session = self.work, self.session
        if work.rewind:
            self._rewind()
        if work.edits or work.activation is not None:
            self._overtake(given[0])
        if work.sampling is not None:
            session.sampler = Sampler(work.sampling)
        for number, one in enumerate(given):
            behind = len(given) - 1 - number
            stop = not behind and work.break_token is None
            stopped = yield from self._forward(one, stop, behind, tapped=number == 0)
            if stopped:
                return self._pause(one, stopped)
        while len(self.tokens) < work.max_new_tokens:
            if work.stopped:
                raise Draining(
                    f"the server is shutting down: {len(self.tokens)} of {work.max_new_tokens} tokens were chosen, and the "
                    "session stands behind them"
                )
            self._choose()
            ended = len(self.tokens) == work.max_new_tokens or self.tokens[-1] in work.stop_tokens
            stop = work.break_token == len(self.tokens)
            if ended and not stop:
                break
            one = Pass(tuple(session.unfed), session.length)
            stopped = yield from self._forward(one, stop)
            if stopped:
                return self._pause(one, stopped)
        return self._outcome()

    def _rewind(self) -> None:
        """Take the session back to where its checkpoint was."""
        session, source = self.session, self.work.resume_from
        for index, layer in enumerate(session.cache.layers):
            layer.length = source.past + (len(source.ids) if index < source.layer else 0)
        self.runner.set_lengths(session)
        session.length, session.unfed, session.pause = source.past, [], None
        session.sampler = source.sampler.copy()

    def _overtake(self, first: Pass) -> None:
        """The checkpoints above an edit, of the same pass: the layers between are written anew, their KV is no longer theirs."""
        session, source = self.session, self.work.resume_from
        above = [c.name for c in session.checkpoints.values() if c.past == source.past and c.layer > source.layer]
        if above:
            kept = self.runner.layout.hidden(session.residence, source.name, len(source.ids))
            if not torch.equal(first.hidden, kept):
                for name in above:
                    del session.checkpoints[name]

    def _followed(self) -> bool:
        """Whether behind the pass that comes next, if it runs to its end, a whole one over its likeliest token is wanted."""
        over = not self._left() or self.work.break_token == len(self.tokens) + 1
        return not (over or self.work.stop_tokens) and self.session.sampler.greedy

    def _left(self) -> int:
        """Passes wanted at most behind the one that gives the next token: one for each but the last, and the one that pauses."""
        work, chosen = self.work, len(self.tokens) + 1
        return max(0, work.max_new_tokens - chosen if work.break_token is None else work.break_token - chosen + 1)

    def _forward(
        self, one: Pass, stop: bool, behind: int = 0, tapped: bool = False
    ) -> Generator[Step, Stopped | Ran, Stopped | None]:
        """One pass; None when it ran to the end, and then the session holds its tokens and logits. behind: those given that
        follow it."""
        work, session = self.work, self.session
        if work.ends:
            how = "closed" if work.ends is State.DONE else work.ends
            raise IllegalMove(f"the session was {how} while its request ran")
        result = yield Step(
            session.cache,
            one,
            stop=work.break_at if stop else None,
            on_stop=partial(self._keep, work.pause_name),
            taps={layer: partial(self._checkpoint, one, layer) for layer in work.checkpoint_at} if tapped else {},
            all_logits=work.logits == "all",
            on_first=self._mark_first,
            followed=not behind and self._followed(),
            left=behind + self._left(),
        )
        if isinstance(result, Stopped):
            return result
        session.last_logits, session.best = result.last, (result.likeliest, result.largest)
        if work.logits == "all":
            self.all_logits.append(alone(result.logits))
        session.ids[one.past :] = one.ids
        self.stamps.setdefault("logits", time.monotonic_ns())
        session.length, session.pause, session.unfed = one.past + len(one.ids), None, []
        return None

    def _choose(self) -> None:
        token = self.session.sampler.choose(self.session.last_logits, self.session.best)
        self.tokens.append(token)
        self.session.unfed = [token]
        if self.work.on_token:
            self.work.on_token(len(self.tokens) - 1, token)

    def _mark_first(self) -> None:
        if self.first_layer is None:  # of the first pass alone
            self.first_layer = self.runner.side.moment()

    def _checkpoint(self, one: Pass, layer: int, hidden: torch.Tensor) -> None:
        name = self.work.checkpoint_names[layer]
        self._keep(name, hidden)
        self.session.checkpoints[name] = Checkpoint(name, layer, one.ids, one.past, self.session.sampler.copy())

    def _pause(self, one: Pass, stopped: Stopped) -> Paused:
        work, session = self.work, self.session
        session.pause = Checkpoint(work.pause_name, stopped.layer, one.ids, one.past)
        if self.first_layer:
            self.stamps["first_layer"] = self.first_layer.ns()
        self.stamps["done"] = time.monotonic_ns()
        return Paused(work.pause_name, stopped.layer, len(one.ids), self.tokens, self.stamps)

    def _outcome(self) -> Outcome:
        session, stamps = self.session, self.stamps
        stamps["first_layer"] = self.first_layer.ns() if self.first_layer else stamps["accepted"]
        stamps.setdefault("logits", stamps["accepted"])  # no pass ran: they were there
        logits: torch.Tensor | None
        logits = session.last_logits = alone(session.last_logits)  # the reply may be kept for long
        if self.work.logits == "all":
            every = self.all_logits or [logits.new_empty((0, len(logits)))]
            logits = every[0] if len(every) == 1 else torch.cat(every)
        elif self.work.logits == "none":
            logits = None
        return Outcome(self.tokens, logits, dict(self.work.checkpoint_names), stamps)

    def _keep(self, name: str, hidden: torch.Tensor) -> None:
        rows = hidden.shape[1]
        nbytes = self.runner.pager.shape.hidden_bytes(rows)
        self.runner.layout.hidden(self.residence, name, rows).copy_(hidden)
        self.runner.pager.set_live(self.residence, {name: nbytes})
        if self.runner.write_through and rows >= WRITE_THROUGH:
            self.runner.pager.written(self.residence, name, nbytes)


def alone(logits: torch.Tensor) -> torch.Tensor:
    """In memory of its own: a view of one row keeps what the pass gave of all rows and positions."""
    return logits.clone() if logits.untyped_storage().nbytes() > logits.nbytes else logits
