"""vLLM for an air-gapped CUDA host, as one archive in parts: its packages unpacked, without what no pass of a Llama type uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from bundle_parts import PART_BYTES, in_parts

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "envs" / "vllm-cuda.txt"
ARCHIVE = "vllm.tar.xz"
# Half of 1.2 GB: builds and sources of kernels for cards before and after Hopper, a server in Rust, translations.
UNUSED = (
    *("vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so", "vllm/vllm-rs", "vllm/third_party/fmha_sm100"),
    *("vllm/third_party/deep_gemm/include", "flashinfer/data/cutlass", "flashinfer/data/cccl"),
    *("xgrammar/lib", "xgrammar/include", "pycountry/locales"),
)


def pins() -> list[str]:
    return [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]


def unpack(wheels: Path, site: Path) -> None:
    """What pip would lay into a site-packages, of every wheel in a folder, without UNUSED and without commands."""
    for wheel in sorted(wheels.glob("*.whl")):
        with ZipFile(wheel) as content:
            content.extractall(site)
    for data in site.glob("*.data"):
        for kind in ("purelib", "platlib"):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, site, dirs_exist_ok=True)
        shutil.rmtree(data)
    for path in map(site.joinpath, UNUSED):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def pack(site: Path, folder: Path, part_bytes: int = PART_BYTES) -> None:
    """One compressed archive in parts, and the script that unpacks it there."""
    with TemporaryDirectory() as scratch:
        whole = Path(scratch) / ARCHIVE
        subprocess.run(["tar", "-c", "-I", "xz -T0", "-C", site, "-f", whole, "."], check=True)
        in_parts(whole, folder, "offline_vllm.sh", part_bytes)


def collect(folder: Path, download: Callable[[list[str], Path], None]) -> None:
    with TemporaryDirectory() as scratch:
        wheels, site = Path(scratch) / "wheels", Path(scratch) / "site"
        site.mkdir()
        download(pins(), wheels)
        unpack(wheels, site)
        print(f"packing {sum(f.stat().st_size for f in site.rglob('*') if f.is_file()) / 1e6:.0f} MB", file=sys.stderr)
        pack(site, folder)
