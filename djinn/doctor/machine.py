"""What a server and the workflow need of this machine. Each check says what it saw; none changes anything that stays."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from djinn.client.client import connect
from djinn.doctor.finding import Finding
from djinn.errors import DjinnError, NotAllowed
from djinn.sizes import format_bytes

OLDEST_PYTHON = (3, 11)
CARDS = Path("/proc/driver/nvidia/gpus")  # one entry for each card that the driver knows
PIN_BYTES = 64 * 2**20
NEEDED_DISK_BYTES = 10**9  # real weights, as they come and as they are kept, and the results of a campaign


def python(version: Sequence[int] = sys.version_info) -> Finding:
    found = ".".join(map(str, version[:3]))
    needed = ".".join(map(str, OLDEST_PYTHON))
    ok = tuple(version[:2]) >= OLDEST_PYTHON
    return Finding("python", ok, found, f"Djinn needs Python {needed} or newer: make PYTHON=python{needed} env")


def torch(load: Callable[[str], ModuleType] = import_module) -> tuple[Finding, ModuleType | None]:
    """The finding, and torch itself for the checks that ask it."""
    try:
        found, transformers = load("torch"), load("transformers")
    except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
        advice = "a server needs it (a client alone does not): make env, or pip install '.[server]'"
        return Finding("torch", False, f"{type(error).__name__}: {error}", advice), None
    return Finding("torch", True, f"{found.__version__}, transformers {transformers.__version__}"), found


def device(wanted: str | None, torch: ModuleType, cards: Path = CARDS) -> tuple[Finding, str]:
    """The finding, and the device that a server would use. wanted: cpu, cuda:N, or None for what it takes by itself."""
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = len(list(cards.iterdir())) if cards.is_dir() else 0
    chosen = wanted or ("cuda:0" if usable else "cpu")
    if wanted != "cpu" and present and not usable:
        seen = f"the driver knows {present} card(s), torch {torch.__version__} can use none"
        advice = "install the torch build for this driver's CUDA; see that CUDA_VISIBLE_DEVICES is not empty; or --device cpu"
        return Finding("device", False, seen, advice), chosen
    if chosen != "cpu" and int(chosen.partition(":")[2] or 0) >= usable:
        seen = f"{chosen} was asked for, torch can use {usable} card(s)"
        return Finding("device", False, seen, "name another, or --device cpu"), chosen
    name = f"{len(os.sched_getaffinity(0))} cores" if chosen == "cpu" else torch.cuda.get_device_name(chosen)
    return Finding("device", True, f"{chosen}, {name}"), chosen


def memory(needed_bytes: int, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """needed_bytes: of the host pool."""
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    return Finding(
        "memory",
        free >= needed_bytes,
        f"{format_bytes(free)} available, the host pool is to take {format_bytes(needed_bytes)}",
        "end what holds memory, or start the server with a smaller --host-budget",
    )


def pinned(torch: ModuleType, device: str) -> Finding:
    """Whether the host pool can be pinned; only a card's copies need that."""
    if device == "cpu":
        return Finding("pinned memory", True, "not needed on a CPU")
    try:
        torch.empty(PIN_BYTES, dtype=torch.uint8).pin_memory()
    except RuntimeError as error:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        allowed = "no limit" if limit == resource.RLIM_INFINITY else format_bytes(limit)
        return Finding(
            "pinned memory",
            False,
            f"{format_bytes(PIN_BYTES)} could not be pinned (ulimit -l: {allowed}): {str(error).splitlines()[0]}",
            "raise the limit (ulimit -l unlimited; a container: --ulimit memlock=-1), or free host memory",
        )
    return Finding("pinned memory", True, f"{format_bytes(PIN_BYTES)} pinned and given back")


def disk(folders: Sequence[Path], needed_bytes: int = NEEDED_DISK_BYTES) -> Finding:
    """folders: where weights, results and parked sessions go; those that do not exist yet count as their parent."""
    free = {}
    for folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free[folder] = shutil.disk_usage(there).free
    short = [folder for folder, count in free.items() if count < needed_bytes]
    return Finding(
        "disk",
        not short,
        ", ".join(f"{folder} {format_bytes(count)} free" for folder, count in free.items()),
        f"make room ({format_bytes(needed_bytes)}) in {', '.join(map(str, short))}, or name another: DJINN_CACHE, --state-dir",
    )


def port(number: int) -> Finding:
    """Free, or held by a Djinn server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            reason = error.strerror
        else:
            return Finding("port", True, f"{number} is free")
    try:
        with connect(f"tcp://127.0.0.1:{number}", timeout=2.0) as client:
            return Finding("port", True, f"{number}: a Djinn server listens there, {client.server.model['name']}")
    except NotAllowed as error:  # a server that wants keys, or something else altogether: it says which
        return Finding("port", None, f"{number} is taken: {error}")
    except DjinnError:
        advice = f"end what holds it (ss -ltnp 'sport = :{number}'), or djinn serve --port another"
        return Finding(
            "port", False, f"{number} cannot be taken ({reason}), and what holds it is no Djinn server", advice
        )


def snakemake_lock(folder: Path) -> Finding:
    """A lock that a killed Snakemake left. Each living one holds .snakemake/djinn_alive (evaluation.lifeline)."""
    locks = list((folder / ".snakemake" / "locks").glob("*"))
    if not locks:
        return Finding("snakemake lock", True, "none")
    alive = folder / ".snakemake" / "djinn_alive"
    if alive.exists():
        with open(alive) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding("snakemake lock", True, "held by a run that lives")
    advice = f"snakemake clears it when it next starts there; by hand: rm -r {folder / '.snakemake' / 'locks'}"
    return Finding("snakemake lock", False, f"{len(locks)} left by a run that is dead", advice)
