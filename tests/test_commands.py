"""Subcommands that other packages bring: found through their entry points, missed in words."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from djinn import cli, commands
from djinn.errors import NotInstalled

DECLARED = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["entry-points"]


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


def test_help_lists_every_command():
    text = subprocess.run([sys.executable, "-m", "djinn.cli", "--help"], capture_output=True, text=True).stdout
    assert all(name in text for name in ("serve", "status", "trace", "doctor", *commands.KNOWN))
