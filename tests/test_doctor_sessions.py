"""The seed's four troubles: each check passes on a healthy server and fails when its fault is put in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import djinn
from djinn.doctor import command, sessions
from djinn.errors import OutOfMemory, ServerGone

ALWAYS_MS = 1e9  # no wall-clock threshold in a test


class Faulty:
    """A client of a real server whose sessions have one call replaced by `fault(real, *args, **kwargs)`."""

    def __init__(self, client: djinn.Client, call: str, fault) -> None:
        self._client, self._call, self._fault = client, call, fault

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    def open(self) -> SimpleNamespace:
        session = self._client.open()
        names = ("prefill", "generate", "resume", "park", "close")
        calls = {name: getattr(session, name) for name in names}
        real = calls[self._call]
        calls[self._call] = lambda *args, **kwargs: self._fault(real, *args, **kwargs)
        return _Live(session, calls)


class _Live:
    def __init__(self, session: djinn.Session, calls: dict) -> None:
        self._session = session
        self.__dict__.update(calls)

    @property
    def state(self) -> str:
        return self._session.state


def unedited(real, *args, edit=(), **kwargs):
    return real(*args, **kwargs)


def other_tokens(real, *args, **kwargs):
    out = real(*args, **kwargs)
    return replace(out, tokens=out.tokens + 1)


def other_logits(real, *args, **kwargs):
    out = real(*args, **kwargs)
    return replace(out, logits=out.logits + np.float32(1e-3))


def always_edited(real, *args, edit=(), **kwargs):
    return real(*args, edit=djinn.Scale(0.9), **kwargs)


def cut_short(real, *args, **kwargs):
    pause = real(*args, **kwargs)
    whole = pause.activation()
    return SimpleNamespace(activation=lambda: whole[:, :-1])


def not_finite(real, *args, **kwargs):
    pause = real(*args, **kwargs)
    broken = pause.activation()
    broken[0, 0, 0] = np.nan
    return SimpleNamespace(activation=lambda: broken)


def ignored(real, *args, activation=None, **kwargs):
    return real(*args, activation=None if activation is None else activation * 1.01, **kwargs)


def test_a_healthy_server_has_no_trouble(client):
    findings = list(command.of_server(client, "cpu", ALWAYS_MS))
    assert [finding.check for finding in findings] == ["server", *command.SERVER_CHECKS]
    assert all(finding.ok for finding in findings), findings
    assert client.stats()["sessions"] == {}  # its sessions are closed again


@pytest.mark.parametrize(
    ("check", "call", "fault", "says"),
    [
        (sessions.token_accuracy, "resume", other_tokens, "0.0 % of 8 tokens"),
        (sessions.token_accuracy, "resume", other_logits, "100.0 % of 8 tokens"),
        (sessions.steering, "resume", unedited, "by up to 0, by 1.0 by 0"),
        (sessions.steering, "resume", always_edited, "by up to 0, by 1.0 by 0"),
        (sessions.checkpoint, "prefill", cut_short, "came back as (1, 63, 256), expected (1, 64, 256)"),
        (sessions.checkpoint, "prefill", not_finite, "every number finite"),
        (sessions.checkpoint, "resume", ignored, "other logits"),
    ],
)
def test_each_trouble_is_found(client, check, call, fault, says):
    found = command.guarded("check", lambda: check(Faulty(client, call, fault)))
    assert found.ok is False and found.advice
    assert says in found.seen


def test_a_factor_of_one_that_changes_something_is_found(client):
    def sloppy(real, *args, edit=(), **kwargs):
        out = real(*args, edit=edit, **kwargs)
        return replace(out, logits=out.logits * np.float32(1.001)) if edit == djinn.Scale(1.0) else out

    found = sessions.steering(Faulty(client, "resume", sloppy))
    assert found.ok is False and "defect" in found.advice


def test_a_message_that_is_cut_and_taken_is_found(client, monkeypatch):
    assert sessions._cuts_taken() == 0
    monkeypatch.setattr(sessions.frames, "unpack", lambda frames, kind: (1, None, []))
    assert sessions._cuts_taken() > 100


def test_a_slow_resume_is_found_with_what_stands_beside_it(client):
    slow = sessions.resume_latency(client, limit_ms=0.0)
    assert slow.ok is False and "system load was" in slow.advice and "% live" in slow.advice


def test_a_parked_session_that_stays_on_the_device_is_found(client, monkeypatch):
    monkeypatch.setattr(sessions, "EVICTION_S", 0.0)
    monkeypatch.setattr(sessions, "ON_THE_WAY_OUT", ("host", "io_wait", "evicting"))
    found = sessions.resume_latency(client, ALWAYS_MS)
    assert found.ok is False and "was not evicted" in found.seen


def test_another_version_or_device_is_found(client, monkeypatch):
    assert sessions.server(client, "cuda:1").ok is False
    monkeypatch.setattr(djinn, "__version__", "9.9.9")
    found = sessions.server(client, None)
    assert found.ok is False and "9.9.9" in found.seen


def test_a_servers_refusal_is_a_finding(client):
    def full(real, *args, **kwargs):
        raise OutOfMemory("no tier can hold it")

    found = command.guarded("steering", lambda: sessions.steering(Faulty(client, "prefill", full)))
    assert found.ok is False and found.seen == "OutOfMemory: no tier can hold it"


def test_the_command_says_ok_or_what_is_wrong_by_its_exit_code(server, capsys, monkeypatch):
    monkeypatch.setattr(command, "of_machine", lambda *wanted: ([], "cpu"))
    assert command.main(["--server", server.endpoint, "--resume-ms", str(ALWAYS_MS)]) == 0
    assert "5 ok" in capsys.readouterr().out
    assert command.main(["--server", server.endpoint, "--device", "cuda:7", "--resume-ms", str(ALWAYS_MS)]) == 1
    assert "start it with --device cuda:7" in capsys.readouterr().out


def test_no_server_leaves_its_checks_open(capsys, monkeypatch):
    def gone(*args, **kwargs):
        raise ServerGone("nobody answered")

    monkeypatch.setattr(command, "of_machine", lambda *wanted: ([], "cpu"))
    monkeypatch.setattr(command, "connect", gone)
    assert command.main(["--server", "tcp://127.0.0.1:1"]) == 1
    text = capsys.readouterr().out
    assert "ServerGone: nobody answered" in text and "1 WRONG, 4 not checked" in text


def test_the_machine_and_a_server_of_its_own(capsys):
    code = command.main(["--resume-ms", str(ALWAYS_MS), "--host-budget", "1MB"])
    text = capsys.readouterr().out
    assert all(check in text for check in ("python", "pinned memory", "snakemake lock", *command.SERVER_CHECKS))
    assert code == int("WRONG" in text)


@pytest.mark.parametrize(
    ("words", "says"), [(["--device", "tpu"], "cpu or cuda:N"), (["--host-budget", "lots"], "750MB")]
)
def test_a_wrong_argument_is_named(capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2 and says in capsys.readouterr().err
