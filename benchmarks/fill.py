"""One session more until all budgets are full: how many there were, how the one too many was told, and that nobody else was harmed.

    python -m benchmarks.fill --device-budget 600MB --host-budget 300MB --disk-budget 200MB --tokens 512

Each session prefills its prompt and is paused in the middle of its first new token, so all of its keys and values exist. The
first that is refused ends the raising; a second must be refused too. Then every session goes on to its end, in turn, and
afterwards each is run alone: tokens and last logits must be the same. Exits with 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import djinn
from benchmarks.metal.oversub import alone
from benchmarks.paired import write
from djinn.errors import OutOfMemory
from djinn.sizes import format_bytes

TIERS = ("device", "host", "disk")


class NeverFull(RuntimeError):
    """So many sessions found room that the budgets must be larger than was meant."""


class Filling:
    def __init__(self, client: djinn.Client, tokens: int, new_tokens: int) -> None:
        self.client, self.tokens, self.new_tokens = client, tokens, new_tokens
        self.middle = client.server.depth // 2
        self.sessions: list[djinn.Session] = []
        self.steps: list[dict[str, Any]] = []  # after each session: seconds it took, bytes in every tier

    def prompt(self, number: int) -> np.ndarray:
        return np.random.default_rng([0, number]).integers(3, self.client.server.vocabulary, self.tokens)

    def add(self) -> None:
        """One more, paused. Raises OutOfMemory where it is refused; it is closed then."""
        session = self.client.open()
        began = time.perf_counter()
        try:
            prompt = self.prompt(len(self.sessions))
            session.prefill(prompt, max_new_tokens=1, break_at=self.middle, break_token=1)
        except OutOfMemory:
            session.close()
            raise
        self.sessions.append(session)
        lives = self.client.stats()["bytes"]
        held = {f"{tier}_bytes": lives[f"{tier}_bytes"] for tier in TIERS}
        self.steps.append({"seconds": time.perf_counter() - began, **held})

    def raise_until_refused(self, most: int) -> list[str]:
        """What the two that were too many were told."""
        refused: list[str] = []
        while len(refused) < 2:
            if len(self.sessions) > most:
                raise NeverFull(f"{len(self.sessions)} sessions of {self.tokens} tokens and none was refused")
            try:
                self.add()
            except OutOfMemory as error:
                if not self.sessions:  # not even one fits
                    raise
                refused.append(str(error))
        return refused

    def to_the_end(self) -> list[djinn.Out]:
        """Each in turn; it leaves when it is done."""
        outs = []
        for session in self.sessions:
            outs.append(session.resume(max_new_tokens=self.new_tokens))
            session.close()
        return outs


def fill(client: djinn.Client, tokens: int, new_tokens: int, most: int) -> dict[str, Any]:
    filling = Filling(client, tokens, new_tokens)
    refused = filling.raise_until_refused(most)
    count = len(filling.sessions)
    print(f"{count} sessions of {tokens} tokens are alive; the next was refused: {refused[0]}", flush=True)
    outs, equal = filling.to_the_end(), 0
    for number, out in enumerate(outs):
        same = alone(client, filling.prompt(number), new_tokens)
        equal += bool(np.array_equal(same.tokens[1:], out.tokens) and np.array_equal(same.logits, out.logits))
    return {"sessions": count, "refused": refused, "bit_equal": equal, "steps": filling.steps}


def first_with(steps: list[dict[str, Any]], tier: str) -> int | None:
    """The number of the first session after which that tier held anything, from 1."""
    return next((number for number, step in enumerate(steps, 1) if step[f"{tier}_bytes"]), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--device-budget", help="default: the server's own, 90 %% of a card")
    parser.add_argument("--host-budget", default="300MB")
    parser.add_argument("--disk-budget", help="default: no disk tier")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--most", type=int, default=900, help="sessions after which it gives up")
    parser.add_argument("--out", type=Path, help="write the raw result here, as JSON")
    args = parser.parse_args()
    with (
        djinn.serve(
            args.model,
            device=args.device,
            dtype=args.dtype,
            threads=1 if args.device == "cpu" else None,
            device_budget=args.device_budget,
            host_budget=args.host_budget,
            disk_budget=args.disk_budget,
            max_tokens=args.tokens + args.new_tokens + 32,
        ) as server,
        djinn.connect(server.endpoint) as client,
    ):
        plan = client.server.plan
        found = fill(client, args.tokens, args.new_tokens, args.most) | {"plan": plan}
    last = found["steps"][-1]
    print(f"{'tier':<7} {'first at':>9} {'held at the end':>16}")
    for tier in TIERS:
        print(f"{tier:<7} {first_with(found['steps'], tier) or '-':>9} {format_bytes(last[f'{tier}_bytes']):>16}")
    print(f"{found['bit_equal']} of {found['sessions']} went on to the bits that they have alone")
    if args.out:
        write(args.out, "fill", vars(args), {"session": [step["seconds"] for step in found["steps"]]}, **found)
    return 0 if found["bit_equal"] == found["sessions"] else 1


if __name__ == "__main__":
    sys.exit(main())
