"""Messages to frames and back. A frame's size is checked against its header before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from djinn.errors import BadRequest, ProtocolError
from djinn.wire.envelope import Envelope, Sender, TensorSpec
from djinn.wire.messages import AnyReply, AnyRequest

MAX_TENSORS = 2
MAX_DIMENSIONS = 4
MAX_TENSOR_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 22  # of a request; a server's replies are bounded by the client's socket (djinn/client/line.py)


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_envelope = msgspec.msgpack.Decoder(Envelope)
_bodies = {"request": msgspec.msgpack.Decoder(AnyRequest), "reply": msgspec.msgpack.Decoder(AnyReply)}


def pack(
    number: int, body: AnyRequest | AnyReply, tensors: Sequence[np.ndarray] = (), sender: Sender | None = None
) -> list[Any]:
    """Frames of one message. The arrays are not copied: they must not change until they are sent."""
    arrays = [np.ascontiguousarray(a) for a in tensors]
    specs = tuple(TensorSpec(str(a.dtype), a.shape) for a in arrays)
    header = _encoder.encode(Envelope(number, msgspec.Raw(_encoder.encode(body)), specs, sender))
    return [header, *(a.reshape(-1).view(np.uint8).data if a.size else b"" for a in arrays)]


def check_request(body: AnyRequest) -> None:
    """Raise BadRequest, naming the argument, where the server would not take `body` for a request."""
    try:
        _bodies["request"].decode(_encoder.encode(body))
    except (msgspec.ValidationError, TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise BadRequest(f"an argument has the wrong type: {error}") from error


def size_of(frames: Sequence[Any]) -> int:
    """Bytes of a message."""
    return sum(memoryview(frame).nbytes for frame in frames)


def unpack(frames: Sequence[Any], kind: str) -> tuple[Envelope, Any, list[np.ndarray]]:
    """(envelope, body, arrays) of a `request` or `reply`. Raises ProtocolError; its `number` is 0 if not even that was read."""
    number = 0
    try:
        if not frames:
            raise ProtocolError("an empty message")
        if kind == "request" and (size := memoryview(frames[0]).nbytes) > MAX_HEADER_BYTES:
            raise ProtocolError(f"a header of {size} bytes (limit {MAX_HEADER_BYTES})")
        envelope = _envelope.decode(frames[0])
        number = envelope.id
        if kind == "request" and envelope.sender is None:
            raise ProtocolError("a request does not say who asks")
        body = _bodies[kind].decode(envelope.body)
        if len(envelope.tensors) != len(frames) - 1 or len(envelope.tensors) > MAX_TENSORS:
            raise ProtocolError(
                f"{len(frames) - 1} tensor frames came, the header describes {len(envelope.tensors)} (limit {MAX_TENSORS})"
            )
        arrays = [_array(spec, frame) for spec, frame in zip(envelope.tensors, frames[1:], strict=True)]
    except (msgspec.MsgspecError, ProtocolError, RecursionError, UnicodeDecodeError) as error:  # nested deep; no UTF-8
        refusal = ProtocolError(f"not a {kind} of this protocol: {error}")
        refusal.number = number
        raise refusal from error
    return envelope, body, arrays


def _array(spec: TensorSpec, frame: Any) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if (dimensions := len(spec.shape)) > MAX_DIMENSIONS:  # not repeated in the refusal: it may fill the header
        raise ProtocolError(f"a tensor of {dimensions} dimensions (limit {MAX_DIMENSIONS})")
    if not all(0 <= n <= MAX_TENSOR_BYTES for n in spec.shape):
        raise ProtocolError(f"shape {spec.shape} is not a tensor's")
    expected = math.prod(spec.shape) * dtype.itemsize
    if expected != memoryview(frame).nbytes or expected > MAX_TENSOR_BYTES:
        raise ProtocolError(
            f"a frame of {memoryview(frame).nbytes} bytes is described as {spec.dtype} {spec.shape} (limit {MAX_TENSOR_BYTES})"
        )
    return np.frombuffer(frame, dtype=dtype).reshape(spec.shape)
