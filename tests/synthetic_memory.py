"""MADE-UP results of the two rules that fill the memory; see synthetic.py."""

from __future__ import annotations

from typing import Any

WEIGHTS_BYTES, BUDGET_BYTES, SESSION_BYTES = 269_000_000, 750_000_000, 11_800_000


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
