"""What a long rule says goes to the terminal and to its log, without a pipe (a `| tee` would come between it and its parent)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


class _Both:
    """A text stream that writes to two."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._terminal, self._log = terminal, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()

    def __getattr__(self, name: str) -> object:  # fileno, isatty, encoding: the terminal's
        return getattr(self._terminal, name)


def log_to(path: Path) -> Callable[[str], None]:
    """From now on stdout and stderr, tracebacks included, are kept in `path` too; returns what prints progress with its time."""
    log = open(path, "w")  # noqa: SIM115  as long as the process lives
    sys.stdout, sys.stderr = _Both(sys.stdout, log), _Both(sys.stderr, log)
    began = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    return progress
