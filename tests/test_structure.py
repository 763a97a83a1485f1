"""Who may know whom: the arrows of the design, held by reading every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = (
    *(f"paging/{name}.py" for name in ("residence", "ledger", "transfers", "placements", "evictions", "spills")),
    *(f"paging/{name}.py" for name in ("saves", "decisions", "victims", "admission", "background", "policy")),
    *(f"durable/{name}.py" for name in ("record", "files", "folder")),
    *("tiers/extents.py", "timeline.py", "states.py"),
)
# part -> the parts of djinn that it may import
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "sizes": {"errors"},
    "states": {"errors"},
    "edits": {"errors"},
    "sampling": set(),
    "timeline": set(),
    "lifeline": set(),
    "tiers": {"errors", "timeline"},
    "paging": {"errors", "sizes", "states", "tiers"},
    "durable": {"errors", "sampling", "tiers", "timeline"},
    "model": {"errors", "sizes"},
    "engine": {"durable", "edits", "errors", "model", "paging", "sampling", "sizes", "states", "timeline"},
    "wire": {"edits", "errors", "sampling"},
    "client": {"edits", "errors", "sampling", "timeline", "wire"},
    "launch": {"errors", "sizes"},
    "server": {
        "durable",
        "engine",
        "errors",
        "launch",
        "lifeline",
        "model",
        "paging",
        "sizes",
        "states",
        "tiers",
        "timeline",
        "wire",
        "",
    },
    "commands": {"errors"},
    "doctor": {"client", "edits", "errors", "launch", "model", "sizes", "wire", ""},
    "cli": {"client", "commands", "doctor", "errors", "server", "sizes", "wire", ""},
    "": {"client", "edits", "launch", "sampling"},
}
LIBRARIES = {
    "transformers": {"model", "engine"},
    "torch": {"tiers", "paging", "durable", "model", "engine", "server"},
    "zmq": {"client", "server", "wire"},
    "prometheus_client": {"server"},
    "mlflow": set(),
    "matplotlib": set(),
    "evaluation": set(),
    "snakemake": set(),
    "pickle": set(),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT / "djinn").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@pytest.mark.parametrize("path", sorted((ROOT / "djinn").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_go_one_way(path):
    part = part_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "djinn":
            target = rest.split(".")[0]
            target = target if (ROOT / "djinn" / target).exists() or (ROOT / "djinn" / f"{target}.py").exists() else ""
            assert target == part or target in ARROWS[part], f"{part or 'djinn'} may not know {target or 'djinn'}"
        elif top in LIBRARIES:
            assert part in LIBRARIES[top], f"{part} may not import {top}"


def test_accounts_and_policy_need_no_torch():
    for name in PURE:
        assert not {"torch", "numpy"} & {found.partition(".")[0] for found in imports(ROOT / "djinn" / name)}, name


def test_matplotlib_is_the_figures_and_mlflow_the_trackings():
    allowed = {"matplotlib": "figures", "mlflow": "tracking"}
    for path in (ROOT / "workflow").rglob("*.py"):
        for name in imports(path):
            library = name.partition(".")[0]
            if library in allowed:
                assert allowed[library] in str(path.relative_to(ROOT)), f"{path} imports {library}"


def test_the_client_needs_no_torch():
    code = "import sys, djinn, djinn.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names():
    import djinn

    promised = {"serve", "connect", "as_completed", "Sampling", "Scale", "Add", "Set", "Ablate", "ProjectOut"}
    assert promised <= set(djinn.__all__)
    assert all(hasattr(djinn, name) for name in djinn.__all__)


def test_no_file_grows_beyond_250_lines():
    folders = ("djinn", "workflow", "benchmarks", "scripts")
    lines = {path: len(path.read_text().splitlines()) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 250} == {}
