"""Edits of a paused activation, as data: they travel on the wire and are applied on the server. Pure.

Every edit takes `positions`: token indices within the paused pass (negative from its end), all of them unless given.
Vectors are numpy arrays or sequences of `hidden_size` numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from djinn.errors import BadRequest


class Edit(msgspec.Struct, frozen=True, tag_field="edit", forbid_unknown_fields=True):
    """Base of all edits."""


class Scale(Edit, frozen=True, tag="scale"):
    """Multiply the activation by `factor`."""

    factor: float
    positions: tuple[int, ...] | None = None


def _numbers(vector: Any) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in vector)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"an edit's vector is a sequence of hidden_size numbers: {error}") from error


class _WithVector(Edit, frozen=True):
    vector: Sequence[float]
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "vector", _numbers(self.vector))


class Add(_WithVector, frozen=True, tag="add"):
    """Add a steering vector."""


class Set(_WithVector, frozen=True, tag="set"):
    """Replace the activation by a vector."""


class Ablate(Edit, frozen=True, tag="ablate"):
    """Set the activation to zero."""

    positions: tuple[int, ...] | None = None


class ProjectOut(_WithVector, frozen=True, tag="project_out"):
    """Remove the activation's component along a direction."""


AnyEdit = Scale | Add | Set | Ablate | ProjectOut
