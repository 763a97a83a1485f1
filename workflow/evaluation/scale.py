"""Which scale fits this machine: decided without torch, and with the reason, so that it can be said aloud."""

from __future__ import annotations

import importlib.metadata
import os

PAPER_CARD_BYTES = 70 * 2**30


def choose_scale(wanted: str) -> tuple[str, str]:
    """(scale, why) for `wanted`: auto is paper on a CUDA card of 70 GiB or more, else laptop."""
    if wanted != "auto":
        return wanted, "as the config says"
    card = _largest_card_bytes()
    if card < PAPER_CARD_BYTES:
        found = f"the largest has {card / 2**30:.0f} GiB" if card else "none found"
        return "laptop", f"no CUDA card of 70 GiB or more: {found}"
    if importlib.metadata.version("torch").endswith("+cpu"):
        return "laptop", f"a card of {card / 2**30:.0f} GiB is here, but the installed torch is built without CUDA"
    return "paper", f"a CUDA card of {card / 2**30:.0f} GiB"


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
