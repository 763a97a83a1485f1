"""A copy of the workflow in a folder of its own (with a space in its name), to run Snakemake in without touching results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("Snakefile", "workflow", "djinn", "config", "profiles", "envs")
# Writes every declared output and the log; --out is the last option of every rule's command.
STUB = """
import sys
from pathlib import Path
words = sys.argv[1:]
for path in [words[words.index("--log") + 1], *words[words.index("--out") + 1 :]]:
    Path(path).write_text("stub")
"""


def copy_workflow(folder: Path) -> Path:
    """The copy; its Python is reached through a path with a space too."""
    top = folder / "un été"
    top.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, top / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, top / part)
    (top / "env").symlink_to(sys.prefix)
    return top


def stub_scripts(top: Path) -> None:
    for script in (top / "workflow" / "scripts").glob("*.py"):
        script.write_text(STUB)


def command(top: Path, *words: str) -> list[str]:
    return [str(top / "env" / "bin" / "python"), "-m", "snakemake", *words]


def environment(top: Path) -> dict[str, str]:
    """This one, less what could lead to the original's packages, and with a cache that is writable."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("DJINN_P")}
    return {**kept, "XDG_CACHE_HOME": str(top / "cache"), "CUDA_VISIBLE_DEVICES": ""}


def snakemake(top: Path, *words: str, ok: bool = True) -> str:
    """What it printed; `ok`: whether it should succeed."""
    done = subprocess.run(
        command(top, *words), cwd=top, env=environment(top), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode == 0) is ok, done.stdout[-3000:]
    return done.stdout


def planned(top: Path, *words: str) -> dict[str, int]:
    """Rule -> jobs that a run with these words would start (`all` left out)."""
    table = snakemake(top, "--dry-run", *words).partition("Job stats:")[2].partition("total")[0]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    jobs.pop("all", None)
    return jobs
