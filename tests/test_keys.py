"""Keys: who is let in, who is not and is told so at once, and that nothing gives a secret away."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.utils import z85

import djinn
from djinn import cli
from djinn.doctor import command, machine
from djinn.errors import BadRequest, NoSuchSession, NotAllowed, ServerGone
from djinn.server.door import Door, check_address, keyring_for
from djinn.server.gate import DOMAIN, decide
from djinn.wire.keys import Keyring, client_keys, make_keys, server_keys


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A server's keys with those of two clients, and the keys of another server."""
    made = tmp_path_factory.mktemp("keys")
    make_keys(made / "ours", ["alice", "bob"])
    make_keys(made / "others", ["mallory"])
    return made


@pytest.fixture(scope="module")
def guarded(folder) -> Iterator[djinn.LocalServer]:
    keys = str(folder / "ours")
    with djinn.serve(
        "tiny-llama", threads=1, device_budget="60MB", host_budget="10MB", max_tokens=256, keys=keys
    ) as server:
        yield server


def test_who_has_a_key_is_let_in_and_a_session_is_its_owners(guarded, folder, prompt):
    alice = djinn.connect(guarded.endpoint, keys=folder / "ours" / "alice")
    bob = djinn.connect(guarded.endpoint, keys=folder / "ours" / "bob", token=alice.token)
    session = alice.open()
    session.prefill(prompt, break_at=3)
    with pytest.raises(NoSuchSession):
        bob.attach(session.id)
    assert bob.sessions() == []
    with djinn.connect(guarded.endpoint, keys=folder / "ours" / "alice") as again:  # another process would do the same
        assert [one.id for one in again.sessions()] == [session.id]
        assert again.attach(session.id).pause.layer == 3
    session.close()
    alice.close()
    bob.close()


def test_the_doctor_is_let_in_with_a_key(guarded, folder, capsys, monkeypatch):
    monkeypatch.setattr(command, "of_machine", lambda *wanted: ([], "cpu"))
    how = ["--server", guarded.endpoint, "--resume-ms", "60000"]
    assert command.main([*how, "--keys", str(folder / "ours" / "bob")]) == 0
    assert command.main(how) == 1 and "keys=DIR" in capsys.readouterr().out
    taken = machine.port(int(guarded.endpoint.rpartition(":")[2]))
    assert taken.ok is None and "keys=DIR" in taken.seen


def test_who_has_none_of_our_keys_is_told_so_at_once(guarded, folder, tmp_path):
    with pytest.raises(NotAllowed, match=r"ask.? for keys"):
        djinn.connect(guarded.endpoint)
    with pytest.raises(NotAllowed, match=r"server\.key"):
        djinn.connect(guarded.endpoint, keys=folder / "others" / "mallory")
    stranger = tmp_path / "stranger"  # who knows the server's public key
    stranger.mkdir()
    for name, source in (("client.key_secret", "others/mallory"), ("server.key", "ours/alice")):
        (stranger / name).write_bytes((folder / source / name).read_bytes())
        (stranger / name).chmod(0o600)
    with pytest.raises(NotAllowed, match="does not let this key in"):
        djinn.connect(guarded.endpoint, keys=stranger)


def test_a_server_without_keys_says_so_to_who_has_one(server, folder):
    with pytest.raises(NotAllowed, match="has no keys"):
        djinn.connect(server.endpoint, keys=folder / "ours" / "alice")


def test_a_key_that_is_taken_away_is_shut_out_and_a_new_one_let_in_while_the_server_runs(guarded, folder):
    make_keys(folder / "ours", ["carol"])
    with djinn.connect(guarded.endpoint, keys=folder / "ours" / "carol") as carol:
        carol.open().close()
        (folder / "ours" / "clients" / "carol.key").unlink()
        with pytest.raises(NotAllowed, match="not let in any more"):
            carol.stats()
    with pytest.raises(NotAllowed, match="does not let this key in"):
        djinn.connect(guarded.endpoint, keys=folder / "ours" / "carol")


def handshake(door: Door, folder: Path, answering: bool) -> int:
    """The event that a client with a good key sees."""
    own, server = client_keys(folder)
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = server, own.public, own.secret
    outcomes = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    monitor = socket.get_monitor_socket(outcomes)
    socket.connect(door.endpoint)
    if answering:
        assert door.gate.socket.poll(20_000)
        door.gate.answer()
    assert monitor.poll(20_000)
    event = zmq.utils.monitor.recv_monitor_message(monitor)["event"]
    socket.disable_monitor()
    socket.close()
    return event


