"""What a newcomer gets: one set of versions, prompts that are free, a Makefile that says what it needs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import djinn

ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "workflow" / "resources" / "prompts"
CONDA_FILES = ("environment.yml", "envs/measure.yaml", "envs/analysis.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {
    "zmq": "pyzmq",
    "yaml": "pyyaml",
    "pynvml": "nvidia-ml-py",
    "PIL": "pillow",
}  # imported under another name


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lines: list[str]) -> dict[str, str]:
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def lock_lines(lock: str = "requirements.lock") -> list[str]:
    lines = (ROOT / lock).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def declared() -> set[str]:
    requirements = [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    return {canonical(re.match(r"[\w.-]+", each)[0]) for each in requirements} - {"djinn"}


@pytest.mark.parametrize("lock", ["requirements.lock", "envs/vllm-cpu.txt", "envs/vllm-cuda.txt"])
def test_the_lock_is_plain_pins(lock):
    lines = lock_lines(lock)
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    assert lines == sorted(lines, key=str.lower)
    assert len(pinned(lines)) == len(lines), "a package stands in the lock twice"


def test_the_project_is_installed_without_build_isolation():
    assert {"setuptools", "wheel"} <= set(pinned(lock_lines()))


def test_every_direct_dependency_is_locked():
    assert declared() <= set(pinned(lock_lines()))


@pytest.mark.parametrize("file", CONDA_FILES)
def test_conda_files_carry_the_versions_of_the_lock(file):
    content = yaml.safe_load((ROOT / file).read_text())
    (through_pip,) = [part["pip"] for part in content["dependencies"] if isinstance(part, dict)]
    lock = pinned(lock_lines())
    assert {name: lock.get(name) for name in pinned(through_pip)} == pinned(through_pip)


def test_the_conda_environment_has_every_direct_dependency():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(pinned(content["dependencies"][-1]["pip"])) == declared()


def test_every_import_is_declared():
    imported = set()
    for path in [
        *(ROOT / "djinn").rglob("*.py"),
        *(ROOT / "workflow").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    own = {"djinn", "evaluation", "benchmarks", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    own |= {path.stem for path in (ROOT / "scripts").glob("*.py")}
    own |= {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    foreign = imported - own - sys.stdlib_module_names
    elsewhere = {"vllm": "vllm-cpu"}  # a peer that is asked in an environment of its own
    with_torch = {"triton"}  # torch for CUDA brings it, and nothing else needs it
    assert {canonical(DISTRIBUTIONS.get(name, name)) for name in foreign - elsewhere.keys() - with_torch} <= declared()
    assert set(elsewhere.values()) <= set(pinned(lock_lines("envs/vllm-cpu.txt")))


def test_the_version_is_said_once():
    assert djinn.__version__ == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (str(citation["version"]), citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_hooks_are_the_environments_own_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    tools = [hook["entry"].split()[0] for hook in config["repos"][0]["hooks"]]
    assert tools == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/snakefmt"]


def test_prompts_are_many_different_and_long():
    texts = [path.read_text(encoding="utf-8") for path in sorted(PROMPTS.glob("*.txt"))]
    assert len(texts) >= 50
    assert len(set(texts)) == len({text[:500] for text in texts}) == len(texts)
    assert min(map(len, texts)) >= 4_500
    assert sum(map(len, texts)) <= 500_000


def test_prompts_say_where_they_come_from_and_why_they_are_free():
    note = (PROMPTS / "README.md").read_text()
    assert "public domain" in note and "Jargon File" in note


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in names.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def test_no_tracked_file_names_a_registry_or_this_machine():
    hosts = rb"pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|anaconda[.]org|(deb|ftp)[.]debian[.]org"
    places = rb"(?<![\w.-])/(work|root)/|find.links[ =]"
    found = re.compile(rb"(%s)|(%s)" % (hosts, places))
    hits = {str(path.relative_to(ROOT)): found.search(path.read_bytes()) for path in tracked()}
    slips = {name: hit[0] for name, hit in hits.items() if hit}
    assert slips == {}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # without what a surrounding `make test` hands down
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=folder, env=ours, capture_output=True, text=True)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The Makefile and what it reads, in a path with a space and an accent; no environment."""
    folder = tmp_path / "un été"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def fake(folder: Path, name: str, body: str) -> str:
    script = folder / name
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return f"./{name}"


