"""What a rule reads beside its inputs, as a digest for its params: it reruns when that changes.

By content: a clone, and a tree that is copied to another machine, have other times of files and the same results. No torch:
the Snakefile imports this on every call.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

WORKFLOW = Path(__file__).resolve().parents[1]


def digest(*files: Path) -> str:
    """16 hex digits of the names and the content of files below workflow/."""
    content = hashlib.sha256()
    for path in sorted(files):
        content.update(f"{path.relative_to(WORKFLOW)}".encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def code(*modules: str) -> str:
    """The digest of modules of `evaluation` and of all that they import of it: what computes and draws, seconds to do again.

    No measuring rule has it: an edit of a comment would cost an hour.
    """
    found: set[Path] = set()
    ahead = [_file(module) for module in modules]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += _imported(path)
    return digest(*found)


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """By the modules of several rules: each is parsed once."""
    every: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            every += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            every += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(filter(Path.is_file, (_file(name) for name in every if name.startswith("evaluation."))))


def _file(module: str) -> Path:
    path = WORKFLOW.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
