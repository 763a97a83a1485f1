"""What the operating system or the driver says a process tree holds, sampled beside a measurement.

On a CPU: resident set (psutil). On CUDA: NVML's reading for the tree's pids; where the pids are hidden from NVML (a
container), the device's total minus what it was before the server started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

INTERVAL_S = 0.05  # and what a reading takes: MEASURES asks for 0.1 at most


class Reader:
    """Bytes held by process `pid` and its children on `device`. Make it before the process takes memory."""

    def __init__(self, device: str) -> None:
        self._nvml = None
        if device.startswith("cuda"):
            import pynvml
            import torch

            pynvml.nvmlInit()
            self._nvml = pynvml
            # by its name: NVML's numbers count the cards that CUDA_VISIBLE_DEVICES hides
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            self._before = pynvml.nvmlDeviceGetMemoryInfo(self._handle).used

    def read(self, pid: int) -> int:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        if self._nvml is None:
            return sum(process.memory_info().rss for process in tree)
        pids = {process.pid for process in tree}
        seen = [p.usedGpuMemory for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle) if p.pid in pids]
        if seen and None not in seen:
            return sum(seen)
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used - self._before


class Sampler:
    """Calls `sample` every 50 ms in a thread of its own, for the time of a `with`; keeps what it returned with its time (s)."""

    def __init__(self, sample: Callable[[], dict[str, int]]) -> None:
        self._sample, self._stop = sample, threading.Event()
        self.rows: list[dict[str, float]] = []
        self.began = time.monotonic()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def _run(self) -> None:
        try:
            while not self._stop.wait(INTERVAL_S):
                self.rows.append({"t_s": time.monotonic() - self.began, **self._sample()})
        except Exception as error:  # noqa: BLE001  raised again where the block ends: a series with a hole is not a measurement
            self.error = error

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error and kind is None:
            raise self.error
