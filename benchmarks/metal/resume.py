"""resume.*: a session paused in its prefill, evicted, the arena full, and resumed; beside it, in turn, what it is held against.

In turn: the cold resume, the same resume with the session still there (own: what is left of the pass in the server's own
layers, nothing to restore), and in this process on plain layers: what is left alone, recompute, and the whole state copied
back from pinned memory first. The server's own prefill is recompute with its fast layers.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.metal.bench import Bench, ms
from benchmarks.metal.cold import Arena, Cold
from benchmarks.metal.local import Sample
from benchmarks.metal.report import Report
from benchmarks.metal.setting import Setting


def measure(bench: Bench, report: Report) -> None:
    client = bench.small()
    report.fact("plan", client.server.plan)
    prompts = bench.prompts(bench.setting.parked, bench.setting.tokens)
    arena = Arena(client, prompts)
    for layer in bench.setting.layers:
        if not report.attempt(f"resume@{layer}", partial(at_layer, bench, report, arena, prompts, layer)):
            bench.stop()
            arena = Arena(bench.small(), prompts)
    arena.empty()


def at_layer(bench: Bench, report: Report, arena: Arena, prompts: np.ndarray, layer: int) -> None:
    s = bench.setting
    cold = Cold(arena, prompts, layer, s.parked)
    below = layer < s.depth
    ways: dict[str, Sample] = bench.local().ways(bench.local().case(prompts[0], layer)) if below else {}
    rows: dict[str, list[dict]] = {name: [] for name in ("cold", "own", "own_prefill", *ways)}
    for number in range(-1, s.samples):
        taken = {"cold": cold()}
        if below:
            taken |= {"own": warm(arena, prompts[1], layer), "own_prefill": whole(arena, prompts[2])}
        taken |= {name: way() for name, way in ways.items()}
        if number >= 0:
            for name, sample in taken.items():
                rows[name].append(sample)
    if cold.logits is not None:
        session = arena.client.open()
        alone = session.prefill(prompts[0]).logits
        session.close()
        report.fact(f"resume.bit_equal@{layer}", bool(np.array_equal(alone, cold.logits)))
    while len(rows["cold"]) < s.tail:
        rows["cold"].append(cold())
    cold.close()
    keep(report, s, layer, rows)


def keep(report: Report, s: Setting, layer: int, rows: dict[str, list[dict]]) -> None:
    stamps = rows["cold"]
    moved = layer * s.tokens * s.shape.layer_token_bytes + s.shape.hidden_bytes(s.tokens)
    report.samples(f"resume.ready@{layer}", [ms(one, "ready", "accepted") for one in stamps], "ms", fresh=fresh(stamps))
    report.samples(f"resume.first_layer@{layer}", [ms(one, "first_layer", "ready") for one in stamps], "ms")
    report.samples(f"resume.logits_ms@{layer}", [ms(one, "logits", "accepted") for one in stamps], "ms")
    report.samples(
        f"resume.resident_ms@{layer}", [ms(one, "resident", "accepted") for one in stamps], "ms", bytes=moved
    )
    report.samples(f"resume.client_ms@{layer}", [ms(one, "client_received", "client_called") for one in stamps], "ms")
    if rows["own"]:
        report.samples(f"own.compute_ms@{layer}", [ms(one, "logits", "ready") for one in rows["own"]], "ms")
        report.samples(f"own.prefill_ms@{layer}", [ms(one, "logits", "accepted") for one in rows["own_prefill"]], "ms")
    for name in ("compute", "recompute", "manual"):
        if rows.get(name):
            differs = [one["differs_by"] for one in rows[name] if "differs_by" in one]
            for interval in ("ready_ms", "logits_ms"):
                values = [one[interval] for one in rows[name]]
                report.samples(f"{name}.{interval}@{layer}", values, "ms", differs_by=differs)


def fresh(stamps: list[dict]) -> list[int]:
    """Which samples came first after the arena was filled."""
    return [number for number, one in enumerate(stamps) if one["fresh"]]


def warm(arena: Arena, prompt: np.ndarray, layer: int) -> dict[str, int]:
    session = arena.client.open()
    session.prefill(prompt, break_at=layer)
    stamps = session.resume().stamps
    arena.keep(session)
    return stamps


def whole(arena: Arena, prompt: np.ndarray) -> dict[str, int]:
    session = arena.client.open()
    stamps = session.prefill(prompt).stamps
    arena.keep(session)
    return stamps
