"""PyTorch eager: every session's cache stays on the device, and N is raised to the real out-of-memory error.

Each allocator setting has a process of its own (parking_lot.py); they import side by side, and get their jobs one after the
other. The best setting is the headline. A baseline whose best setting dies with less than 85 % of its headroom in live KV
lost to fragmentation, not to memory: that is unfair, and an error here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

from djinn.sizes import format_bytes, parse_bytes
from evaluation.lifeline import PARENT
from evaluation.settings import given_out

FAIR = 0.85
# Environment of the process by setting. glibc: from which size on a block is given back to the system by itself; number of
# arenas. CUDA: whether a reserved segment can grow; the largest block that may be split.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "mmap64k": {"MALLOC_MMAP_THRESHOLD_": "65536"},
    "mmap1m": {"MALLOC_MMAP_THRESHOLD_": "1048576"},
    "arena1": {"MALLOC_ARENA_MAX": "1"},
    "expandable": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "split512": {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"},
}
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "MemoryError",
    "bad_alloc",
    "could not create a",
)
ONEDNN = "could not execute a primitive"
Progress = Callable[[str], None]


class NoLimitFound(RuntimeError):
    """Every session fitted: the limit was not reached."""


class BaselineBroken(RuntimeError):
    """The baseline ended otherwise than by running out of memory."""


class UnfairBaseline(RuntimeError):
    """Even the best setting died with much of its memory unused."""


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    budget = parse_bytes(settings.budget.device)
    with ExitStack() as begun:
        lots = {name: begun.enter_context(_lot(name)) for name in settings.eager.allocators}
        outcomes = [_run(name, *lot, settings, progress) for name, lot in lots.items()]
    sizes = outcomes[0][0]
    rows = [row for _, row in outcomes]
    best = max(rows, key=lambda row: row["live_over_headroom"])
    check_fair(best, sizes)
    return {
        "budget_bytes": budget,
        **sizes,
        "prompt_tokens": settings.oversubscription.prompt_tokens,
        "settings": rows,
        "best": best["name"],
    }


def check_fair(best: dict[str, Any], sizes: dict[str, int]) -> None:
    if best["live_over_headroom"] < FAIR:
        raise UnfairBaseline(
            f"the best setting, {best['name']}, held {best['sessions']} sessions, {format_bytes(best['live_kv_bytes'])} of "
            f"{format_bytes(sizes['headroom_bytes'])} headroom = {best['live_over_headroom']:.2f}, below {FAIR}: a baseline that "
            "wastes that much is no comparison. Add a setting to eager.allocators, or raise budget.device"
        )


@contextmanager
def _lot(name: str) -> Iterator[tuple[subprocess.Popen, TextIO]]:
    """The process with that setting, and where its last words go. Until it has a job it holds nothing of the device; it ends with
    the block."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "evaluation.parking_lot"],
            env={**os.environ, **ALLOCATORS[name], PARENT: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield process, errors
        finally:
            process.kill()  # nothing, where it has ended


def _run(
    name: str, process: subprocess.Popen, errors: TextIO, settings: Any, progress: Progress
) -> tuple[dict[str, int], dict[str, Any]]:
    job = {
        "device": settings.device,
        "threads": settings.threads,
        "model": vars(settings.model),
        "prompt_tokens": settings.oversubscription.prompt_tokens,
        "max_sessions": settings.eager.max_sessions,
        "budget_bytes": parse_bytes(settings.budget.device),
        "limit_bytes": given_out(settings.budget),
    }
    began = time.monotonic()
    progress(f"eager, {name}: sessions are parked until memory is out")
    with suppress(BrokenPipeError):  # it ended before it had its job: its last words say why
        process.stdin.write(json.dumps(job))
        process.stdin.close()
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1].get("sessions", 1) % 10 == 0:
            progress(
                f"eager, {name}: {lines[-1]['sessions']} sessions, {format_bytes(lines[-1]['live_kv_bytes'])} of KV"
            )
    exit_code = process.wait()
    errors.seek(0)
    last_words = " | ".join(errors.read().strip().splitlines()[-2:])
    return read_outcome(name, lines, last_words, exit_code, time.monotonic() - began, progress)


def _no_room(lines: list[dict[str, Any]]) -> bool:
    """Whether a library said only that it failed, where the operating system would not have given one more session's bytes.

    oneDNN, which multiplies bfloat16 on some processors, has no word for it.
    """
    last = lines[-1]
    room = last.get("room_bytes")
    return ONEDNN in last.get("error", "") and room is not None and room < lines[0]["kv_bytes_per_session"]


def read_outcome(
    name: str, lines: list[dict[str, Any]], last_words: str, exit_code: int, seconds: float, progress: Progress
) -> tuple[dict[str, int], dict[str, Any]]:
    """(sizes, row of the result) from what the process said and how it ended. Raises BaselineBroken, NoLimitFound."""
    curve = [line for line in lines if "sessions" in line]
    error = (
        next((line["error"] for line in lines if "error" in line), None)
        or last_words
        or f"ended with exit code {exit_code}"
    )
    if exit_code == 0:
        raise NoLimitFound(
            f"eager, {name}: all {len(curve)} sessions fitted; raise eager.max_sessions or lower budget.device"
        )
    said = any(sign in f"{error} {last_words}" for sign in OUT_OF_MEMORY)
    if not curve or not (said or _no_room(lines)):
        raise BaselineBroken(
            f"eager, {name}: ended after {len(curve)} sessions, exit code {exit_code}, not by out-of-memory: {error}"
        )
    sizes, last = lines[0], curve[-1]
    share = last["live_kv_bytes"] / sizes["headroom_bytes"]
    progress(
        f"eager, {name}: out of memory after {last['sessions']} sessions, {share:.0%} of the headroom is live KV ({error[:90]})"
    )
    row = {
        "name": name,
        "environment": ALLOCATORS[name],
        "sessions": last["sessions"],
        "live_kv_bytes": last["live_kv_bytes"],
        "live_over_headroom": share,
        "error": error,
        "exit_code": exit_code,
        "seconds": seconds,
        "curve": curve,
    }
    return sizes, row
