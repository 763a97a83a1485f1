"""Subcommands of `djinn` that live outside this package: entry points of the group `djinn.commands`, found by name.

The runtime must not know the evaluation; whoever installs it beside the runtime finds its commands here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points

from djinn.errors import NotInstalled

GROUP = "djinn.commands"
KNOWN = {"compare": "hold two campaigns of the evaluation against each other"}  # name → help, installed or not
INSTALL = "make env in a checkout of djinn, or pip install '.[evaluation]' there"


def load(name: str) -> Callable[[list[str]], int]:
    """The command's main: arguments in, exit code out. Raises NotInstalled where its package, or one it needs, is missing."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise NotInstalled(f"`djinn {name}` belongs to the evaluation, which is not installed here: {INSTALL}")
    try:
        return found[0].load()
    except ModuleNotFoundError as error:
        raise NotInstalled(f"`djinn {name}` needs {error.name}, which is not installed here: {INSTALL}") from error


def run(name: str, argv: list[str]) -> int:
    """Its exit code; 2, and why on stderr, where it is not installed."""
    try:
        command = load(name)
    except NotInstalled as error:
        print(f"djinn: {error}", file=sys.stderr)
        return 2
    return command(argv)
