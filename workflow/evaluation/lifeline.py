"""What a run's scripts share: they die with Snakemake, a dead one's lock does not stop the next, their bytecode is kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TextIO

from djinn.lifeline import die_with_parent as _die_with_parent

PARENT = "DJINN_PARENT_PID"  # environment variable: of the process that a script must not outlive


def die_with_parent() -> None:
    """A script's first act: from now on it is killed when its parent is, by whatever signal the parent ended.

    Ctrl-C ends it at once too, whatever it waits for: its results are written whole or not at all, and what it started
    asked for the same and goes with it. (A background job of a shell, for which Ctrl-C is off, is left so.)
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = os.environ.get(PARENT)
    _die_with_parent(int(parent) if parent else None)


def adopt_scripts() -> None:
    """Called by the Snakefile: what its rules start finds this Python first, and knows whose end it has to watch for."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ[PARENT] = str(os.getpid())


def keep_bytecode(folder: Path) -> None:
    """Called by the Snakefile: where Python may not leave its bytecode beside the sources, it does in `folder`.

    Some images set that, and then every script and every server compiles all its libraries anew: 9 s each on one card's host.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and "PYTHONPYCACHEPREFIX" not in os.environ:
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder.absolute())


def register_run(directory: Path) -> TextIO:
    """Say that a Snakemake process lives in `directory`, and clear the lock of one that does not; keep what is returned.

    Each living Snakemake holds a shared file lock, which the kernel drops however the process ends. Whoever gets it
    exclusively is alone, so Snakemake's own lock (written after the Snakefile is parsed) was left by a dead run. With
    another one alive nothing is touched: Snakemake itself then refuses a second run, and a dry run only looks.
    """
    folder = directory / ".snakemake"
    folder.mkdir(exist_ok=True)
    alive = open(folder / "djinn_alive", "w")  # noqa: SIM115  held open as long as the process lives
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        shutil.rmtree(folder / "locks", ignore_errors=True)
    fcntl.flock(alive, fcntl.LOCK_SH)
    return alive
