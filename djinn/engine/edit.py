"""Apply an edit to a hidden state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from djinn.edits import Ablate, Add, AnyEdit, ProjectOut, Scale, Set
from djinn.errors import BadRequest


def check(edit: AnyEdit, tokens: int, hidden_size: int) -> None:
    """Raise BadRequest unless `edit` fits a state `(1, tokens, hidden_size)`: vector length and positions."""
    wrong = [p for p in edit.positions or () if not -tokens <= p < tokens]
    if wrong:
        raise BadRequest(f"position {wrong[0]} is outside the paused pass of {tokens} tokens")
    vector = getattr(edit, "vector", None)
    if vector is not None and len(vector) != hidden_size:
        raise BadRequest(f"the edit's vector has {len(vector)} numbers, the hidden size is {hidden_size}")
    if isinstance(edit, ProjectOut) and not any(vector):
        raise BadRequest("a direction of zero length cannot be projected out")
    numbers = [edit.factor] if isinstance(edit, Scale) else vector or ()
    if not all(map(math.isfinite, numbers)):
        raise BadRequest("an edit's numbers must be finite, not NaN or infinite")


def edited(hidden: torch.Tensor, edits: Iterable[AnyEdit]) -> torch.Tensor:
    """`hidden` with every edit applied in turn, as a new state. Raises BadRequest where a number leaves its dtype's range."""
    for edit in edits:
        hidden = apply(edit, hidden)
    # One kernel and one number to the host, for which the compute thread waits: NaN and infinity go through the largest.
    if not math.isfinite(torch.linalg.vector_norm(hidden, math.inf).item()):
        name = str(hidden.dtype).removeprefix("torch.")
        raise BadRequest(
            f"the activation would hold NaN or infinite numbers: {name}, the model's dtype, ends at "
            f"{torch.finfo(hidden.dtype).max:.3g}. Give smaller numbers"
        )
    return hidden


def apply(edit: AnyEdit, hidden: torch.Tensor) -> torch.Tensor:
    """A new state `(1, tokens, hidden_size)` with `edit` applied; arithmetic in the state's dtype, as a hook would do."""
    if edit.positions is None:
        return _changed(edit, hidden)
    at, out = sorted({p % hidden.shape[1] for p in edit.positions}), hidden.clone()  # each once: there may be a million
    out[:, at] = _changed(edit, hidden[:, at])
    return out


def _changed(edit: AnyEdit, rows: torch.Tensor) -> torch.Tensor:
    match edit:
        case Scale(factor=factor):
            return rows * factor
        case Add(vector=vector):
            return rows + _vector(vector, rows)
        case Set(vector=vector):
            return _vector(vector, rows).expand_as(rows).contiguous()
        case Ablate():
            return torch.zeros_like(rows)
        case ProjectOut(vector=vector):
            direction, wide = _direction(vector).to(rows.device), rows.float()
            return (wide - (wide @ direction)[..., None] * direction).to(rows.dtype)


def _direction(vector: Iterable[float]) -> torch.Tensor:
    """Of length 1, float32, whatever the vector's: the largest number becomes 1 first, so that no square leaves the range."""
    direction = torch.tensor(vector, dtype=torch.float64)
    direction = direction / direction.abs().max()
    return (direction / direction.norm()).float()


def _vector(vector: Iterable[float], like: torch.Tensor) -> torch.Tensor:
    """By way of float64: torch refuses to make a float16 out of a number beyond its range, converting gives infinity."""
    return torch.tensor(vector, dtype=torch.float64).to(like)
