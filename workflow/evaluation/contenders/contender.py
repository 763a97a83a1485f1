"""What every system of the comparison is asked, and how it answers. No torch here: some answer in a Python of their own.

A contender is made from a Job, which loads its model, and then asked one thing after another. Times are milliseconds or
seconds as named, taken with the device idle at both ends; tokens are ids. What a system cannot do it shows: the call that
should do it is made, and `refusal` keeps the exception it ended with.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PROBES = ("stop", "edit", "exact", "park", "survive")
NO_WORKLOAD = "it has no workload of many sessions"
FACTOR = 0.9  # of the edit: the hidden state behind layer `Job.layer`, at every position, is scaled by it


@dataclass(frozen=True)
class Job:
    """What is measured: the same for every system."""

    device: str  # cpu or cuda:N
    threads: int
    model: dict[str, Any]  # the config's section: name, source, dtype, seed, path, hub_id, revision
    weights: (
        str  # a folder in Hugging Face layout, or a hub's name; for systems that load by themselves: see draws_weights
    )
    device_budget: int  # bytes, for whoever counts what CUDA takes too
    given_out: int  # of these, without it: for weights, workspace and KV
    kv_room: int  # of these, what weights and the workspace of one pass leave for KV
    kv_bytes_per_token: int
    host_budget: int  # bytes beside the device
    layer: int  # of the pause and the edit: the middle one
    prompts: list[list[int]]
    new_tokens: int  # after the first
    setting: dict[str, Any] = field(default_factory=dict)  # one of the system's TUNED

    @property
    def draws_weights(self) -> bool:
        """Whether a system that loads by itself finds a config without weights, and draws random ones of its own."""
        return self.model["source"] == "random"


@dataclass(frozen=True)
class Evidence:
    """A cell of the capabilities table: the answer, and what was seen when it was tried."""

    answer: Literal["yes", "partly", "no"]
    seen: str  # a sentence with numbers
    exception: str | None = None  # "TypeError: ...", of the call that was refused


class NotRefused(AssertionError):
    """A call that this system was said not to have went through: the table would have lied."""


class Unable(RuntimeError):
    """This system cannot be run here, or has no such measurement: the reason is a row of the result."""


def refusal(call: Callable[[], Any], *expected: type[BaseException]) -> str:
    """`Type: first line` of the exception that `call` ends with; one that is not `expected` is our own mistake and raised."""
    try:
        answer = call()
    except expected as error:
        return said(error)
    raise NotRefused(f"no {' or '.join(one.__name__ for one in expected)}: the call returned {str(answer)[:200]}")


def said(error: BaseException) -> str:
    """`Type: first line` of an exception."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines()  # some colour their words
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def tails(sessions: list[list[int]], block_size: int) -> int:
    """Tokens that a cache of whole blocks cannot keep for these sessions: the last block of each, one token at least."""
    return sum((len(session) - 1) % block_size + 1 for session in sessions)


def a_few(blocks: int, block_size: int, tokens: int) -> int:
    """Of a device's blocks an eighth, but for four sessions of that many tokens at least: enough to show what becomes of
    sessions when there are more than fit, which a whole card takes a minute for."""
    return min(blocks, max(blocks // 8, 4 * -(-tokens // block_size)))


def more_than_fit(blocks: int, block_size: int, tokens: int) -> int:
    """How many sessions of that many tokens a tenth more whole blocks are, than such a cache has."""
    return int(1.1 * blocks) // max(1, (tokens - 1) // block_size) + 1


def pool_for(job: Job, sessions: int, block_size: int, tokens: int) -> int:
    """What such a pool gets where it has to keep that many sessions and no more. All of it is pinned before it is used."""
    return min(half_again(job, sessions, block_size, tokens), offload_bytes(job))


def half_again(job: Job, sessions: int, block_size: int, tokens: int) -> int:
    """Half as many bytes again as so many sessions need in whole blocks."""
    need = sessions * -(-tokens // block_size) * block_size * job.kv_bytes_per_token
    return need + need // 2


def offload_bytes(job: Job) -> int:
    """What a system's own pool on the host gets: the host budget, but half the host's memory at most, since with more the
    kernel ends the process."""
    return min(job.host_budget, host_bytes() // 2)


def host_bytes() -> int:
    """The memory of this machine, or of this container where that is less."""
    physical, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.exists() else "max"
    return physical if words == "max" else min(physical, int(words))


class Contender(ABC):
    """One system. Subclasses: TUNED, __init__ (loads, warms nothing), and the questions they can answer."""

    TUNED: tuple[dict[str, Any], ...] = ({},)  # settings to try, the shipped one first; the fastest is measured
    TUNED_WHOLE: bool = (
        False  # whether they are tried with all sessions: where what is moved depends on how the device fills
    )
    # How the probes of one process are asked, `survive` behind them. After `stop` an engine may answer nobody, and `park` takes
    # one of its own.
    IN_TURN: tuple[str, ...] = ("edit", "exact", "stop", "park")

    def __init__(self, job: Job) -> None:
        self.job = job

    def repeating(self) -> AbstractContextManager[None]:
        """Inside, the same pass gives the same bits, where the system can be set so: the probes are asked in it."""
        return nullcontext()

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Of what it is made of: {"vllm": "0.26.0", "torch": ...}."""

    def workload(self, sessions: int) -> dict[str, Any]:
        """The first `sessions` prompts to 1 + new_tokens greedy tokens each, all alive at once.

        A system that can pause pauses each in decode (Job.layer of its first new token, or between tokens where it
        cannot stop inside) before any goes on. -> {"seconds": total, "tokens": [[id, ...], ...], "paused": bool,
        "parts": {name: seconds}, "off_device_bytes": at the barrier or 0, "other_weights": True where they are its own}.
        """
        raise Unable(NO_WORKLOAD)

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """What was asked → ms from the call to the next token's last logits (or token) of a session that was put aside.

        The session holds a whole prompt; where it went meanwhile is in the name: {"offloaded": [...], "dropped": [...]}.
        """
        raise Unable("it has no session to go on with")

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """One prompt's prefill to its last logits, paired sample by sample (ms): {"plain": without, "hook": with a forward
        hook that scales layer Job.layer by FACTOR, "own": with the system's own way of doing that}. What it lacks is left out."""
        raise Unable("it has no way to edit a layer")

    @abstractmethod
    def stop(self) -> Evidence:
        """After layer L of a prefill: control is back with the caller, no layer above has run, another prompt's forward runs
        in between, and going on gives the uninterrupted logits without running a layer again."""

    @abstractmethod
    def edit(self) -> Evidence:
        """The hidden state behind layer L scaled by FACTOR: last logits as with a forward hook that does it."""

    @abstractmethod
    def park(self) -> Evidence:
        """A session in the middle of its work gives its device memory to others and goes on without computing anything again."""

    @abstractmethod
    def exact(self) -> Evidence:
        """Put aside and gone on with: tokens and last logits are those of the uninterrupted session, bit for bit."""

    @abstractmethod
    def leave(self, folder: Path) -> None:
        """First half of `survive`: put a session where it would outlive this process, if there is a way; then it is killed."""

    @abstractmethod
    def come_back(self, folder: Path) -> Evidence:
        """Second half, in a new process: go on with the session of the process that was killed."""

    def close(self) -> None:  # noqa: B027  most have nothing to do
        """Give back what the kernel does not."""
