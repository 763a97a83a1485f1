"""Arguments that cannot be are refused by a typed error that says what to do, and the session goes on as if nothing was."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from sessions import NEW, same

import djinn
from djinn.errors import BadRequest, IllegalMove, NoSuchSession, ProtocolError
from djinn.wire import messages as m

pytestmark = pytest.mark.usefixtures("accounts_balance")


def rows(value: float = 0.5, dtype: type = np.float32, count: int = 100, hidden: int = 256) -> np.ndarray:
    return np.full((1, count, hidden), value, dtype=dtype)


COMPUTING = [  # refused whatever the session stands at, so long as it may compute
    ({"break_at": 0}, BadRequest, r"1\.\.8"),
    ({"break_at": 9}, BadRequest, r"1\.\.8"),
    ({"break_at": -1}, BadRequest, r"1\.\.8"),
    ({"break_at": "3"}, BadRequest, "break_at"),
    ({"break_at": 3.5}, BadRequest, "break_at"),
    ({"break_at": True}, BadRequest, "break_at"),
    ({"break_token": 1, "max_new_tokens": 2}, BadRequest, "give break_at"),
    ({"break_at": 3, "break_token": 0, "max_new_tokens": 2}, BadRequest, "break_token=0 is no new token"),
    ({"break_at": 3, "break_token": 3, "max_new_tokens": 2}, BadRequest, "max_new_tokens"),
    ({"max_new_tokens": -1}, BadRequest, "0 or more"),
    ({"max_new_tokens": 157}, BadRequest, "256"),
    ({"max_new_tokens": None}, BadRequest, "max_new_tokens"),
    ({"logits": "some"}, BadRequest, "logits"),
    ({"stop_tokens": ["the"]}, BadRequest, "stop_tokens"),
    ({"stop_tokens": [3, -1]}, BadRequest, "stop_tokens: -1 is no token id"),
    ({"stop_tokens": 3}, BadRequest, "stop_tokens"),
    ({"sampling": djinn.Sampling(temperature=-0.1), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=float("nan")), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=float("inf")), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature=1e-30), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(temperature="hot"), "max_new_tokens": 1}, BadRequest, "temperature"),
    ({"sampling": djinn.Sampling(top_k=0), "max_new_tokens": 1}, BadRequest, "top_k"),
    ({"sampling": djinn.Sampling(top_p=0.0), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(top_p=1.1), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(top_p=float("nan")), "max_new_tokens": 1}, BadRequest, "top_p"),
    ({"sampling": djinn.Sampling(seed=-1), "max_new_tokens": 1}, BadRequest, "seed"),
    ({"sampling": djinn.Sampling(seed=2**64), "max_new_tokens": 1}, BadRequest, "wrong type"),
    ({"sampling": 0.7, "max_new_tokens": 1}, BadRequest, "sampling"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), COMPUTING, ids=lambda value: str(value)[:60])
def test_arguments_of_calls_that_compute(client, prompt, undisturbed, arguments, error, says):
    fresh, paused = client.open(), client.open()
    paused.prefill(prompt, break_at=2)
    for call in (lambda: fresh.prefill(prompt, **arguments), lambda: paused.resume(**arguments)):
        with pytest.raises(error, match=says):
            call()
    assert (fresh.state, paused.state) == ("idle", "paused")
    out = fresh.prefill(prompt, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    out = paused.resume(max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    for session in (fresh, paused):
        session.close()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s, p: s.prefill([512]), BadRequest, "vocabulary"),
        (lambda s, p: s.prefill([-1]), BadRequest, "vocabulary"),
        (lambda s, p: s.prefill([2**70]), BadRequest, "integers"),
        (lambda s, p: s.prefill([1.0, 2.0]), BadRequest, "integers"),
        (lambda s, p: s.prefill([True]), BadRequest, "integers"),
        (lambda s, p: s.prefill(["one"]), BadRequest, "integers"),
        (lambda s, p: s.prefill("one"), BadRequest, "tokenizer.text..'input_ids'"),
        (lambda s, p: s.prefill(bytearray(b"one")), BadRequest, "tokenizer"),
        (lambda s, p: s.prefill({"input_ids": p}), BadRequest, "not dict: .*tokenizer"),
        (lambda s, p: s.prefill([2**63]), BadRequest, f"token id {2**63} is in no vocabulary"),
        (lambda s, p: s.prefill([1, 2**63]), BadRequest, f"token id {2**63} is in no vocabulary"),
        (lambda s, p: s.prefill(torch.ones(3, requires_grad=True)), BadRequest, "detach"),
        (lambda s, p: s.prefill(np.zeros(10**7, np.int64)), BadRequest, "10000000 tokens .* 256 .max_tokens"),
        (lambda s, p: s.prefill([[1], [2]]), BadRequest, "shape"),
        (lambda s, p: s.prefill([[1], [2, 3]]), BadRequest, "numpy"),
        (lambda s, p: s.prefill([]), BadRequest, "empty"),
        (lambda s, p: s.prefill(p * 3), BadRequest, "256"),
        (lambda s, p: s.prefill(p, max_new_tokens=157), BadRequest, "256"),
        (lambda s, p: s.prefill(p, break_at=2, checkpoint_at=[1]), BadRequest, "one of them"),
        (lambda s, p: s.prefill(p, checkpoint_at=[9]), BadRequest, r"1\.\.8"),
        (lambda s, p: s.prefill(p, checkpoint_at=3), BadRequest, "checkpoint_at"),
        (lambda s, p: s.resume(), IllegalMove, "prefill"),
        (lambda s, p: s.generate(max_new_tokens=1), IllegalMove, "prefill"),
        (lambda s, p: s.resume(edit=djinn.Scale(1.0)), IllegalMove, "prefill"),
        (lambda s, p: s.resume(3), BadRequest, "int"),
        (lambda s, p: s.park(durable=True), BadRequest, "--state-dir"),
        (lambda s, p: s.park(durable="yes"), BadRequest, "durable"),
    ],
)
def test_misuse_of_a_fresh_session(client, prompt, undisturbed, call, error, says):
    session = client.open()
    with pytest.raises(error, match=says):
        call(session, prompt)
    assert session.state == "idle"
    out = session.prefill(prompt, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    session.close()


IN_ITSELF: list = []
IN_ITSELF.append(IN_ITSELF)

AT_A_PAUSE = [
    (lambda s: s.prefill([1]), IllegalMove, "open"),
    (lambda s: s.resume(break_at=5), BadRequest, "has been passed"),
    (lambda s: s.resume(activation=rows(count=3)), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows(hidden=255)), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows()[0]), BadRequest, "expected"),
    (lambda s: s.resume(activation=rows(1, np.int64)), BadRequest, "int64"),
    (lambda s: s.resume(activation=rows(1, np.bool_)), BadRequest, "bool"),
    (lambda s: s.resume(activation=rows(1, np.complex64)), BadRequest, "complex64"),
    (lambda s: s.resume(activation="h"), BadRequest, "<U1"),
    (lambda s: s.resume(activation=rows()[None, None]), BadRequest, "expected"),
    (lambda s: s.resume(activation=torch.ones(1, 100, 256, requires_grad=True)), BadRequest, "detach"),
    (lambda s: s.resume(edit={djinn.Scale(2.0), djinn.Ablate()}), BadRequest, "no order"),
    (lambda s: s.resume(edit=djinn.Scale(torch.ones(2))), BadRequest, "factor"),
    (lambda s: s.resume(activation=[[1.0], [1.0, 2.0]]), BadRequest, "numpy"),
    (lambda s: s.resume(activation=rows(np.nan)), BadRequest, "NaN"),
    (lambda s: s.resume(activation=rows(np.inf)), BadRequest, "infinite"),
    (lambda s: s.resume(activation=rows(1e300, np.float64)), BadRequest, "infinite"),
    (lambda s: s.resume(edit=djinn.Scale(1e39)), BadRequest, "float32"),
    (lambda s: s.resume(edit=[djinn.Scale(1e30), djinn.Scale(1e30)]), BadRequest, "float32"),
    (lambda s: s.resume(edit=djinn.Add([1e300] * 256)), BadRequest, "float32"),
    (lambda s: s.resume(edit=djinn.Scale(float("nan"))), BadRequest, "finite"),
    (lambda s: s.resume(edit=djinn.Set([float("inf")] * 256)), BadRequest, "finite"),
    (lambda s: s.resume(edit=djinn.Add([1.0])), BadRequest, "hidden size"),
    (lambda s: s.resume(edit=djinn.ProjectOut([0.0] * 256)), BadRequest, "zero length"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=(100,))), BadRequest, "position 100"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=(-101,))), BadRequest, "position -101"),
    (lambda s: s.resume(edit=djinn.Scale(2.0, positions=3)), BadRequest, "positions"),
    (lambda s: s.resume(edit=djinn.Scale("2")), BadRequest, "factor"),
    (lambda s: s.resume(edit=djinn.Add(["a"])), BadRequest, "vector"),
    (lambda s: s.resume(edit=djinn.Add(1.0)), BadRequest, "vector"),
    (lambda s: s.resume(edit="scale"), BadRequest, "edits"),
    (lambda s: s.resume(edit=IN_ITSELF), BadRequest, "wrong type"),
    (lambda s: s.resume(edit=djinn.Sampling()), BadRequest, "edits"),
]


@pytest.mark.parametrize("evicted", [False, True], ids=["on the device", "evicted"])
def test_misuse_of_a_paused_session(client, prompt, undisturbed, evicted):
    """All on one session, one after the other: it stands at its pause as before each time."""
    session = client.open()
    pause = session.prefill(prompt, break_at=5)
    h = pause.activation()
    for call, error, says in AT_A_PAUSE:
        if evicted:
            session.park()
        with pytest.raises(error, match=says):
            call(session)
        assert session.state in {"io_wait", "evicting", "host", "restoring", "paused"}  # a look brings it back
        assert np.array_equal(pause.activation(), h), says
    out = session.resume(pause, max_new_tokens=NEW)
    assert same(out.tokens.tolist(), out, undisturbed)
    session.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_every_width_are_an_activation(client, prompt, dtype):
    session = client.open()
    session.prefill(prompt, break_at=5)
    assert session.resume(activation=rows(0.5, dtype)).logits.shape == (512,)
    session.close()


def test_what_torch_and_ranges_give_is_as_good_as_python_s_own(client, prompt):
    """And None, where nothing else is meant, is as left out."""
    session, other = client.open(), client.open()
    _, plain = session.prefill(torch.tensor([prompt]), checkpoint_at=range(1, 3), stop_tokens=None)
    checkpoints, out = other.prefill(prompt, checkpoint_at=torch.tensor([1, 2]), stop_tokens=torch.tensor([3]))
    assert list(checkpoints) == [1, 2] and np.array_equal(out.logits, plain.logits)
    edits = (
        djinn.Scale(torch.tensor(2.0), positions=torch.tensor([0, 1])),
        djinn.Scale(np.float32(2.0), positions=range(2)),
    )
    found = [other.resume(checkpoints[1], edit=edit).logits for edit in (*edits, djinn.Scale(2.0, positions=(0, 1)))]
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[2])
    assert np.array_equal(session.resume(session.checkpoints[1], edit=None).logits, plain.logits)
    pause = session.resume(max_new_tokens=2, break_at=torch.tensor(3), break_token=np.int64(1))
    assert pause.layer == 3
    fresh = client.open()
    assert isinstance(fresh.prefill(prompt, checkpoint_at=None), djinn.Out)
    for one in (session, other, fresh):
        one.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"endpoint": None}, "not NoneType"),
        ({"endpoint": 5556}, "not int"),
        ({"endpoint": b"tcp://127.0.0.1:1"}, "not bytes"),
        *(({"timeout": timeout}, "number of seconds") for timeout in (None, "5", -1, float("nan"), True, 10**400)),
        ({"keys": 5}, "djinn keys"),
        ({"token": 123}, "32 to 128"),
        ({"token": b"a" * 32}, "32 to 128"),
        ({"token": "\udc80" * 32}, "32 to 128"),
        ({"endpoint": "tcp://\udc80:1"}, "tcp://host:port"),
    ],
    ids=str,
)
def test_what_connect_cannot_use_is_refused(server, arguments, says):
    with pytest.raises(BadRequest, match=says):
        djinn.connect(**{"endpoint": server.endpoint} | arguments)


def test_a_server_is_its_own_address(server):
    with djinn.connect(server, timeout=np.int64(5)) as client:
        assert client.connection.endpoint == server.endpoint


def test_what_is_no_text_is_no_name_of_a_session(client):
    with pytest.raises(BadRequest, match="wrong type"):
        client.attach("\udc80")


def test_a_request_of_a_foreign_client_is_refused_under_its_number(client):
    """Without the client's own check: the server's refusal must find the request it answers."""
    body = m.Resume(session="none", edits=(djinn.Scale(1.0),), sampling=djinn.Sampling(seed=1))
    number = client.connection.send(body)
    sender = {"client": "another", "token": client.token}
    wrong = msgspec.msgpack.encode({"id": number + 1, "body": {"op": "park", "session": 3}, "sender": sender})
    client.connection._unanswered[number + 1] = [wrong]
    client.connection._socket.send_multipart([wrong])
    client.connection.wait(lambda: len(client.connection._replies) == 2, 30)
    with pytest.raises(NoSuchSession):
        client.connection.take(number).raise_failure()
    with pytest.raises(ProtocolError, match="session"):
        client.connection.take(number + 1).raise_failure()
