"""What a request must have on the device and in which order, and what its session need not keep there any more."""

from __future__ import annotations

from djinn.engine.session import Session, Work
from djinn.paging.pager import Pager
from djinn.paging.residence import Key, Request
from djinn.sizes import KVShape


def request_of(work: Work, shape: KVShape, parts_first: bool) -> Request:
    """What must be on the device: the tokens it will hold, or holds now (a rewind may go back), and hidden states.

    Gives names to those that the work will keep. parts_first: it may run with what its next layer needs; else with all.
    """
    session = work.session
    tokens = max(work.past() + work.rows() + work.max_new_tokens, *session.cache.lengths, 0)
    need: dict[Key, int] = dict.fromkeys(range(shape.layers), tokens * shape.layer_token_bytes)
    if work.break_at is not None:
        work.pause_name = session.name("pause")
        last = work.fed() or work.resume_from.ids if work.break_token is None else (0,)
        need[work.pause_name] = shape.hidden_bytes(len(last))
    for layer in work.checkpoint_at:
        work.checkpoint_names[layer] = session.name(f"checkpoint@{layer}")
        need[work.checkpoint_names[layer]] = shape.hidden_bytes(work.rows())
    order, first = _order(work, shape.layers)
    resumed = bool(session.residence.body.parts)
    return Request(session.residence, need, 0, resumed, order, first if parts_first else None)


def _order(work: Work, depth: int) -> tuple[tuple[Key, ...], frozenset[Key] | None]:
    """In which order the parts are needed, and without which the first layer cannot run."""
    layers, source = range(depth), work.resume_from
    if source is None:
        return tuple(layers), frozenset([0])
    above = (*layers[source.layer :], *layers[: source.layer])
    if work.rewind:  # it may change any of them
        return (source.name, *above), None
    needed = above[:1] if source.past else ()  # in its first pass a session has nothing above the pause yet
    return (source.name, *(above if source.past else layers)), frozenset([source.name, *needed])


def give_back(pager: Pager, session: Session) -> None:
    """Hidden states that nothing can go on from any more: reserved in vain, resumed, overtaken or discarded."""
    kept = session.kept()
    for name in [key for key in session.residence.body.parts if isinstance(key, str) and key not in kept]:
        pager.drop(session.residence, name)
