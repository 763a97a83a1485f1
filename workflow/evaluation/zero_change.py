"""Zero user code changes: the very same script where everything fits and where it does not, its output compared byte for byte.

The script (workflow/resources/long_sessions.py) is a process of its own and is told an address, nothing else. Always on
servers of its own: their budgets are the experiment.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import djinn
from evaluation import lengths
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

SCRIPT = Path(__file__).resolve().parents[1] / "resources" / "long_sessions.py"
SESSIONS, FIT = 8, 3  # conversations, and how many of them the tight device holds
Progress = Callable[[str], None]


class ScriptFailed(RuntimeError):
    """The user's script did not end well; the message is its last words."""


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    length, new_tokens = settings.resume.prompt_tokens, settings.oversubscription.new_tokens
    prompts = load_prompts(settings.model, SESSIONS, length)
    longest = lengths.zero_change(settings)
    own = SimpleNamespace(**{**vars(settings), "server": None})
    runs = {}
    for name, fit in (("roomy", SESSIONS), ("tight", FIT)):
        budget = budget_for(settings.weights, fit, longest, longest)
        with server_for(own, longest, budget, held=SESSIONS) as server:
            output = run_script(server.endpoint, prompts, new_tokens)
            with djinn.connect(server.endpoint) as client:
                lives = client.stats()["bytes"]
        runs[name] = {
            "output_sha256": hashlib.sha256(output).hexdigest(),
            "output_bytes": len(output),
            "lines": output.decode().splitlines(),
            **{key: lives[key] for key in ("arena_bytes", "evictions", "evicted_bytes", "restores", "restored_bytes")},
        }
        progress(f"zero change: {name}, {lives['restores']} sessions restored, {len(output)} bytes of output")
    return {
        "script": SCRIPT.name,
        "script_sha256": hashlib.sha256(SCRIPT.read_bytes()).hexdigest(),
        "sessions": SESSIONS,
        "prompt_tokens": length,
        "new_tokens": new_tokens,
        "kv_bytes": SESSIONS * (length + 2 * new_tokens) * settings.weights["kv_bytes_per_token"],
        "runs": runs,
    }


def run_script(endpoint: str, prompts: list[list[int]], new_tokens: int) -> bytes:
    """What the script prints, as bytes. Raises ScriptFailed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), endpoint, str(new_tokens)],
        input=json.dumps(prompts).encode(),
        capture_output=True,
        env=os.environ,
    )
    if done.returncode != 0:
        raise ScriptFailed(f"{SCRIPT.name} ended with exit code {done.returncode}: {done.stderr.decode()[-500:]}")
    return done.stdout
