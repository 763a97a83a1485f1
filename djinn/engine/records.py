"""A session as the record of its durable file, and back. Pages are named, not moved: they lie where the pager has them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch

from djinn.durable.record import FORMAT, LOGITS, Chooser, Identity, Kept, Part, Record
from djinn.engine.sampler import Sampler
from djinn.engine.session import Checkpoint, Session
from djinn.errors import StateRefused
from djinn.model.slabs import SlabCache
from djinn.paging import residence
from djinn.paging.residence import Key, Residence
from djinn.sizes import KVShape
from djinn.states import Machine, State

KV, KEPT = "kv.", "kept."
# Names behind the file's last that are not given again: a client may hold a pause of after the file was written, which a crash
# has lost, and another of the same name would be taken for it.
A_LIFE = 10**9


def record_of(session: Session, shape: KVShape, model: Identity) -> Record:
    """What brings the session back, its numbers beside it. It must stand still."""
    parts = [
        _page(key, part.live, shape) for key, part in session.residence.body.items() if part.live and not part.dropped
    ]
    if session.last_logits is not None:
        logits = session.last_logits
        parts.append(Part(name=LOGITS, dtype="float32", shape=tuple(logits.shape), nbytes=logits.nbytes))
    return Record(
        format=FORMAT,
        key=session.key,
        owner=session.owner,
        model=model,
        ids=tuple(session.ids[: session.length]),
        length=session.length,
        lengths=tuple(session.cache.lengths),
        unfed=tuple(session.unfed),
        pause=session.pause and _kept(session.pause),
        checkpoints=tuple(map(_kept, session.checkpoints.values())),
        chooser=_chooser(session.sampler),
        serial=session.serial,
        parts=tuple(parts),
    )


def session_of(record: Record, shape: KVShape, model: Identity) -> Session:
    """The session, its pages on the disk, without its last logits. Raises StateRefused where this model cannot go on with it."""
    wrong = list(_differences(record, shape, model))
    if wrong:
        raise StateRefused(
            f"it is of {record.model.name}, this server has {model.name}: {'; '.join(wrong)}. Its file is kept"
        )
    pages = record.pages()
    machine = Machine(State.DISK if pages else State.IDLE)
    session = Session(record.key, Residence(record.key, machine), SlabCache(shape.layers), owner=record.owner)
    for page in pages:
        session.residence.body.parts[_key(page)] = residence.Part(live=page.nbytes)
    for layer, length in zip(session.cache.layers, record.lengths, strict=True):
        layer.length = length
    session.ids = list(record.ids)
    session.length, session.unfed, session.serial = record.length, list(record.unfed), record.serial + A_LIFE
    session.pause = record.pause and _checkpoint(record.pause)
    session.checkpoints = {kept.name: _checkpoint(kept) for kept in record.checkpoints}
    session.sampler = _sampler(record.chooser)
    return session


def _differences(record: Record, shape: KVShape, model: Identity) -> Iterator[str]:
    for name in ("dtype", "config_sha256", "weights_sha256"):
        its, ours = getattr(record.model, name), getattr(model, name)
        if its != ours:
            yield f"{name} {its[:16]} instead of {ours[:16]}"
    for page in record.pages():
        if msgspec.structs.replace(page, crc32="") != msgspec.structs.replace(
            _page(_key(page), page.nbytes, shape), crc32=""
        ):
            yield f"{page.name} is {page.dtype} {page.shape}"


def _page(key: Key, nbytes: int, shape: KVShape) -> Part:
    if isinstance(key, int):
        sizes = (nbytes // shape.layer_token_bytes, 2, shape.kv_heads, shape.head_dim)
        return Part(name=f"{KV}{key}", dtype=shape.dtype, shape=sizes, nbytes=nbytes)
    sizes = (1, nbytes // shape.hidden_bytes(1), shape.hidden_size)
    return Part(name=KEPT + key, dtype=shape.dtype, shape=sizes, nbytes=nbytes)


def _key(page: Part) -> Key:
    return int(page.name.removeprefix(KV)) if page.name.startswith(KV) else page.name.removeprefix(KEPT)


def _kept(checkpoint: Checkpoint) -> Kept:
    sampler = checkpoint.sampler
    return Kept(
        name=checkpoint.name,
        layer=checkpoint.layer,
        ids=checkpoint.ids,
        past=checkpoint.past,
        chooser=sampler and _chooser(sampler),
    )


def _checkpoint(kept: Kept) -> Checkpoint:
    return Checkpoint(kept.name, kept.layer, kept.ids, kept.past, kept.chooser and _sampler(kept.chooser))


def _chooser(sampler: Sampler) -> Chooser:
    stream = sampler.stream
    return Chooser(sampling=sampler.sampling, stream=None if stream is None else stream.get_state().numpy().tobytes())


def _sampler(chooser: Chooser) -> Sampler:
    """Raises StateRefused where this torch does not know the stream's state."""
    if chooser.stream is None:
        return Sampler(chooser.sampling)
    stream = torch.Generator()
    try:
        stream.set_state(torch.frombuffer(bytearray(chooser.stream), dtype=torch.uint8))
    except RuntimeError as reason:
        raise StateRefused(f"its random stream is not one of torch {torch.__version__}: {reason}") from reason
    return Sampler(chooser.sampling, stream)