def test_make_refuses_an_old_python_in_words(bare):
    old = fake(bare, "python-old", 'if [ "$1" = -V ]; then echo Python 3.9.1; else exit 1; fi')
    done = make(bare, "artifact", f"PYTHON={old}")
    assert done.returncode != 0 and not (bare / ".venv").exists()
    assert "needs Python 3.11 or newer" in done.stderr and "Python 3.9.1" in done.stderr


def test_make_refuses_another_platform_in_words(bare):
    fake(bare, "uname", "echo Darwin arm64")
    done = make(bare, "test", f"PATH={bare}:/usr/bin:/bin")
    assert done.returncode != 0 and not (bare / ".venv").exists()
    assert "Linux x86-64" in done.stderr and "Darwin arm64" in done.stderr


def test_make_installs_once_and_again_after_a_kill_or_a_change(bare):
    stamps = re.findall(r"\.venv/stamp-\w+-\d+", make(bare, "--dry-run", "env").stdout)
    assert "pip install" in make(bare, "--dry-run", "test").stdout
    (bare / ".venv").mkdir()  # half made: no stamp yet
    assert "venv --clear" in make(bare, "--dry-run", "test").stdout
    for stamp in stamps:
        (bare / stamp).touch()
    assert make(bare, "--dry-run", "test").stdout.splitlines() == [
        'PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder '
    ]
    (bare / "requirements.lock").write_text("numpy==2.4.6\n")
    assert "venv --clear" in make(bare, "--dry-run", "test").stdout


def pretend(folder: Path) -> None:
    """An environment that is made, with nothing in it."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    for stamp in re.findall(r"\.venv/stamp-\w+-\d+", make(folder, "--dry-run", "env").stdout):
        (folder / stamp).touch()


def test_a_report_of_nothing_says_what_comes_first(bare):
    pretend(bare)
    fake(bare / ".venv" / "bin", "python", 'echo "$@"; exit 1')
    done = make(bare, "report", "ARGS=--config scale=smoke")
    assert (
        done.returncode != 0 and "snakemake --cores 1 --report results/report.html --config scale=smoke" in done.stdout
    )
    assert "make artifact comes first, with the same ARGS" in done.stderr
    fake(bare / ".venv" / "bin", "python", "")
    done = make(bare, "report")
    assert done.returncode == 0 and "make artifact" not in done.stderr


def test_make_hands_a_new_campaign_its_name_and_every_word(bare):
    pretend(bare)
    said = make(bare, "--dry-run", "campaign", "NAME=my change", "ARGS=--config scale=smoke").stdout.splitlines()
    assert said == [
        "PATH=\"$PWD/.venv/bin:$PATH\" .venv/bin/python -m evaluation.again --name 'my change' --cores 1 --config scale=smoke"
    ]


def test_make_empties_nothing_behind_a_link(bare):
    (bare / "elsewhere").mkdir()
    (bare / "elsewhere" / "precious").touch()
    for name, target in ((".venv", "env"), (".venv-vllm", "vllm"), (".venv-audit", "audit")):
        (bare / name).symlink_to("elsewhere")
        (bare / "envs").mkdir(exist_ok=True)
        (bare / "envs" / "vllm-cpu.txt").touch()
        done = make(bare, target)
        assert done.returncode != 0 and f"{name} is a link" in done.stderr
    assert (bare / "elsewhere" / "precious").exists()


def test_make_help_lists_the_two_commands():
    text = make(ROOT, "help").stdout
    assert "artifact" in text and "test" in text
