"""Start a server of one's own, for the time of a `with`, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType

from djinn.errors import ServerGone

READY = "djinn: listening on "


class LocalServer:
    """A server process that dies with this one. `endpoint`: tcp://127.0.0.1:port; `pid`; `start_s`: seconds to accept."""

    def __init__(self, arguments: list[str], start_timeout: float) -> None:
        command = [
            sys.executable,
            "-m",
            "djinn.server.server_main",
            "--port",
            "0",
            "--parent",
            str(os.getpid()),
            *arguments,
        ]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the server lives
        began = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.pid = self._process.pid
        self.plan, self.endpoint = "", ""
        watchdog = threading.Timer(start_timeout, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith(READY):
                    self.endpoint = line.removeprefix(READY).strip()
                    break
                self.plan += line
        except BaseException:  # Ctrl-C while it starts: it goes too
            self.stop()
            raise
        finally:
            watchdog.cancel()
        self.start_s = time.monotonic() - began
        if not self.endpoint:
            self.stop()
            raise ServerGone(f"the server did not start (exit code {self._process.returncode}): {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().strip().splitlines()[-3:])

    def stop(self, timeout: float = 10.0) -> None:
        """End the process: asked first, killed after `timeout` seconds."""
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    model: str = "smollm2-135m",
    *,
    device: str = "cpu",
    device_budget: str | int | None = None,
    host_budget: str | int = "2GB",
    start_timeout: float = 600.0,
    **options: str | int | None,
) -> LocalServer:
    """Start a server on loopback and wait until it accepts; use in a `with`.

    model: a preset, a local folder or a hub id. Sizes: bytes or text such as "600MB". options: the command line's
    others by name (weights, dtype, seed, threads, max_tokens, path, hub_id, revision). The process dies with the
    thread that calls this. Raises ServerGone with the server's last words when it does not start.
    """
    given = {"model": model, "device": device, "device_budget": device_budget, "host_budget": host_budget, **options}
    arguments = [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return LocalServer(arguments, start_timeout)
