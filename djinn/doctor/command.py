"""The command line of `djinn doctor`: the machine, then a running server or a small one of its own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from djinn.client.client import Client, connect
from djinn.doctor import machine, sessions
from djinn.doctor.finding import Finding, report
from djinn.errors import BadRequest, DjinnError
from djinn.launch import serve
from djinn.model.weights import cache_root
from djinn.sizes import parse_bytes, parse_port

OWN = {"device_budget": "60MB", "host_budget": "60MB", "max_tokens": 256, "threads": 1}  # of the small model
OWN_MODEL = "tiny-llama"
SERVER_CHECKS = ("token accuracy", "checkpoint", "steering", "resume latency")


def of_machine(wanted: str | None, port: int, host_budget: int) -> tuple[list[Finding], str]:
    """What was found, and the device that a server would use."""
    findings = [machine.python()]
    found, torch = machine.torch()
    findings.append(found)
    device = wanted or "cpu"
    if torch is None:
        findings += [Finding(check, None, "there is no torch to ask") for check in ("device", "pinned memory")]
    else:
        found, device = machine.device(wanted, torch)
        findings.append(found)
        findings.append(
            machine.pinned(torch, device) if found.ok else Finding("pinned memory", None, "there is no such device")
        )
    findings += [
        machine.memory(host_budget),
        machine.disk([cache_root(), Path.cwd(), Path(gettempdir())]),
        machine.port(port),
        machine.snakemake_lock(Path.cwd()),
    ]
    return findings, device


def of_server(client: Client, device: str | None, resume_ms: float) -> Iterator[Finding]:
    yield sessions.server(client, device)
    yield guarded("token accuracy", lambda: sessions.token_accuracy(client))
    yield guarded("checkpoint", lambda: sessions.checkpoint(client))
    yield guarded("steering", lambda: sessions.steering(client))
    yield guarded("resume latency", lambda: sessions.resume_latency(client, resume_ms))


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """A typed error of the server is what the check found, not the end of the others."""
    try:
        return look()
    except DjinnError as error:
        return Finding(
            check, False, f"{type(error).__name__}: {error}", "do what the message says; the server's log has more"
        )


@contextmanager
def client_of(endpoint: str | None, device: str, keys: Path | None) -> Iterator[Client]:
    """Connected to `endpoint`, or to a server of our own that ends with the block."""
    if endpoint:
        with connect(endpoint, timeout=60.0, keys=keys) as client:
            yield client
    else:
        with serve(OWN_MODEL, device=device, **OWN) as own, connect(own.endpoint, timeout=60.0) as client:
            yield client


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected cpu or cuda:N")
    return text


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except BadRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    try:
        return parse_port(text)
    except BadRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="djinn doctor",
        description="Looks for what is wrong here: the machine, and a server's sessions. Exit code 0: nothing; 1: something.",
    )
    parser.add_argument(
        "--server", help="tcp://127.0.0.1:PORT of a running server (default: a small one of its own, ten seconds)"
    )
    parser.add_argument("--keys", type=Path, metavar="DIR", help="the folder with this client's keys, for --server")
    parser.add_argument(
        "--device", type=_device, help="cpu or cuda:N that the server is to use (default: the first card, or the CPU)"
    )
    parser.add_argument("--port", type=_port, default=5556, help="that a server is to listen on (default: %(default)s)")
    parser.add_argument(
        "--host-budget", type=_size, default="2GB", help="memory that its pool is to take (default: %(default)s)"
    )
    parser.add_argument("--resume-ms", type=float, default=5.0, help="a slower resume is wrong (default: %(default)s)")
    args = parser.parse_args(argv)
    findings, device = of_machine(args.device, args.port, args.host_budget)
    try:
        with client_of(args.server, device, args.keys) as client:
            findings += of_server(client, args.device, args.resume_ms)
    except DjinnError as error:
        findings.append(
            Finding("server", False, f"{type(error).__name__}: {error}", "do what the message says; then look again")
        )
        findings += [Finding(check, None, "there is no server to ask") for check in SERVER_CHECKS]
    print(report(findings))
    return int(any(finding.ok is False for finding in findings))
