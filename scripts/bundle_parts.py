"""A file in the parts that a transfer with a size limit takes, with its checksum and the script that uses it there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
PART_BYTES = 50 * 10**6


def in_parts(whole: Path, folder: Path, script: str, part_bytes: int = PART_BYTES) -> None:
    """Into `folder`, which is made anew; `script` of this folder becomes its unpack.sh."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    digest = hashlib.sha256()
    with whole.open("rb") as content:
        for number, part in enumerate(iter(lambda: content.read(part_bytes), b"")):
            digest.update(part)
            (folder / f"{whole.name}.part-{number}").write_bytes(part)
    (folder / "sha256").write_text(f"{digest.hexdigest()}  {whole.name}\n")
    shutil.copy(HERE / script, folder / "unpack.sh")
    for name in ("parts", "bytecode"):
        shutil.copy(HERE / f"offline_{name}.sh", folder / f"{name}.sh")
