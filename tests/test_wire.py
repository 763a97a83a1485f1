import msgspec
import numpy as np
import pytest

import djinn
from djinn.errors import BadRequest, ProtocolError
from djinn.wire import messages as m
from djinn.wire.frames import check_request, pack, unpack


def test_a_request_with_a_tensor_comes_back_as_it_was():
    ids = np.arange(5, dtype=np.int64)
    number, body, arrays = unpack(pack(7, m.Prefill(session="s", break_at=3), [ids]), "request")
    assert (number, body.break_at) == (7, 3)
    assert np.array_equal(arrays[0], ids)


def test_an_empty_tensor_is_a_tensor():
    *_, arrays = unpack(pack(1, m.Generate(session="s", max_new_tokens=1), [np.zeros(0, np.int64)]), "request")
    assert arrays[0].shape == (0,)


def test_numpys_numbers_travel_as_pythons():
    sampling = djinn.Sampling(temperature=np.float32(0.5), seed=np.int64(3))
    body = m.Prefill(session="s", break_at=np.int32(3), checkpoint_at=np.arange(1, 3), sampling=sampling)
    check_request(body)
    _, read, _ = unpack(pack(1, body), "request")
    assert read == m.Prefill(session="s", break_at=3, checkpoint_at=(1, 2), sampling=djinn.Sampling(0.5, seed=3))


@pytest.mark.parametrize(
    "wrong",
    [{"break_at": "3"}, {"max_new_tokens": 1.5}, {"logits": "none at all"}, {"stop_tokens": 5}, {"sampling": object()}],
    ids=str,
)
def test_an_argument_of_a_wrong_type_is_named_before_it_is_sent(wrong):
    with pytest.raises(BadRequest, match="object" if "sampling" in wrong else next(iter(wrong))):
        check_request(m.Generate(session="s", **wrong))


def test_a_token_travels_under_the_number_of_its_request():
    number, body, arrays = unpack(pack(9, m.TokenReply(index=2, token=77)), "reply")
    assert (number, body.index, body.token, arrays) == (9, 2, 77, [])


def lying(spec: dict) -> list:
    envelope = {"id": 5, "body": {"op": "stats"}, "tensors": [spec]}
    return [msgspec.msgpack.encode(envelope), b"12345678"]


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff" * 40],
        [msgspec.msgpack.encode({"id": 1, "body": {"op": "format_disk"}})],
        [msgspec.msgpack.encode({"id": 1, "body": {"op": "open", "extra": 1}})],
        [msgspec.msgpack.encode({"id": 1, "body": {"op": "park", "session": 3}})],
        [*pack(1, m.Stats()), b"uninvited"],
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