def test_where_nobody_answers_who_may_come_nobody_is_let_in(folder):
    """The gate is taken away: ZeroMQ alone would then let everybody in."""
    door = Door("127.0.0.1", 0, str(folder / "ours"), 1 << 20)
    assert handshake(door, folder / "ours" / "alice", answering=True) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    door.gate.close()
    assert handshake(door, folder / "ours" / "alice", answering=False) == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    door.close()


def test_the_gate_decides_by_key_domain_and_mechanism(folder):
    keyring = Keyring(folder / "ours")
    good = client_keys(folder / "ours" / "alice")[0].public
    bad = client_keys(folder / "others" / "mallory")[0].public

    def status(public=good, version=b"1.0", domain=DOMAIN, mechanism=b"CURVE", more=()) -> bytes:
        asked = [version, b"1", domain, b"127.0.0.1", b"", mechanism, z85.decode(public), *more]
        return decide(asked, keyring)[2]

    assert status() == b"200"
    for wrong in (
        {"public": bad},
        {"version": b"2.0"},
        {"domain": b"*"},
        {"domain": b""},
        {"mechanism": b"NULL"},
        {"mechanism": b"PLAIN", "more": [b"password"]},
        {"more": [b"more"]},
    ):
        assert status(**wrong) == b"400", wrong
    assert decide([b"1.0", b"1", DOMAIN, b"", b"", b"CURVE"], keyring)[2] == b"400"


def test_a_folder_that_cannot_be_read_any_more_lets_nobody_in(tmp_path, caplog):
    make_keys(tmp_path / "keys", ["alice"])
    keyring = Keyring(tmp_path / "keys")
    public = client_keys(tmp_path / "keys" / "alice")[0].public
    assert keyring.name_of(public) == "alice"
    (tmp_path / "keys" / "clients").rename(tmp_path / "away")
    assert keyring.name_of(public) is None and "nobody is let in" in caplog.text


def test_a_key_that_is_written_over_in_its_place_is_another_one_at_once(tmp_path, caplog):
    make_keys(tmp_path / "keys", ["alice", "bob"])
    make_keys(tmp_path / "new", ["alice"])
    keyring = Keyring(tmp_path / "keys")
    old, new = (client_keys(tmp_path / folder / "alice")[0].public for folder in ("keys", "new"))
    bob = client_keys(tmp_path / "keys" / "bob")[0].public
    alices = tmp_path / "keys" / "clients" / "alice.key"
    shutil.copyfile(tmp_path / "new" / "clients" / "alice.key", alices)
    assert (keyring.name_of(old), keyring.name_of(new), keyring.name_of(bob)) == (None, "alice", "bob")
    alices.write_text("")
    assert (keyring.name_of(new), keyring.name_of(bob)) == (None, "bob") and "left out" in caplog.text
    alices.unlink()
    alices.symlink_to(tmp_path / "nothing")
    assert keyring.name_of(bob) == "bob"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "*", "eth0", "localhost.example"])
def test_any_address_but_loopback_needs_keys(folder, host):
    with pytest.raises(BadRequest, match="djinn keys DIR"):
        keyring_for(host, None)
    assert keyring_for(host, str(folder / "ours")) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "::1"])
def test_loopback_needs_none(host):
    assert keyring_for(host, None) is None


def test_an_address_that_is_taken_is_refused_in_words(folder):
    door = Door("127.0.0.1", 0, None, 1 << 20)
    with pytest.raises(BadRequest, match="cannot listen"):
        Door("127.0.0.1", int(door.endpoint.rpartition(":")[2]), None, 1 << 20)
    with pytest.raises(BadRequest, match=r"cannot listen on 127\.0\.0\.1, --port .* in use"):
        check_address("127.0.0.1", int(door.endpoint.rpartition(":")[2]))
    door.close()


def test_an_address_that_is_not_this_machines_is_found_before_anything_is_loaded():
    with pytest.raises(BadRequest, match=r"cannot listen on 192\.0\.2\.1"):
        check_address("192.0.2.1", 0)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "*", "lo"):
        check_address(host, 0)


