"""The envelope of every raw result: which campaign, machine, code, weights and settings a number comes from."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import subprocess
import time
import zlib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import djinn

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
COPIED_FROM = Path(".bundle/commit.json")  # what `make bundle` wrote before the tree was copied
SOURCES = ("djinn", "workflow", "benchmarks", "config", "Snakefile")
MADE = ("results", "docs", "README.md")  # what measurements write, and what is written of them: no source of any
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyzmq", "msgspec", "snakemake")


class BadRaw(ValueError):
    """A raw file that cannot be read as what its rule promises."""


class Stopwatch:
    """When a measurement began, in wall-clock time (for people) and on the monotonic clock (for its length)."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def write_raw(
    out: Path,
    rule: str,
    result: dict[str, Any],
    *,
    stopwatch: Stopwatch,
    campaign: dict[str, Any],
    device: dict[str, Any],
    weights: dict[str, Any],
    settings: dict[str, Any],
    config_digest: str,
    served_by: dict[str, Any] | None = None,
) -> None:
    """Write `result` in its envelope. campaign, weights: what the two rules before wrote; device: `device_facts`; settings:
    what the rule used; served_by: of a server that was not the rule's own (`servers.check_model`)."""
    commit, dirty = commit_of(ROOT)
    write_json(
        out,
        {
            "schema": SCHEMA,
            "rule": rule,
            "scale": campaign["scale"],
            "campaign": campaign["id"],
            "started": stopwatch.started,
            "seconds": stopwatch.seconds,
            "commit": commit,
            "dirty": dirty,
            "config_digest": config_digest,
            "device": device,
            "versions": versions(),
            "weights": weights,
            "settings": settings,
            "served_by": served_by,
            "result": result,
        },
    )


def write_json(out: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: written aside, then renamed. A number that is not finite is refused."""
    aside = out.with_suffix(".partial")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    aside.replace(out)


def read_raw(path: Path) -> dict[str, Any]:
    """The envelope with its result; a ValueError for a file of another schema."""
    raw = json.loads(path.read_text())
    if raw.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: schema {raw.get('schema')!r}, this code reads {SCHEMA}; rerun its rule with --forcerun"
        )
    return raw


def raw_contents(raw_dir: Path) -> dict[str, tuple[str, bytes]]:
    """rule -> (file name, content) of a campaign's raw files; a reference may have packed them (.json.gz) to stay small.

    Raises BadRaw for a packed one that is cut short.
    """
    packed = {
        path.name.removesuffix(".json.gz"): (path.name, _unpacked(path)) for path in sorted(raw_dir.glob("*.json.gz"))
    }
    return packed | {path.stem: (path.name, path.read_bytes()) for path in sorted(raw_dir.glob("*.json"))}


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadRaw(f"{path} is not a whole packed file ({error}); copy it again") from error


def commit_of(root: Path) -> tuple[str, bool]:
    """(commit, whether the working tree differs from it in more than MADE).

    In a checkout git has the word; a suite's file beside the one before it is no change. A copied tree has none: there
    DJINN_COMMIT says which commit was copied, else the file that `make bundle` wrote, which also tells whether the sources
    have changed since; else it is ("unknown", False). Where the tree was copied over a checkout of another commit, git finds
    changes, and that file has the word if the sources are those that it speaks of.
    """
    commit = _git(root, "rev-parse", "HEAD") if _is_checkout(root) else None
    changed = bool(commit) and bool(_git(root, "status", "--porcelain", "--", ".", *(f":!{path}" for path in MADE)))
    if commit and not changed:
        return commit, False
    if not commit and "DJINN_COMMIT" in os.environ:
        return os.environ["DJINN_COMMIT"], False
    copied = root / COPIED_FROM
    said = json.loads(copied.read_text()) if copied.is_file() else None
    same = said is not None and not said["dirty"] and said["sources"] == sources_digest(root)
    if commit:
        return (said["commit"], False) if same else (commit, True)
    return (said["commit"], not same) if said else ("unknown", False)


def to_copy(root: Path) -> dict[str, Any]:
    """What the file of a copied tree says: commit, dirty, and a digest of the sources, to see whether they changed since."""
    commit, dirty = commit_of(root)
    return {"commit": commit, "dirty": dirty, "sources": sources_digest(root)}


def sources_digest(root: Path) -> str:
    """Of every file that a measurement may run."""
    digest = hashlib.sha256()
    for part in SOURCES:
        for path in sorted([root / part, *(root / part).rglob("*")]):
            run = path.suffix in (".py", ".smk", ".yaml") or path.name == "Snakefile"
            if run and path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _is_checkout(root: Path) -> bool:
    top = _git(root, "rev-parse", "--show-toplevel")
    return bool(top) and Path(top).resolve() == root.resolve()


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str | None]:
    """Of all that can change a number; None for what is not installed here."""
    return {
        "python": platform.python_version(),
        "djinn": djinn.__version__,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_facts(device: str) -> dict[str, Any]:
    """kind, name, total_bytes (of the card, or of the host's memory), cores, platform."""
    facts = {"cores": len(os.sched_getaffinity(0)), "platform": platform.platform()}
    if device == "cpu":
        return {"kind": "cpu", "name": _processor(), "total_bytes": psutil.virtual_memory().total, **facts}
    import torch

    card = torch.cuda.get_device_properties(device)
    return {
        "kind": "cuda",
        "name": card.name,
        "total_bytes": card.total_memory,
        "host_bytes": psutil.virtual_memory().total,
        **facts,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
