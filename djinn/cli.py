"""The `djinn` command: `djinn serve` starts a server, `djinn status` shows one, `djinn trace` what it did when.

`djinn doctor` looks for what is wrong here; commands of other packages are found by `djinn.commands`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from djinn import commands as elsewhere
from djinn.client.client import connect
from djinn.errors import DjinnError
from djinn.sizes import format_bytes

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5556"


def status(endpoint: str) -> str:
    """Model, budget, live bytes by tier and sessions by state of a running server, as lines to read."""
    with connect(endpoint, timeout=10.0) as client:
        server, stats = client.server, client.stats()
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
    return "\n".join(lines)


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
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="start a server (djinn serve --help)")
    commands.add_parser("doctor", help="look for what is wrong with this machine or a server (djinn doctor --help)")
    for name, purpose in elsewhere.KNOWN.items():
        commands.add_parser(name, help=f"{purpose} (djinn {name} --help)")
    show = commands.add_parser("status", help="show a running server")
    trace = commands.add_parser("trace", help="write a running server's timeline for chrome://tracing or Perfetto")
    trace.add_argument("--out", type=Path, default=Path("djinn-trace.json"), help="default: %(default)s")
    for command in (show, trace):
        command.add_argument("--server", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        if args.command == "status":
            print(status(args.server))
            return 0
        with connect(args.server, timeout=60.0) as client:
            events = client.timeline()
        args.out.write_text(json.dumps(events))
        print(f"{args.out}: {len(events['traceEvents'])} events; open it in chrome://tracing or ui.perfetto.dev")
    except DjinnError as error:
        print(f"djinn: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