def test_secret_files_are_for_their_owner_alone(tmp_path):
    keys = tmp_path / "keys"
    make_keys(keys, ["alice"])
    secrets = [keys / "server.key_secret", keys / "alice" / "client.key_secret"]
    assert sorted(secrets) == sorted(keys.rglob("*_secret"))
    for path in secrets:
        assert path.stat().st_mode & 0o777 == 0o600
    for path, read in zip(secrets, (lambda: server_keys(keys), lambda: client_keys(keys / "alice")), strict=True):
        path.chmod(0o640)
        with pytest.raises(BadRequest, match="chmod 600"):
            read()
        path.write_text("no key")
        with pytest.raises(BadRequest, match="not a key file"):
            read()
        path.unlink()
        with pytest.raises(BadRequest, match="djinn keys"):
            read()


def test_keys_are_added_to_and_never_written_over(tmp_path):
    keys = tmp_path / "keys"
    make_keys(keys, ["alice"])
    before = (keys / "server.key_secret").read_bytes()
    with pytest.raises(BadRequest, match="already"):
        make_keys(keys, ["alice"])
    for name in ("../x", "clients", "", "a/b", ".hidden"):
        with pytest.raises(BadRequest, match="name"):
            make_keys(keys, [name])
    make_keys(keys, ["bob"])
    assert (keys / "server.key_secret").read_bytes() == before
    assert sorted(path.stem for path in (keys / "clients").iterdir()) == ["alice", "bob"]


def test_keys_that_could_not_be_made_leave_nothing_in_the_way(tmp_path):
    keys = tmp_path / "keys"
    make_keys(keys, [])
    (keys / "server.key").rename(tmp_path / "server.key")
    with pytest.raises(BadRequest, match=r"server\.key: No such file"):
        make_keys(keys, ["bob"])
    assert not (keys / "bob").exists()
    (tmp_path / "server.key").rename(keys / "server.key")
    make_keys(keys, ["bob"])
    assert client_keys(keys / "bob")


def test_a_server_with_keys_for_nobody_is_refused(tmp_path):
    make_keys(tmp_path / "keys", [])
    with pytest.raises(BadRequest, match="NAME makes one"):
        Keyring(tmp_path / "keys")


def secrets_in(folder: Path) -> list[bytes]:
    return [zmq.auth.load_certificate(path)[1] for path in folder.rglob("*_secret")]


def test_no_key_and_no_token_is_ever_logged(folder, prompt, capfd, caplog):
    """A server's whole output and the client's: let in, refused, failing, listed and asked by the command."""
    caplog.set_level(logging.DEBUG)
    keys = folder / "ours"
    command = [sys.executable, "-m", "djinn.server.server_main", "--port", "0", "--keys", str(keys)]
    command += ["--model", "tiny-llama", "--threads", "1", "--max-tokens", "128", "--device-budget", "60MB"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = ""
        while "listening on " not in said:
            said += process.stdout.readline()
        endpoint = said.rpartition("listening on ")[2].strip()
        with djinn.connect(endpoint, keys=keys / "alice") as client:
            token = client.token
            session = client.open()
            with pytest.raises(BadRequest):
                session.prefill([10**6])
            errors = [repr(client), repr(client.connection), repr(session), repr(client_keys(keys / "alice"))]
            for wrong in (None, folder / "others" / "mallory"):
                with pytest.raises(NotAllowed) as refused:
                    djinn.connect(endpoint, keys=wrong)
                errors.append(repr(refused.value))
            assert cli.main(["status", "--server", endpoint, "--keys", str(keys / "alice")]) == 0
        process.terminate()
        said += process.stdout.read()
    printed = capfd.readouterr()
    everything = "\n".join((said, printed.out, printed.err, caplog.text, *errors))
    assert "let in alice" in said, "the log was read"
    assert session.id in printed.out
    for secret in (*secrets_in(folder), token.encode()):
        assert secret.decode() not in everything


def test_the_command_makes_keys_and_says_what_to_do(tmp_path, capsys):
    assert cli.main(["keys", str(tmp_path / "k"), "ann"]) == 0
    assert "djinn serve --keys" in capsys.readouterr().out
    assert client_keys(tmp_path / "k" / "ann")
    assert cli.main(["keys", str(tmp_path / "k"), "ann"]) == 2
    assert "already" in capsys.readouterr().err


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(ServerGone, match="did not answer"):
        djinn.connect("tcp://127.0.0.1:9", timeout=0.3)
    with pytest.raises(BadRequest, match="tcp://host:port"):
        djinn.connect("nowhere")
