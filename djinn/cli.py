"""The `djinn` command: `djinn serve` starts a server, `djinn status` shows one and one's sessions there, `djinn trace`
what it did when; `djinn keys` makes the keys that a server needs to be reached from elsewhere. `djinn doctor` looks for
what is wrong here; commands of other packages are found by `djinn.commands`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from djinn import __version__
from djinn import commands as elsewhere
from djinn.client.client import connect
from djinn.errors import BadRequest, DjinnError
from djinn.sizes import format_bytes, format_seconds
from djinn.wire.keys import make_keys

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5556"
TOKEN = "DJINN_TOKEN"  # from the environment: a command line can be read by everybody on the machine


def status(endpoint: str, keys: Path | None = None, token: str | None = None) -> str:
    """Model, budget, live bytes by tier, sessions by state, and the asker's own sessions with their lease, as lines."""
    with connect(endpoint, timeout=10.0, keys=keys, token=token) as client:
        server, stats, own = client.server, client.stats(), client.sessions()
    lives = stats["bytes"]
    lines = [
        f"{endpoint}: {server.model['name']} ({server.model['source']}, {server.model['dtype']}) on {server.device}, "
        f"djinn {server.server_version}",
        f"arena      {format_bytes(lives['device_bytes']):>10} live of {format_bytes(lives['arena_bytes'])}",
        f"host pool  {format_bytes(lives['host_bytes']):>10} live of {format_bytes(lives['host_budget_bytes'])}",
        f"disk       {format_bytes(lives['disk_bytes']):>10} live of {format_bytes(lives['disk_budget_bytes'])}",
        f"paged      {format_bytes(lives['evicted_bytes']):>10} out in {lives['evictions']}, "
        f"{format_bytes(lives['restored_bytes'])} back in {lives['restores']}",
        "sessions   " + (", ".join(f"{count} {state}" for state, count in sorted(stats["sessions"].items())) or "none"),
    ]
    lines += [
        f"  {one.id}  {one.state:<10} {one.tokens:>6} tokens, kept for {format_seconds(one.lease_left_s)} unless you come back"
        for one in own
    ]
    return "\n".join(lines)


def keys_made(folder: Path, names: list[str]) -> str:
    """Make keys, and say what is to be done with them."""
    handed = make_keys(folder, names)
    lines = [f"the server's: {folder} (djinn serve --keys {folder})"]
    for name, one in zip(names, handed, strict=True):
        lines.append(f"for {name}: {one}, to be moved to where it is used (djinn.connect(endpoint, keys=...))")
    return "\n".join(lines)


def written(events: dict[str, Any], path: Path) -> str:
    """Write a timeline, and say what is to be done with it."""
    try:
        path.write_text(json.dumps(events))
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}") from error
    return f"{path}: {len(events['traceEvents'])} events; open it in chrome://tracing or ui.perfetto.dev"


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["serve"]:  # the server's own options, with torch, are loaded only for it
        from djinn.server.server_main import main as serve

        return serve(argv[1:])
    if argv[:1] == ["doctor"]:
        from djinn.doctor.command import main as doctor

        return doctor(argv[1:])
    if argv and argv[0] in elsewhere.KNOWN:
        return elsewhere.run(argv[0], argv[1:])
    parser = argparse.ArgumentParser(prog="djinn", description=__doc__)
    parser.add_argument("--version", action="version", version=f"djinn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="start a server (djinn serve --help)")
    commands.add_parser("doctor", help="look for what is wrong with this machine or a server (djinn doctor --help)")
    for name, purpose in elsewhere.KNOWN.items():
        commands.add_parser(name, help=f"{purpose} (djinn {name} --help)")
    show = commands.add_parser("status", help="show a running server")
    trace = commands.add_parser("trace", help="write a running server's timeline for chrome://tracing or Perfetto")
    keys = commands.add_parser("keys", help="make the keys of a server and its clients; run again for more clients")
    keys.add_argument("folder", type=Path, metavar="DIR")
    keys.add_argument("names", nargs="*", metavar="NAME", default=["client"], help="of clients (default: client)")
    trace.add_argument("--out", type=Path, default=Path("djinn-trace.json"), help="default: %(default)s")
    for command in (show, trace):
        command.add_argument("--server", default=DEFAULT_ENDPOINT, help="default: %(default)s")
        command.add_argument("--keys", type=Path, metavar="DIR", help="the folder with this client's keys")
    args = parser.parse_args(argv)
    try:
        if args.command == "keys":
            print(keys_made(args.folder, args.names))
            return 0
        if args.command == "status":
            print(status(args.server, args.keys, os.environ.get(TOKEN)))
            return 0
        with connect(args.server, timeout=60.0, keys=args.keys) as client:
            events = client.timeline()
        print(written(events, args.out))
    except DjinnError as error:
        print(f"djinn: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
