"""MADE-UP results of the systems beside Djinn; see synthetic.py."""

from __future__ import annotations

from typing import Any

from evaluation.contenders.contender import PROBES
from evaluation.peers import PEERS


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
