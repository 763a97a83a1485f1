"""A server whose parts fail when they are told to: the product's own `main`, with faults put in around it.

Nothing here is in the product. A fault that is armed strikes once, the next time its part is used; a pool that is taken is
given back soon after. Each time one has struck, its name is a line of the file `struck`, with the monotonic time (ns).
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from djinn.lifeline import die_with_parent

INJECTED = "the soak put a fault in"  # in the message of whatever fails by it
TAKEN_S = 0.3  # for which a pool is somebody else's
POOLS = ("device memory taken", "host pool taken", "disk quota taken")
COPIES = ("copy in fails", "copy out fails", "copy in not queued", "copy out not queued")
SPILLS = ("spill: disk full", "spill: read error")
DURABLE = ("durable: disk full", "durable: fsync fails", "durable: rename fails", "durable: read error")
FAULTS = (*POOLS, *COPIES, *SPILLS, *DURABLE)


class Injector:
    def __init__(self, struck: Path) -> None:
        self._file = os.open(struck, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self._armed: Counter[str] = Counter()
        self.engine: Any = None

    def arm(self, name: str) -> None:
        if name in POOLS:
            threading.Thread(target=self._take, args=(name,), daemon=True).start()
        else:
            with self._lock:
                self._armed[name] = 1

    def disarm(self) -> None:
        with self._lock:
            self._armed.clear()

    def strikes(self, name: str) -> bool:
        with self._lock:
            if not self._armed[name]:
                return False
            self._armed[name] = 0
        self._say(name)
        return True

    def _say(self, name: str) -> None:
        os.write(self._file, f"{time.monotonic_ns()} {name}\n".encode())

    def _take(self, name: str) -> None:
        """Every free byte of a pool is somebody else's for a while."""
        engine, book = self.engine, self.engine.pager.book
        with engine.lock:
            self._say(name)
            if name == "disk quota taken":
                held, book.disk_free = book.disk_free, 0
            else:
                pool = book.device if name == "device memory taken" else book.host
                extents = pool.take_scattered(pool.free_bytes)
        time.sleep(TAKEN_S)
        with engine.lock:
            if name == "disk quota taken":
                book.give_disk(held)
            else:
                for extent in extents:
                    pool.give(extent)
            engine.lock.notify_all()

    def around(self, owner: Any, method: str, name: str, problem: Callable[[], Exception]) -> None:
        """From now on `owner.method` raises when the fault strikes."""
        whole, static = getattr(owner, method), isinstance(inspect.getattr_static(owner, method), staticmethod)

        def broken(*args: Any) -> Any:
            if self.strikes(name):
                raise problem()
            return whole(*args)

        setattr(owner, method, staticmethod(broken) if static else broken)

    def install(self) -> None:
        from djinn.durable import files
        from djinn.durable.folder import StateFolder
        from djinn.server import build
        from djinn.tiers.disk import Disk
        from djinn.tiers.streams import HostStream

        for owner, method, name, number in (
            (Disk, "_write", "spill: disk full", errno.ENOSPC),
            (Disk, "_read", "spill: read error", errno.EIO),
            (files, "write_all", "durable: disk full", errno.ENOSPC),
            (files, "sync_folder", "durable: fsync fails", errno.EIO),
            (files, "fill", "durable: read error", errno.EIO),
            (StateFolder, "_put_in_place", "durable: rename fails", errno.EIO),
        ):
            self.around(owner, method, name, partial(OSError, number, f"{os.strerror(number)}: {INJECTED}"))
        for method, how in (("carry_out", "fails"), ("copy", "not queued")):
            self._break_copies(HostStream, method, how)
        make = build.build_service

        def build_service(*args: Any) -> Any:
            made = make(*args)
            self.engine = made[0].engine
            return made

        build.build_service = build_service

    def _break_copies(self, streams: type, method: str, how: str) -> None:
        whole = getattr(streams, method)

        def broken(stream: Any, *args: Any) -> None:
            if self.strikes(f"{stream.track.replace('across', 'in')} {how}"):
                raise RuntimeError(INJECTED)
            whole(stream, *args)

        setattr(streams, method, broken)

    def listen(self, orders: Connection) -> None:
        """Arm what comes down the pipe; "none" disarms all."""
        while True:
            try:
                name = orders.recv()
            except EOFError:  # whoever gave orders is gone, and this process goes with him
                return
            if name == "none":
                self.disarm()
            elif self.engine is not None:
                self.arm(name)


def serve(arguments: list[str], out: Path, struck: Path, orders: Connection) -> None:
    """The life of one server process; its words go to `out` and `out`.err. Exits with the code of the product's `main`."""
    die_with_parent(os.getppid())
    for number, path in ((1, out), (2, out.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    from djinn.server.server_main import main

    injector = Injector(struck)
    injector.install()
    threading.Thread(target=injector.listen, args=(orders,), daemon=True).start()
    sys.exit(main(arguments))
