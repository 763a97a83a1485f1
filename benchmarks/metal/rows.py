"""The rows of the table: what each number is made of, the floor beside it, the target. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.metal.row import Row, copy_ms, in_ms, median, medians, over, p99, reported_or_held
from benchmarks.metal.samples import Missing, Run
from evaluation.facts_cost import BUSY

DECODE_ROWS = 32  # sessions decoded in one pass on a card


def rows(settings: dict[str, Any]) -> list[Row]:
    """For the layers and sizes of these settings (a raw file's)."""
    return [*_resume(settings), *_decode_park(settings), *_oversub(settings), *_engine(settings), *_client()]


def _resume(s: dict[str, Any]) -> Iterator[Row]:
    layers, depth, tokens = s["layers"], max(s["layers"]), s["tokens"]
    for layer in layers:
        ready = f"resume.ready@{layer}"
        what = f"cold, arena full, {tokens} tokens, prefill pause: accepted → ready"
        yield Row(ready, what, "ms", "<=", 0.6, median(ready), samples=ready)
        yield Row(f"{ready}.p99", what, "ms", "<=", 2, p99(ready))
    flat = [f"resume.ready@{layer}" for layer in layers]
    yield Row(
        *("resume.ready.flat", "the largest of these medians ÷ the smallest", "×", "<=", 1.25),
        lambda run: max(map(run.median, flat)) / min(map(run.median, flat)),
    )
    for layer in layers:
        name = f"resume.ready.loaded@{layer}"
        yield Row(name, "the same while others prefill and decode", "ms", "<=", 2, median(name), samples=name)
        yield Row(f"{name}.p99", "the same while others prefill and decode", "ms", "<=", 5, p99(name))
    for layer in [layer for layer in layers if 1 < layer < depth]:
        ours, own, plain = f"resume.logits_ms@{layer}", f"own.compute_ms@{layer}", f"compute.logits_ms@{layer}"
        what = "accepted → logits ÷ what is left of the pass with nothing to restore, the server's own layers"
        yield Row(f"resume.logits@{layer}", what, "×", "<=", 1.05, over(ours, own), median(own))
        yield in_ms(ours, "accepted → logits", median(own))
        what = "the same ÷ what is left on plain transformers layers"
        yield Row(f"resume.logits@{layer}.plain", what, "×", "", None, over(ours, plain), median(plain))
    targets = {20: (1.2, 1.9), 30: (1.75, 3.6)}
    for layer in [layer for layer in layers if 1 < layer < depth]:
        manual, recompute = targets.get(layer, (None, None))
        ours = f"resume.logits_ms@{layer}"
        name = f"resume.logits.vs_manual@{layer}"
        restored = f"manual.ready_ms@{layer}"
        yield reported_or_held(
            name, "full manual offload, pinned ÷ Djinn", manual, over(f"manual.logits_ms@{layer}", ours)
        )
        yield reported_or_held(
            *(f"{name}.fast", "the same with Djinn's own layers above its copy ÷ Djinn", None),
            lambda run, ours=ours, restored=restored, layer=layer: (
                (run.median(restored) + run.median(f"own.compute_ms@{layer}")) / run.median(ours)
            ),
        )
        name = f"resume.logits.vs_recompute@{layer}"
        yield reported_or_held(name, "recompute ÷ Djinn", recompute, over(f"recompute.logits_ms@{layer}", ours))
        what = "recompute with Djinn's own layers ÷ Djinn"
        yield reported_or_held(f"{name}.fast", what, None, over(f"own.prefill_ms@{layer}", ours))
        name, ready = f"resume.ready.vs_recompute@{layer}", f"resume.ready@{layer}"
        target = 90 if layer == 20 else None
        yield reported_or_held(
            name, "recompute to the pause ÷ ready", target, over(f"recompute.ready_ms@{layer}", ready)
        )
    for layer in [layer for layer in layers if layer >= 10 or depth < 10]:
        resident = f"resume.resident_ms@{layer}"
        yield Row(
            *(f"resume.resident@{layer}", "bytes ÷ (accepted → resident) ÷ pinned copy peak", "×", ">=", 0.95),
            lambda run, name=resident: copy_ms(name)(run) / run.median(name),
            copy_ms(resident),
        )
        yield in_ms(resident, "accepted → resident", copy_ms(resident))


def _decode_park(s: dict[str, Any]) -> Iterator[Row]:
    for tokens in sorted({s["session_tokens"], s["tokens"]}):
        name = f"decode_park.next_ms@{tokens}"

        def floor(run: Run, name: str = name, tokens: int = tokens) -> float:
            return max(copy_ms(name)(run), run.median(f"decode_park.step_ms@{tokens}"))

        yield Row(
            *(
                f"decode_park.next_token@{tokens}",
                "all layers cold → next token ÷ max(copy, decode step)",
                "×",
                "<=",
                1.10,
            ),
            lambda run, name=name, floor=floor: run.median(name) / floor(run),
            floor,
        )
        yield in_ms(name, "accepted → the next token's logits", floor)
    tokens = s["session_tokens"]
    yield Row(
        *(
            "decode_park.vs_vllm",
            f"vLLM with a session that it dropped, {tokens} tokens ÷ Djinn's client",
            "×",
            ">=",
            2.2,
        ),
        medians("vllm.dropped_ms", f"decode_park.client_ms@{tokens}"),
        median("vllm.dropped_ms"),
    )


def _oversub(s: dict[str, Any]) -> Iterator[Row]:
    for sessions, tokens in s["oversub"]:
        name = f"oversub.n{sessions}_{tokens}"

        def equal(run: Run, name: str = name) -> float:
            return run.fact(f"{name}.bit_equal")["equal"]

        def floor(run: Run, sessions: int = sessions, tokens: int = tokens) -> float:
            """s: every prompt's matrix products, and for every new token the weights read once a batch and all KV once."""
            reads = -(-sessions // DECODE_ROWS) * s["weights_bytes"] + sessions * tokens * s["kv_bytes_per_token"]
            decode = s["new_tokens"] * reads / run.median("ceiling.memory") / 1e9
            return sessions * run.median(f"ceiling.gemms@{tokens}") / 1e3 + decode

        what = f"{sessions} × {tokens} on {s['budget'] / 1e9:g} GB: sessions bit-equal to themselves alone"
        yield Row(name, what, "sessions", "==", sessions, equal)
        total = f"{name}.total"
        yield Row(total, "its seconds", "s", "", None, median(total), floor, "s", total)
    ours = "oversub.n{}_{}.total"
    for (sessions, tokens), row, target in zip(
        [one for one in s["oversub"] if one[1] == s["session_tokens"]],
        ("oversub.total", "oversub.total_n100"),
        (1.2, 1.25),
        strict=False,
    ):
        theirs = f"vllm.total_s@{sessions}"
        what = f"{sessions} × {tokens} + {s['new_tokens']}, paused and paged ÷ vLLM, which cannot pause"
        yield Row(row, what, "×", "<=", target, medians(ours.format(sessions, tokens), theirs), median(theirs), "s")
    total = ours.format(s["oversub"][0][0], s["session_tokens"])
    for name, rival, target in (
        ("oversub.vs_handswap@pageable", "handswap.total_s@pageable", 18),
        ("oversub.vs_handswap@pinned", "handswap.total_s@pinned", 8),
        ("oversub.vs_handswap@pinned.batched", "handswap.total_s@pinned.batched", None),
        ("oversub.vs_hf_cb@tuned", "hf_cb.total_s@tuned", 1),
        ("oversub.vs_hf_cb@shipped", "hf_cb.total_s@shipped", 4),
    ):
        yield Row(
            name, "÷ Djinn's total", "×", ">=" if target else "", target, medians(rival, total), median(rival), "s"
        )
    what = "deterministic ÷ free, on the first workload"
    yield Row("deterministic.cost", what, "×", "<=", 1.05, over("deterministic.on_s", "deterministic.off_s"))


def _engine(s: dict[str, Any]) -> Iterator[Row]:
    tokens, batch = s["session_tokens"], s["batch"]
    what = f"sessions of {tokens} + {s['new_tokens']} tokens with all their KV on the whole card"
    yield Row("arena.sessions", what, "sessions", ">=", 42, median("arena.sessions"))
    yield Row(
        "checkpoint.dispatch",
        "a prefill with a checkpoint at every layer less one without, ÷ their number; an upper bound "
        "of the compute thread's time",
        "ms",
        "<=",
        0.1,
        median("checkpoint.dispatch_ms"),
        samples="checkpoint.dispatch_ms",
    )
    for kind, target in (("prefill", 1.01), ("decode", 1.03)):
        name = f"checkpoint.{kind}"
        yield Row(
            *(
                f"checkpoint.interference@{kind}",
                "others while copies drain ÷ alone, upper 95 % bound",
                "×",
                "<=",
                target,
            ),
            partial(_interference, name=name),
            median(f"{name}.alone_ms"),
        )
    for kind, what in (("products", "a pass's matrix products"), ("memory", "a copy within the card")):
        yield Row(
            f"checkpoint.interference@{kind}",
            f"{what} beside copies both ways ÷ alone, nothing else in between: a floor of the two above",
            "×",
            "",
            None,
            over(f"ceiling.{kind}.beside_ms", f"ceiling.{kind}.alone_ms"),
            median(f"ceiling.{kind}.alone_ms"),
        )
    for name, pair, target in (
        (f"executor.prefill@{tokens}", (f"executor.prefill_ms@{tokens}", f"executor.plain_ms@{tokens}"), 0.80),
        (
            f"executor.prefill@{s['tokens']}",
            (f"executor.prefill_ms@{s['tokens']}", f"executor.plain_ms@{s['tokens']}"),
            None,
        ),
        ("executor.generic", ("executor.generic_ms", "executor.generic_plain_ms"), 1.02),
    ):
        gemms = median(f"ceiling.gemms@{name.partition('@')[2] or tokens}")
        what = "÷ plain transformers forward with a fresh DynamicCache"
        yield Row(name, what, "×", "<=" if target else "", target, over(*pair), gemms)
        yield in_ms(pair[0], "accepted → logits", gemms)

    def read(run: Run, count: int) -> float:
        """ms to read the weights and that many sessions once."""
        return (s["weights_bytes"] + count * tokens * s["kv_bytes_per_token"]) / run.median("ceiling.memory") / 1e6

    yield Row(
        *("decode.single", f"one session at {tokens}: a token", "ms", "<=", 13.5, median("decode.step_ms@1")),
        lambda run: read(run, 1),
        samples="decode.step_ms@1",
    )
    yield Row(
        *(
            f"decode.batch{batch}",
            f"{batch} sessions at {tokens}",
            "tokens/s",
            ">=",
            1000,
            median(f"decode.tokens_s@{batch}"),
        ),
        lambda run: batch / read(run, batch) * 1e3,
        "tokens/s",
        samples=f"decode.tokens_s@{batch}",
    )


def _interference(run: Run, name: str) -> float:
    """The upper bound of beside copies ÷ alone. Raises Missing where copies ran for less of the time than MEASURES asks."""
    busy = statistics.median(run.about(f"{name}.busy_ms", "copies_busy"))
    if busy < BUSY:
        raise Missing(f"{name}: copies ran {busy:.0%} of the time")
    return run.bound(f"{name}.busy_ms", f"{name}.alone_ms")["high"]


def _client() -> Iterator[Row]:
    for kind in ("idle", "busy"):
        name = f"client.dispatch@{kind}"
        yield Row(name, "call → accepted, loopback", "ms", "<=", 1, median(name), samples=name)
    yield Row("client.dispatch@busy.p99", "call → accepted, loopback", "ms", "<=", 10, p99("client.dispatch@busy"))
    what = "a prefill pause's activation to the client, in its own bytes"
    for id_, more in (("client.activation", ""), ("client.activation@out", ", into an array that is used again")):
        yield Row(id_, what + more, "GB/s", ">=", 1.5, median(id_), samples=id_)
    what = "process start → accepts"
    yield Row("server.accepts", what, "s", "<=", 2, median("server.accepts"), samples="server.accepts")
    what = "process start → first pause answered, pinning behind"
    yield Row("server.first_pause", what, "s", "", None, median("server.first_pause"), samples="server.first_pause")
