"""What a request must be before anything is reserved or moved for it. Everything raised here leaves the session as it was."""

from __future__ import annotations

from dataclasses import dataclass

from djinn.engine import edit, sampler
from djinn.engine.session import Checkpoint, Session, Work
from djinn.errors import BadRequest, IllegalMove
from djinn.states import END, WAITING, State


@dataclass(frozen=True)
class Limits:
    """What one model and one server allow."""

    depth: int
    hidden_size: int
    vocabulary: int
    max_tokens: int


def check_stands(session: Session) -> None:
    """Raise IllegalMove unless the session stands still and nothing is under way for it."""
    state = session.machine.state
    if state in END:
        why = f" ({session.residence.lost})" if session.residence.lost else ""
        raise IllegalMove(f"the session is {state}{why} and cannot go on: close() it, open() begins another")
    fetched = state is State.RESTORING and not session.residence.granted  # on its way back unasked
    if session.residence.saving:
        raise IllegalMove("the session is being parked durably: wait until that call has ended, or cancel() it")
    if not (state in WAITING or fetched) or session.residence.waiting:
        raise IllegalMove(f"the session is {state}: wait for its request to end, or cancel() it")


def check_work(session: Session, work: Work, limits: Limits) -> None:
    """Raise BadRequest or IllegalMove with what is wrong. Settles which pass a `break_at` alone means."""
    if work.max_new_tokens < 0:
        raise BadRequest(f"max_new_tokens is {work.max_new_tokens}: give 0 or more")
    _check_tokens(session, work, limits)
    _check_breaks(work, limits.depth)
    if work.sampling is not None:
        sampler.check(work.sampling)
    if work.resume_from is not None:
        if work.rewind:
            _check_rewind(session, work.resume_from)
        _check_edits(work, work.resume_from, limits.hidden_size)
    elif work.edits or work.activation is not None:
        raise BadRequest("the session is not paused: there is nothing to edit. Give a checkpoint, or pause it first")


def _check_tokens(session: Session, work: Work, limits: Limits) -> None:
    wrong = [i for i in work.ids if not 0 <= i < limits.vocabulary]
    if wrong:
        raise BadRequest(f"token id {wrong[0]} is outside 0..{limits.vocabulary - 1}, the vocabulary")
    if not work.rows() and session.last_logits is None:
        raise IllegalMove("the session holds nothing to go on from: prefill() it first")
    total = work.past() + work.rows() + work.max_new_tokens
    if total > limits.max_tokens:
        raise BadRequest(
            f"{total} tokens are more than this server's {limits.max_tokens}: shorten the prompt or open() anew"
        )


def _check_breaks(work: Work, depth: int) -> None:
    for layer in (work.break_at, *work.checkpoint_at):
        if layer is not None and not 1 <= layer <= depth:
            raise BadRequest(f"layer {layer} is outside 1..{depth}, the layers of this model")
    if work.break_at is None:
        if work.break_token is not None:
            raise BadRequest(f"break_token={work.break_token} says in which pass to stop, not where: give break_at too")
        return
    if work.checkpoint_at:
        raise BadRequest("checkpoint_at runs on, break_at stops: give one of them")
    if work.break_token is None and not work.rows():
        work.break_token = 1  # no input is given: the next pass is that of the first new token
    if work.break_token is not None and work.break_token < 1:
        raise BadRequest(f"break_token={work.break_token} is no new token: they count from 1 to max_new_tokens")
    if work.break_token is not None and work.break_token > work.max_new_tokens:
        raise BadRequest(f"to stop at new token {work.break_token}, max_new_tokens must be at least as many")
    source = work.resume_from
    if work.break_token is None and source and not work.fed() and work.break_at <= source.layer:
        raise BadRequest(f"break_at={work.break_at} has been passed: this pass stands after layer {source.layer}")


def _check_rewind(session: Session, source: Checkpoint) -> None:
    """Stopped below it in the same pass, behind a rewind further down, the layers up to it hold nothing of that pass yet."""
    length = source.past + len(source.ids)
    short = next((layer for layer, n in enumerate(session.cache.lengths[: source.layer], 1) if n < length), None)
    if short is not None:
        raise IllegalMove(
            f"layers {short} to {source.layer} have not run since the session went back below this checkpoint: resume() the "
            f"pause, or rewind to a checkpoint below layer {short}"
        )


def _check_edits(work: Work, source: Checkpoint, hidden_size: int) -> None:
    rows = len(source.ids)
    if work.activation is not None and tuple(work.activation.shape) != (1, rows, hidden_size):
        raise BadRequest(
            f"the activation has shape {tuple(work.activation.shape)}, expected (1, {rows}, {hidden_size})"
        )
    for one in work.edits:
        edit.check(one, rows, hidden_size)
