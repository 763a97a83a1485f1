import msgspec
import numpy as np
import pytest

from djinn.errors import ProtocolError
from djinn.wire import messages as m
from djinn.wire.frames import pack, unpack


def test_a_request_with_a_tensor_comes_back_as_it_was():
    ids = np.arange(5, dtype=np.int64)
    number, body, arrays = unpack(pack(7, m.Prefill(session="s", break_at=3), [ids]), "request")
    assert (number, body.break_at) == (7, 3)
    assert np.array_equal(arrays[0], ids)


def test_an_empty_tensor_is_a_tensor():
    *_, arrays = unpack(pack(1, m.Generate(session="s", max_new_tokens=1), [np.zeros(0, np.int64)]), "request")
    assert arrays[0].shape == (0,)


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
