"""The eager parking lot itself, in a process of its own: sessions whose caches stay alive, one more until memory is out.

Run by eager.py as `python -m evaluation.parking_lot`, with its job as JSON on standard input. It prints one JSON line a
session, so that what was reached is known however the process ends, and one more for the error, which it then lets
through. On a CPU the limit is the operating system's (RLIMIT_DATA: use after load and warm-up + headroom); on CUDA it is
the allocator's share of the card. Neither is simulated: the allocation fails.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from types import SimpleNamespace
from typing import Any

from evaluation.lifeline import die_with_parent

BALLAST_BYTES = 16 * 2**20  # given up when memory is out, so that the error can be reported


def main() -> None:
    import torch
    from transformers import DynamicCache

    from djinn.model.load import load_model
    from evaluation.process_memory import Reader
    from evaluation.prompts import load_prompts

    asked = sys.stdin.read()  # behind the imports: it may come late
    job = json.loads(asked, object_hook=lambda keys: SimpleNamespace(**keys))
    reader = Reader(job.device)
    torch.set_num_threads(job.threads)
    loaded = load_model(**vars(job.model), device=job.device)
    prompts = [
        torch.tensor([ids], device=job.device) for ids in load_prompts(job.model, job.max_sessions, job.prompt_tokens)
    ]
    held: list[Any] = []

    def park(prompt: torch.Tensor) -> None:
        cache = DynamicCache(config=loaded.model.config)
        loaded.model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        held.append(cache)

    with torch.inference_mode():
        park(prompts[0])
        session_bytes = kv_bytes(held[0])
        held.clear()
        gc.collect()
        headroom = job.budget_bytes - loaded.facts["bytes"]
        say(weights_bytes=loaded.facts["bytes"], headroom_bytes=headroom, kv_bytes_per_session=session_bytes)
        ballast = bytearray(BALLAST_BYTES)
        limit(job, job.limit_bytes - loaded.facts["bytes"])
        try:
            for number, prompt in enumerate(prompts, 1):
                park(prompt)
                if job.device != "cpu":
                    torch.cuda.synchronize()
                say(sessions=number, live_kv_bytes=number * session_bytes, process_bytes=reader.read(os.getpid()))
        except BaseException as error:
            room = room_bytes(job)
            del ballast
            live = sum(map(kv_bytes, held))
            say(
                room_bytes=room,
                error=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
                live_kv_bytes=live,
            )
            raise


def limit(job: Any, room: int) -> None:
    """From here on `room` more bytes and no more, beyond what the model and one pass took."""
    if job.device == "cpu":
        ceiling = data_bytes() + room
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
        return
    import torch

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        job.limit_bytes / torch.cuda.get_device_properties(job.device).total_memory, job.device
    )


def room_bytes(job: Any) -> int | None:
    """What the operating system would still give; None on CUDA, whose allocator says so itself."""
    return resource.getrlimit(resource.RLIMIT_DATA)[0] - data_bytes() if job.device == "cpu" else None


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))


def kv_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    die_with_parent()
    main()
