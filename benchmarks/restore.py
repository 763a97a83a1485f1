"""Bring one evicted session back: all of its keys and values on the device again, against a bare copy of as many bytes.

    python -m benchmarks.restore --tokens 3000

`resident` is measured as a server does it: from the request to the moment when the last copy has completed, through the
policy, the mover's thread and one copy a layer. The floor is one `copy_` of the same number of bytes
(one for each pinned chunk of 512 MiB).
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import torch

from benchmarks.paired import in_turn, print_ratio, print_times, write
from djinn.paging.pager import Pager
from djinn.paging.residence import Request, Residence
from djinn.sizes import KVShape, format_bytes
from djinn.states import Machine, State
from djinn.tiers.pools import HostMemory, HostPool, Pool
from djinn.tiers.streams import HostDevice
from djinn.timeline import Timeline


class Bench:
    def __init__(self, device: str, tokens: int, shape: KVShape) -> None:
        place = torch.device(device)
        if place.type == "cuda":
            from djinn.tiers.cuda import CudaDevice

            streams = CudaDevice(place, Timeline())
        else:
            streams = HostDevice(Timeline())
        unit = shape.unit_bytes
        room = shape.kv_bytes(tokens) + 64 * unit
        memory = HostMemory(room, place.type == "cuda")
        arena, host = Pool(room, place, unit), HostPool(memory, unit)
        arena.bytes.zero_()
        self.pager = Pager(shape, arena, host, streams)
        self.place, self.layers = place, shape.layers
        self.layer_bytes = tokens * shape.layer_token_bytes
        self.residence = Residence("bench", Machine())
        self.pager.open(self.residence)
        self.host_bytes, self.chunks = host.bytes, memory.chunks
        self.nbytes = shape.kv_bytes(tokens)
        while host.growing:
            time.sleep(0.01)
        self._admit(fresh=True)
        self._stop(State.IDLE)

    def _admit(self, fresh: bool) -> float:
        here = threading.Event()
        need = dict.fromkeys(range(self.layers), self.layer_bytes)
        asked = time.monotonic_ns()
        if fresh:
            self.residence.machine.move(State.QUEUED)
        self.pager.admit(Request(self.residence, need, 0, not fresh, then=lambda refusal: here.set()))
        here.wait()
        self.residence.resident.wait()
        return (self.residence.stamps["resident"] - asked) / 1e9

    def _stop(self, state: State) -> None:
        self.residence.machine.move(State.RUNNING)
        self.pager.set_live(self.residence, dict.fromkeys(range(self.layers), self.layer_bytes))
        self.residence.machine.move(state)
        self.pager.stopped(self.residence)

    def _park(self) -> None:
        self.pager.park(self.residence)
        while self.residence.machine.state is not State.HOST:
            time.sleep(0.0005)

    def resident(self) -> float:
        self._park()
        took = self._admit(fresh=False)
        self._stop(State.IDLE)
        return took

    def bare(self) -> None:
        arena = self.pager.layout.arena.bytes
        for start, size in self.chunks:  # no copy may cross from one pinned chunk to the next
            end = min(start + size, self.nbytes)
            if start < end:
                arena[start:end].copy_(self.host_bytes[start:end], non_blocking=True)
        if self.place.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="write the raw result here, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args.device, args.tokens, KVShape(30, 3, 64, 576, "bfloat16"))  # SmolLM2-135M
    times = in_turn({"resident": bench.resident, "bare copy": bench.bare}, args.rounds)
    print(f"{args.tokens} tokens of SmolLM2-135M in bf16, {format_bytes(bench.nbytes)}, {args.device}, one thread")
    print_times(times)
    print_ratio(times, "resident", "bare copy", 1.3)
    if args.out:
        write(args.out, "restore", vars(args), times, nbytes=bench.nbytes)
    bench.pager.shut_down()


if __name__ == "__main__":
    main()
