"""How much memory a server holds, at its fullest and over a run. Of Linux: what /proc tells of a process."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from fuzz.judge import hold

WINDOWS = 4  # over what comes behind the first fifth of a run, when all that is remembered is full
GROWTH_BYTES = 12 << 20  # between the medians of the first and the last of them
PEAK_BYTES = 200 << 20  # beyond what a run begins with: the largest headers, decoded


class Memory:
    """Of the process `pid`."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak counts from here
        self.began, self.samples = self._bytes("VmHWM"), []

    def sample(self) -> None:
        """Raises Found where the peak is beyond its bound."""
        self.samples.append(self._bytes("VmRSS"))
        hold("memory peak", self.peak() <= PEAK_BYTES, f"{self.peak() / 1e6:.0f} MB more than at the beginning")

    def peak(self) -> int:
        """Bytes beyond what it held at the beginning, at its fullest since."""
        return self._bytes("VmHWM") - self.began

    def windows_mb(self) -> list[float]:
        return windows_mb(self.samples)

    def judge(self) -> None:
        """Raises Found where it grows."""
        windows = self.windows_mb()
        if windows:
            hold("memory is flat", (windows[-1] - windows[0]) * 1e6 <= GROWTH_BYTES, f"medians {windows} MB")

    def _bytes(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def windows_mb(samples: Sequence[int]) -> list[float]:
    """Medians of WINDOWS equal windows behind the first fifth; nothing of too few samples."""
    rest = samples[len(samples) // 5 :]
    size = len(rest) // WINDOWS
    return [round(statistics.median(rest[i * size : (i + 1) * size]) / 1e6, 2) for i in range(WINDOWS)] if size else []
