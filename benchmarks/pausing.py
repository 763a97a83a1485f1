"""What it costs that a forward pass can be stopped: pausable prefill, and resume at half depth.

    python -m benchmarks.pausing --dtype bfloat16 --tokens 512

Plain means the model's own forward with a DynamicCache and the same last-token logits. "upper half alone" is the least
any resume can cost: a bare loop over the layers above the pause, the norm and the head, with positions made beforehand.
The server's resume is its stamps `logits - accepted`, with one compute thread like everything else here.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache

import djinn
from benchmarks.paired import in_turn, print_ratio, print_times, write
from djinn.model.executor import Executor, Stopped
from djinn.model.load import load_model
from djinn.model.slabs import SlabCache


class Bench:
    """The same prompt in every case; slabs made beforehand, as a server has them."""

    def __init__(self, model: str, dtype: str, device: str, tokens: int) -> None:
        loaded = load_model(model, dtype=dtype, device=device)
        self.model, facts = loaded.model, loaded.facts
        self.executor = Executor(self.model)
        self.depth, self.half = facts["layers"], facts["layers"] // 2
        self.device = torch.device(device)
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(3, facts["vocab_size"], (1, tokens), generator=draw).to(self.device)
        shape = (self.depth, tokens + 32, 2, facts["kv_heads"], facts["head_dim"])
        self.slabs = torch.zeros(shape, dtype=self.model.dtype, device=self.device)
        self.positions = torch.arange(tokens, device=self.device)[None]
        self.last = torch.tensor([tokens - 1], device=self.device)
        stopped = self.pausable(stop=self.half)
        assert isinstance(stopped, Stopped)
        self.hidden = stopped.hidden.clone()
        self.rotary = self.model.model.rotary_emb(self.hidden, self.positions)

    def _done(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def pausable(self, **how):
        cache = SlabCache(self.depth)
        cache.bind(self.slabs)
        result = self.executor.run(cache, self.ids, 0, **how)
        self._done()
        return result

    def paused_and_resumed(self) -> None:
        cache = SlabCache(self.depth)
        cache.bind(self.slabs)
        stopped = self.executor.run(cache, self.ids, 0, stop=self.half)
        self.executor.run(cache, self.ids, 0, start=self.half, hidden=stopped.hidden)
        self._done()

    @torch.inference_mode()
    def plain(self) -> None:
        cache = DynamicCache(config=self.model.config)
        self.model(input_ids=self.ids, past_key_values=cache, use_cache=True, logits_to_keep=self.last)
        self._done()

    @torch.inference_mode()
    def upper_half(self) -> None:
        decoder, cache, hidden = self.model.model, DynamicCache(config=self.model.config), self.hidden
        for layer in decoder.layers[self.half :]:
            hidden = layer(
                hidden,
                attention_mask=None,  # causal from the first position: no mask is made for it
                position_ids=self.positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=self.rotary,
            )
        self.model.lm_head(decoder.norm(hidden[:, -1:]))
        self._done()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="of the Llama type (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--device-budget", default="2GB", help="of the server (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the raw result here, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args.model, args.dtype, args.device, args.tokens)
    with (
        djinn.serve(
            args.model, device=args.device, dtype=args.dtype, threads=1, device_budget=args.device_budget
        ) as server,
        djinn.connect(server.endpoint) as client,
    ):
        session = client.open()
        checkpoints, _ = session.prefill(bench.ids.cpu().numpy(), checkpoint_at=[bench.half])

        def on_the_server() -> float:
            stamps = session.resume(checkpoints[bench.half]).stamps
            return (stamps["logits"] - stamps["accepted"]) / 1e9

        times = in_turn(
            {
                "plain prefill": bench.plain,
                "pausable prefill": partial(bench.pausable),
                "paused at half, resumed": bench.paused_and_resumed,
                "upper half alone": bench.upper_half,
                "resume at half": partial(bench.pausable, start=bench.half, hidden=bench.hidden),
                "resume at half, server": on_the_server,
            },
            args.rounds,
        )
    print(
        f"{args.model} {args.dtype}, {args.tokens} tokens, {args.device}, one thread, {platform.machine()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print_times(times)
    print()
    print_ratio(times, "pausable prefill", "plain prefill", 1.03)
    print_ratio(times, "paused at half, resumed", "plain prefill")
    for this in ("resume at half", "resume at half, server"):
        print_ratio(times, this, "upper half alone", 1.05)
        print_ratio(times, this, "plain prefill", 0.55)
    if args.out:
        write(args.out, "pausing", vars(args), times)


if __name__ == "__main__":
    main()
