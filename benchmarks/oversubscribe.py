"""What paging costs: the same sessions on budgets that hold all of them, and on budgets that do not.

    python -m benchmarks.oversubscribe --sessions 30 --tokens 600 --ratios 1 1.14 2

Each session prefills its prompt, is paused at the middle layer of its first new token, and, when all stand there, goes on
for some more tokens. All are asked for at once by one client. Demand is weights + all KV; a ratio is demand / budget.
One server for each ratio, asked in turn; every token is compared with the first server's.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

import djinn
from benchmarks.overlap import overlap, print_overlap
from benchmarks.paired import in_turn, print_ratio, print_times, write
from djinn.model.load import load_model
from djinn.server.plan import workspace_bytes
from djinn.sizes import KVShape, format_bytes


class Workload:
    def __init__(self, client: djinn.Client, prompts: np.ndarray, new_tokens: int) -> None:
        self.client, self.prompts, self.new_tokens = client, prompts, new_tokens
        self.middle = client.server.depth // 2
        self.tokens: list[list[int]] = []
        self.off_device = self.demand = 0

    def run(self) -> float:
        """Seconds from the first prompt to the last token."""
        sessions = [self.client.open() for _ in self.prompts]
        began = time.perf_counter()
        pauses = [
            session.prefill(prompt, break_at=self.middle, break_token=1, max_new_tokens=1, wait=False)
            for session, prompt in zip(sessions, self.prompts, strict=True)
        ]
        for pause in pauses:
            pause.result()
        live = self.client.stats()["bytes"]
        self.off_device = live["host_bytes"] + live["disk_bytes"]
        self.demand = live["device_bytes"] + self.off_device + self.client.server.plan["weights_bytes"]
        outs = [session.resume(max_new_tokens=self.new_tokens, wait=False) for session in sessions]
        self.tokens = [out.result().tokens.tolist() for out in outs]
        took = time.perf_counter() - began
        for session in sessions:
            session.close()
        return took


def budgets(args: argparse.Namespace) -> dict[float, int]:
    """ratio -> device budget (bytes)."""
    facts = load_model(
        args.model, dtype=args.dtype, device=args.device
    ).facts  # and gone again: the servers need its room
    gc.collect()
    torch.cuda.empty_cache()
    shape = KVShape(facts["layers"], facts["kv_heads"], facts["head_dim"], facts["hidden_size"], facts["dtype"])
    demand = facts["bytes"] + args.sessions * shape.kv_bytes(args.tokens + args.new_tokens)
    workspace = workspace_bytes(shape, facts["intermediate_size"], facts["vocab_size"], longest(args))
    roomy = demand + workspace + args.sessions * shape.layers * shape.unit_bytes * 2
    return {ratio: roomy if ratio == 1 else int(demand / ratio) for ratio in args.ratios}


def longest(args: argparse.Namespace) -> int:
    return args.tokens + args.new_tokens + 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1, 1.14, 2])
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--host-budget", default="2GB")
    parser.add_argument("--trace", type=Path, help="write the last server's timeline here, for chrome://tracing")
    parser.add_argument("--out", type=Path, help="write the raw result here, as JSON")
    args = parser.parse_args()
    sizes = budgets(args)
    with ExitStack() as stack:
        work = {}
        for ratio, budget in sizes.items():
            server = stack.enter_context(
                djinn.serve(
                    args.model,
                    device=args.device,
                    dtype=args.dtype,
                    threads=1 if args.device == "cpu" else None,
                    device_budget=budget,
                    host_budget=args.host_budget,
                    max_tokens=longest(args),
                )
            )
            client = stack.enter_context(djinn.connect(server.endpoint))
            prompts = np.random.default_rng(0).integers(3, client.server.vocabulary, (args.sessions, args.tokens))
            work[ratio] = Workload(client, prompts, args.new_tokens)
        names = {ratio: f"demand {ratio:g}x" for ratio in sizes}
        times = in_turn({names[ratio]: load.run for ratio, load in work.items()}, args.rounds, warm_up=1)
        first = next(iter(work.values()))
        print(f"{args.model} {args.dtype} on {args.device}: {args.sessions} x {args.tokens} + {args.new_tokens} tokens")
        found = []
        for ratio, load in work.items():
            same = sum(a == b for a, b in zip(load.tokens, first.tokens, strict=True))
            moved = load.client.stats()["bytes"]
            trace = load.client.timeline()
            found.append(
                {
                    "ratio": ratio,
                    "device_budget": sizes[ratio],
                    "demand_bytes": load.demand,
                    "off_device_bytes": load.off_device,
                    "sessions_equal": same,
                    "evicted_bytes": moved["evicted_bytes"],
                    "restored_bytes": moved["restored_bytes"],
                    "timeline": overlap(trace),
                }
            )
            print(
                f"{names[ratio]}: budget {format_bytes(sizes[ratio])}, off the device at the barrier "
                f"{format_bytes(load.off_device)}, {same} of {args.sessions} sessions' tokens equal; copied out "
                f"{format_bytes(moved['evicted_bytes'])}, back {format_bytes(moved['restored_bytes'])} in all rounds"
            )
        print_overlap(found[-1]["timeline"])
        if args.trace:
            args.trace.write_text(json.dumps(trace))
    print_times(times)
    for ratio in list(names)[1:]:
        print_ratio(times, names[ratio], names[next(iter(names))])
    if args.out:
        write(args.out, "oversubscribe", vars(args), times, ratios=found)


if __name__ == "__main__":
    main()
