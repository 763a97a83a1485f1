import msgspec
import numpy as np
import pytest
import torch

import djinn
from djinn.client import widen
from djinn.errors import BadRequest, ProtocolError
from djinn.wire import messages as m
from djinn.wire.envelope import Sender
from djinn.wire.frames import MAX_HEADER_BYTES, check_request, pack, unpack

SENDER = Sender(client="c", token="t" * 32)


def test_a_request_with_a_tensor_comes_back_as_it_was():
    ids = np.arange(5, dtype=np.int64)
    envelope, body, arrays = unpack(pack(7, m.Prefill(session="s", break_at=3), [ids], SENDER), "request")
    assert (envelope.id, envelope.sender, body.break_at) == (7, SENDER, 3)
    assert np.array_equal(arrays[0], ids)


def test_an_empty_tensor_is_a_tensor():
    *_, arrays = unpack(pack(1, m.Generate(session="s", max_new_tokens=1), [np.zeros(0, np.int64)], SENDER), "request")
    assert arrays[0].shape == (0,)


def test_numpys_numbers_travel_as_pythons():
    sampling = djinn.Sampling(temperature=np.float32(0.5), seed=np.int64(3))
    body = m.Prefill(session="s", break_at=np.int32(3), checkpoint_at=np.arange(1, 3), sampling=sampling)
    check_request(body)
    _, read, _ = unpack(pack(1, body, (), SENDER), "request")
    assert read == m.Prefill(session="s", break_at=3, checkpoint_at=(1, 2), sampling=djinn.Sampling(0.5, seed=3))


@pytest.mark.parametrize(
    "wrong",
    [{"break_at": "3"}, {"max_new_tokens": 1.5}, {"logits": "none at all"}, {"stop_tokens": 5}, {"sampling": object()}],
    ids=["break_at", "max_new_tokens", "logits", "stop_tokens", "sampling"],
)
def test_an_argument_of_a_wrong_type_is_named_before_it_is_sent(wrong):
    with pytest.raises(BadRequest, match="object" if "sampling" in wrong else next(iter(wrong))):
        check_request(m.Generate(session="s", **wrong))


def test_a_token_travels_under_the_number_of_its_request():
    envelope, body, arrays = unpack(pack(9, m.TokenReply(index=2, token=77)), "reply")
    assert (envelope.id, body.index, body.token, arrays) == (9, 2, 77, [])


def request(body: object, **other: object) -> bytes:
    sender = {"client": "c", "token": "t" * 32}
    return msgspec.msgpack.encode({"id": 1, "body": body, "sender": sender} | other)


def lying(spec: dict) -> list:
    return [request({"op": "stats"}, id=5, tensors=[spec]), b"12345678"]


def test_a_request_is_read():
    assert unpack([request({"op": "stats"})], "request")[1] == m.Stats()


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xff" * 40],
        [b"\x91" * 100_000],
        [msgspec.msgpack.encode({"id": 1, "body": msgspec.Raw(b"\x91" * 100_000 + b"\x00")})],
        [b"\x00" * (MAX_HEADER_BYTES + 1)],
        [request({"op": "format_disk"})],
        [request({"op": "open", "extra": 1})],
        [request({"op": "park", "session": 3})],
        [request({"op": "park", "session": "s" * 65})],
        [request({"op": "stats"}, id=-1)],
        [request({"op": "stats"}, id=2**63)],
        [request({"op": "stats"}, sender=None)],
        [request({"op": "stats"}, sender={"client": "c", "token": "short"})],
        [request({"op": "park", "session": "s"}).replace(b"session\xa1s", b"session\xa1\xff")],  # no UTF-8
        [*pack(1, m.Stats(), (), SENDER), b"uninvited"],
        lying({"dtype": "float32", "shape": [0, 2**62, 2**62]}),
        lying({"dtype": "float32", "shape": [1] * 5}),
        lying({"dtype": "int64", "shape": [2]}),
        lying({"dtype": "int64", "shape": [-1]}),
        lying({"dtype": "object", "shape": [1]}),
        lying({"dtype": "float32", "shape": [2**62, 2**62]}),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(frames):
    with pytest.raises(ProtocolError):
        unpack(frames, "request")


def test_the_refusal_knows_which_request_it_answers():
    with pytest.raises(ProtocolError) as refused:
        unpack(lying({"dtype": "int64", "shape": [2]}), "request")
    assert refused.value.number == 5


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_state_in_the_models_dtype_is_the_same_numbers_in_float32(dtype, threads, monkeypatch):
    """Every bit pattern of the 16-bit types, infinities and subnormal numbers too."""
    monkeypatch.setattr(widen, "THREADS", threads)
    monkeypatch.setattr(widen, "LARGE", 1 if threads > 1 else 1 << 20)
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(1, 256, 256)
    state = bits.view(getattr(torch, dtype)) if dtype != "float32" else torch.randn(1, 256, 256)
    sent = bits if dtype == "bfloat16" else state
    _, body, (came,) = unpack(pack(1, m.ActivationReply(dtype=dtype), [sent.numpy()]), "reply")
    found, expected = widen.widened(came, body.dtype), state.float().numpy()
    assert found.dtype == np.float32 and found.flags.writeable
    assert np.array_equal(found, expected, equal_nan=True)
    room = np.full((1, 256, 256), 7, np.float32)
    assert widen.widened(came, body.dtype, room) is room and np.array_equal(room, expected, equal_nan=True)


@pytest.mark.parametrize(
    "room",
    [
        np.empty((1, 3, 5), np.float32),
        np.empty((1, 3, 4), np.float64),
        np.empty((1, 3, 8), np.float32)[:, :, ::2],
        np.frombuffer(bytes(48), np.float32).reshape(1, 3, 4),
        [0.0] * 12,
    ],
    ids=["shape", "dtype", "strides", "read-only", "list"],
)
def test_room_that_cannot_hold_a_state_is_refused(room):
    with pytest.raises(BadRequest, match="out must be"):
        widen.widened(np.ones((1, 3, 4), np.uint16), "bfloat16", room)


def test_a_refusal_does_not_send_back_what_came():
    with pytest.raises(ProtocolError, match="100000 dimensions") as refused:
        unpack(lying({"dtype": "float32", "shape": [1] * 100_000}), "request")
    assert len(str(refused.value)) < 200
