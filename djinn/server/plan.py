"""Where the device budget goes, decided before the arena is taken, and printed as one table. Pure arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from djinn.errors import BudgetTooSmall
from djinn.sizes import DTYPE_BYTES, KVShape, format_bytes


@dataclass(frozen=True)
class Plan:
    device_budget_bytes: int
    weights_bytes: int
    workspace_bytes: int
    arena_bytes: int
    host_budget_bytes: int

    def numbers(self) -> dict[str, int]:
        return asdict(self)

    def table(self, shape: KVShape) -> str:
        """What a person reads at start."""
        per_token = shape.kv_bytes(1)
        rows = [
            ("device budget", self.device_budget_bytes, ""),
            ("  weights", self.weights_bytes, ""),
            ("  workspace", self.workspace_bytes, "activations of one pass"),
            ("  arena", self.arena_bytes, f"{self.arena_bytes // per_token:,} tokens at {per_token:,} B"),
            ("host pool", self.host_budget_bytes, f"{self.host_budget_bytes // per_token:,} tokens"),
        ]
        return "\n".join(f"{name:<16}{format_bytes(count):>10}  {note}".rstrip() for name, count, note in rows)


def workspace_bytes(shape: KVShape, intermediate_size: int, vocabulary: int, max_tokens: int) -> int:
    """An upper estimate of one pass's temporaries: per token eight hidden states and three MLP rows, and one row of logits."""
    per_token = (8 * shape.hidden_size + 3 * intermediate_size) * DTYPE_BYTES[shape.dtype]
    return max_tokens * per_token + vocabulary * 8


def make_plan(shape: KVShape, weights: int, workspace: int, device_budget: int, host_budget: int) -> Plan:
    """Arena = budget - weights - workspace. Raises BudgetTooSmall with the sum if that cannot hold 32 tokens."""
    arena = device_budget - weights - workspace
    least = shape.kv_bytes(32) + shape.hidden_bytes(32)
    if arena < least:
        raise BudgetTooSmall(
            f"device budget {format_bytes(device_budget)} = weights {format_bytes(weights)} + workspace "
            f"{format_bytes(workspace)} + arena {format_bytes(arena)}: one session of 32 tokens needs {format_bytes(least)}. "
            f"Raise --device-budget to {format_bytes(weights + workspace + 2 * least)} or more, or lower --max-tokens"
        )
    return Plan(device_budget, weights, workspace, arena, host_budget)
