"""A device whose copies and kernels complete late, in order within a stream and in any order between streams.

What a CUDA device may do, made likely: a write by the "compute" is not there (NaN lies there) until its stream gets to it; a
copy happens some time after it was queued; bytes that are free are NaN. One named wait can be left out, to see what breaks.
"""

from __future__ import annotations

import random
import time

import torch

from djinn.tiers.extents import Extent
from djinn.tiers.pools import Pool
from djinn.tiers.streams import Device, HostMark, HostStream, Mark, Wait
from djinn.timeline import Timeline


class LateMark(HostMark):
    def hold(self, wait: Wait) -> None:
        if self._device.dropped != wait:
            super().hold(wait)


class LateStream(HostStream):
    def _later(self) -> None:
        delay = random.random() ** 2 * 0.004
        self._work.put(lambda: time.sleep(delay))

    def copy(self, name, copies) -> None:
        self._later()
        super().copy(name, copies)

    def after(self, mark: Mark, wait: Wait) -> None:
        if self.device.dropped != wait:
            super().after(mark, wait)

    def mark(self) -> Mark:
        mark = LateMark(self.device)
        self._work.put(lambda: mark.reach(self._problem))
        return mark

    def call(self, done, wait: Wait) -> None:
        if self.device.dropped == wait:
            done(None)
        else:
            self._later()
            super().call(done, wait)


class LateDevice(Device):
    def __init__(self, dropped: Wait | None = None) -> None:
        super().__init__(torch.device("cpu"), Timeline())
        self.dropped = dropped
        self.out, self.into = LateStream("copy out", self), LateStream("copy in", self)
        self.across = LateStream("copy across", self)
        self._compute = LateStream("compute", self)

    def write(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """A kernel that writes `values` into `rows`, some time."""
        rows.fill_(float("nan"))
        self._compute.copy("kernel", [(rows, values.clone())])

    def computed(self) -> Mark:
        return self._compute.mark()

    def synchronize(self) -> None:
        self._compute.mark().wait()

    def close(self) -> None:
        super().close()
        self._compute.close()


def poison_what_is_free(pool: Pool) -> None:
    """From now on, bytes that are given back become NaN at once."""
    give = pool.extents.give

    def poisoned(*extents: Extent) -> None:
        for extent in extents:
            pool.at(extent.start, extent.size).fill_(0xFF)
        give(*extents)

    pool.extents.give = poisoned
