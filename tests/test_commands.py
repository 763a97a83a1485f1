"""Subcommands that other packages bring: found through their entry points, missed in words. What cannot be written is said."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from djinn import cli, commands
from djinn.errors import NotInstalled

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["entry-points"]


def installed(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(commands, "entry_points", lambda **wanted: EntryPoints(points).select(**wanted))


def test_what_is_known_is_what_the_project_declares(monkeypatch):
    assert DECLARED[commands.GROUP].keys() == commands.KNOWN.keys()
    installed(
        monkeypatch, *(EntryPoint(name, value, commands.GROUP) for name, value in DECLARED[commands.GROUP].items())
    )
    assert all(callable(commands.load(name)) for name in commands.KNOWN)


def test_a_command_gets_its_arguments_and_gives_the_exit_code(monkeypatch, capsys):
    installed(monkeypatch, EntryPoint("compare", DECLARED[commands.GROUP]["compare"], commands.GROUP))
    assert cli.main(["compare", "no-such", "campaign"]) == 2
    assert "no campaign 'no-such'" in capsys.readouterr().err


def test_a_missing_package_is_said(monkeypatch, capsys):
    installed(monkeypatch)
    assert cli.main(["compare", "a", "b"]) == 2
    assert "not installed here" in capsys.readouterr().err
    installed(monkeypatch, EntryPoint("compare", "no_such_package.command:main", commands.GROUP))
    with pytest.raises(NotInstalled, match="needs no_such_package"):
        commands.load("compare")


def test_a_trace_that_cannot_be_written_is_said(server, tmp_path, capsys):
    assert cli.main(["trace", "--server", server.endpoint, "--out", str(tmp_path / "trace.json")]) == 0
    assert "traceEvents" in (tmp_path / "trace.json").read_text()
    nowhere = tmp_path / "nowhere" / "trace.json"
    assert cli.main(["trace", "--server", server.endpoint, "--out", str(nowhere)]) == 2
    assert f"{nowhere} cannot be written: No such file" in capsys.readouterr().err


def test_where_no_keys_can_be_made_the_command_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/none")):
        assert cli.main(["keys", str(folder)]) == 2
        assert f"no keys can be made in {folder}" in capsys.readouterr().err


def test_a_name_given_twice_is_refused_before_anything_is_made(tmp_path, capsys):
    assert cli.main(["keys", str(tmp_path / "keys"), "ann", "bob", "ann"]) == 2
    assert "'ann' is given twice" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_the_version_is_the_projects(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"djinn {PROJECT['version']}"


def test_help_lists_every_command():
    text = subprocess.run([sys.executable, "-m", "djinn.cli", "--help"], capture_output=True, text=True).stdout
    assert all(name in text for name in ("serve", "status", "trace", "doctor", *commands.KNOWN))
