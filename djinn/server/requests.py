"""Between messages and the engine's own words: a request becomes Work, a result becomes a reply. Nothing is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import djinn
from djinn.engine.session import Outcome, Paused, Result, Session, Work
from djinn.errors import BadRequest, DjinnError, IllegalMove, ServerFault
from djinn.server.limits import ServerLimits
from djinn.sizes import KVShape
from djinn.wire import messages as m
from djinn.wire.frames import MAX_TENSOR_BYTES

Computes = m.Prefill | m.Generate | m.Resume


def work_of(
    session: Session, body: Computes, arrays: list[np.ndarray], accepted_ns: int, reply: Callable[[Result], None]
) -> Work:
    """What the engine is to do. Raises BadRequest or IllegalMove; whether the session can do it, the engine checks."""
    work = Work(
        session,
        ids=(),
        accepted_ns=accepted_ns,
        reply=reply,
        max_new_tokens=body.max_new_tokens,
        break_at=body.break_at,
        break_token=body.break_token,
        logits=body.logits,
        stop_tokens=frozenset(body.stop_tokens),
        sampling=body.sampling,
    )
    match body:
        case m.Prefill():
            if session.length or session.pause:
                raise IllegalMove("the session holds tokens already: generate() goes on with it, open() begins another")
            work.ids, work.checkpoint_at = _ids(arrays), tuple(dict.fromkeys(body.checkpoint_at))
        case m.Generate():
            work.ids, work.resume_from = _ids(arrays), session.pause
        case m.Resume():
            work.resume_from, work.rewind, work.edits = _source(session, body), body.checkpoint is not None, body.edits
            work.activation = _activation(arrays)
    return work


def check_reply_size(work: Work, vocabulary: int) -> None:
    """Raise BadRequest where the logits that are asked for would not fit one frame."""
    size = (work.rows() + work.max_new_tokens) * vocabulary * 4
    if work.logits == "all" and size > MAX_TENSOR_BYTES:
        raise BadRequest(f'logits="all" would be {size} bytes, a reply holds {MAX_TENSOR_BYTES}: ask in shorter turns')


def check_activation_size(session: Session, name: str, shape: KVShape) -> None:
    """Raise BadRequest where a kept hidden state would not fit one frame: the client's socket would hang up on it."""
    kept = session.kept().get(name)
    size = shape.hidden_bytes(len(kept.ids)) if kept else 0
    if size > MAX_TENSOR_BYTES:
        raise BadRequest(
            f"the activation is {size} bytes, a reply holds {MAX_TENSOR_BYTES}: pause or keep a checkpoint in shorter turns, "
            "or edit it on the server (edit=)"
        )


def reply_of(result: Result) -> tuple[m.AnyReply, list[np.ndarray]]:
    """The last reply of a request that computed."""
    match result:
        case Paused(name=name, layer=layer, rows=rows, tokens=tokens, stamps=stamps):
            return m.PausedReply(name=name, layer=layer, rows=rows, tokens=tuple(tokens), stamps=stamps), []
        case Outcome(tokens=tokens, logits=logits, checkpoints=checkpoints, stamps=stamps):
            body = m.OutcomeReply(tokens=tuple(tokens), checkpoints=checkpoints, stamps=stamps)
            return body, [] if logits is None else [logits.numpy()]
        case DjinnError() as error:
            return failure(error), []


def failure(error: DjinnError) -> m.Failure:
    return m.Failure(code=error.code, message=str(error))


def fault(error: Exception) -> m.Failure:
    return m.Failure(code=ServerFault.code, message=f"{type(error).__name__}: {error}")


def _ids(arrays: list[np.ndarray]) -> tuple[int, ...]:
    if len(arrays) != 1 or arrays[0].dtype != np.int64 or arrays[0].ndim != 1:
        raise BadRequest("token ids travel as one int64 tensor of shape (n,)")
    return tuple(arrays[0].tolist())


def _activation(arrays: list[np.ndarray]) -> torch.Tensor | None:
    if len(arrays) > 1 or any(a.dtype != np.float32 for a in arrays):
        raise BadRequest("an activation travels as one float32 tensor of shape (1, rows, hidden)")
    return torch.from_numpy(arrays[0].copy()) if arrays else None


def _source(session: Session, body: m.Resume):
    """The checkpoint to rewind to, the pause that the session stands at, or None: it goes on from its last token."""
    if body.checkpoint is not None:
        if body.checkpoint not in session.checkpoints:
            raise IllegalMove(
                f"the session has no checkpoint {body.checkpoint!r} any more: it was discarded, or an edit below it overtook it"
            )
        return session.checkpoints[body.checkpoint]
    if body.pause is not None and (session.pause is None or session.pause.name != body.pause):
        raise IllegalMove("that pause is over: the session has gone on since")
    return session.pause


def welcome(model: dict, device: str, plan: dict[str, int], max_tokens: int, limits: ServerLimits) -> m.Welcome:
    """What a client is told of this server."""
    return m.Welcome(
        protocol=m.PROTOCOL,
        server_version=djinn.__version__,
        model=model,
        device=device,
        depth=model["layers"],
        vocabulary=model["vocab_size"],
        hidden_size=model["hidden_size"],
        max_tokens=max_tokens,
        plan=plan,
        max_message_bytes=limits.max_message_bytes,
        lease_s=limits.lease_s,
    )
