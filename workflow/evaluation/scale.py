"""Which scale fits this machine: decided without torch, and with the reason, so that it can be said aloud."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

# Each with the files of config/scales/ that it is made of, a later one over an earlier.
SCALES = {
    "smoke": ("smoke",),
    "laptop": ("laptop",),
    "laptop-float32": ("laptop", "laptop-float32"),
    "paper": ("paper",),
}
PAPER_CARD_BYTES = 70 * 2**30
BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}  # any of these; without, oneDNN emulates it
CPUINFO = Path("/proc/cpuinfo")


def choose_scale(wanted: str) -> tuple[str, str]:
    """(scale, why) for `wanted`: auto is paper on a CUDA card of 70 GiB or more, else laptop, in float32 where the
    processor has no instructions for bfloat16.
    """
    if wanted != "auto":
        return wanted, "as the config says"
    card = _largest_card_bytes()
    if card < PAPER_CARD_BYTES:
        found = f"the largest has {card / 2**30:.0f} GiB" if card else "none found"
        return _laptop(f"no CUDA card of 70 GiB or more: {found}")
    if importlib.metadata.version("torch").endswith("+cpu"):
        return _laptop(f"a card of {card / 2**30:.0f} GiB is here, but the installed torch is built without CUDA")
    return "paper", f"a CUDA card of {card / 2**30:.0f} GiB"


def _laptop(why: str) -> tuple[str, str]:
    if has_bfloat16():
        return "laptop", why
    slow = "and the processor has no bfloat16 instructions: --config scale=laptop takes hours here"
    return "laptop-float32", f"{why}; {slow}"


def has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself. Source: the kernel's flags in /proc/cpuinfo."""
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not BFLOAT16.isdisjoint(flags.split())


def _largest_card_bytes() -> int:
    """Memory of the largest visible CUDA card, 0 where there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return 0
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return 0
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return max((pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles), default=0)
    finally:
        pynvml.nvmlShutdown()
