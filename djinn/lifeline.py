"""A process that must not outlive its parent asks the kernel to be told: PR_SET_PDEATHSIG (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """From now on this process is killed when its parent dies, by whatever signal the parent was ended.

    parent: the pid expected; a process whose parent is gone already ends at once. The kernel ties the signal to the
    thread that started this process: start servers and helpers from a thread that lives as long as they should.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    # In a container the parent that is expected may itself be number 1.
    if os.getppid() != parent if parent is not None else os.getppid() == 1:
        sys.exit("the parent process is gone")
