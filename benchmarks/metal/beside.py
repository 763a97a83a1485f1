"""What copies both ways cost work on the card with nobody's Python in between: the floor of `checkpoint.interference`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

CHUNK = 256 << 20  # bytes of a copy
FASTEST = 70e9  # bytes a second that no link of such a card reaches: so much is queued


class BothWays:
    """Copies of pinned memory out and back, each way on a stream of its own, all queued at once."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        """seconds: how long they take at least."""
        self.count = math.ceil(FASTEST * seconds / CHUNK)
        host = [torch.zeros(CHUNK, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        card = [torch.zeros(CHUNK, dtype=torch.uint8, device=device) for _ in range(2)]
        self.ways = [(torch.cuda.Stream(device), host[0], card[0]), (torch.cuda.Stream(device), card[1], host[1])]
        self.ends: list[torch.cuda.Event] = []

    def queue(self) -> None:
        self.ends = []
        for stream, to, source in self.ways:
            with torch.cuda.stream(stream):
                for _ in range(self.count):
                    to.copy_(source, non_blocking=True)
            self.ends.append(stream.record_event())

    def running(self) -> bool:
        return not any(end.query() for end in self.ends)


def paired_ms(device: torch.device, work: Callable[[], object], pairs: int) -> tuple[list[float], list[float]]:
    """ms of `work` on the card, alone and beside copies both ways, in turn. Raises RuntimeError where these ended too early."""
    timed_ms(device, work)
    copies = BothWays(device, 2 * timed_ms(device, work) / 1000)
    alone, beside = [], []
    for number in range(-2, pairs):
        quiet = timed_ms(device, work)
        copies.queue()
        loud = timed_ms(device, work, settled=False)
        if not copies.running():
            raise RuntimeError(
                f"{copies.count} copies ended before the work of {loud:.1f} ms that they were to run beside"
            )
        if number >= 0:
            alone.append(quiet)
            beside.append(loud)
    torch.cuda.synchronize(device)
    return alone, beside


def timed_ms(device: torch.device, work: Callable[[], object], settled: bool = True) -> float:
    """By events around it on its own stream, so that copies on others are not waited for. settled: the card is idle first."""
    if settled:
        torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
