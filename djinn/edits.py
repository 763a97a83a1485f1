"""Edits of a paused activation, as data: they travel on the wire and are applied on the server. Pure.

Every edit takes `positions`: token indices within the paused pass (negative from its end), all of them unless given.
A position given twice counts once. Vectors are `(hidden_size,)`: numpy arrays, tensors or sequences of numbers, and
serve every position alike. An edit touches the pass that is paused, and none that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AnySet
from typing import Any

import msgspec

from djinn.errors import BadRequest

# RuntimeError: torch's, of a tensor whose numbers are not here or not to be read
UNREADABLE = (TypeError, ValueError, OverflowError, RuntimeError)


def plain(value: Any) -> Any:
    """numpy's and torch's numbers and arrays, and ranges, as Python's own numbers and lists: those travel."""
    if isinstance(value, range):
        return list(value)
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except UNREADABLE as error:
        raise BadRequest(f"a {type(value).__name__} cannot be read: {error}") from error


class Edit(msgspec.Struct, frozen=True, tag_field="edit", forbid_unknown_fields=True):
    """Base of all edits."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, plain(getattr(self, name)))


class Scale(Edit, frozen=True, tag="scale"):
    """Multiply the activation by `factor`."""

    factor: float
    positions: tuple[int, ...] | None = None


def _numbers(vector: Any) -> tuple[float, ...]:
    if isinstance(vector, str | bytes | bytearray | Mapping | AnySet):
        raise BadRequest(f"an edit's vector is a sequence of hidden_size numbers, not {type(vector).__name__}")
    try:
        return tuple(float(x) for x in vector)
    except UNREADABLE as error:
        raise BadRequest(f"an edit's vector is a sequence of hidden_size numbers: {error}") from error


class _WithVector(Edit, frozen=True):
    vector: Sequence[float]
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "vector", _numbers(self.vector))


class Add(_WithVector, frozen=True, tag="add"):
    """Add a steering vector `(hidden_size,)`."""


class Set(_WithVector, frozen=True, tag="set"):
    """Replace the activation by a vector `(hidden_size,)`."""


class Ablate(Edit, frozen=True, tag="ablate"):
    """Set the activation to zero."""

    positions: tuple[int, ...] | None = None


class ProjectOut(_WithVector, frozen=True, tag="project_out"):
    """Remove the activation's component along a direction `(hidden_size,)`, whose length does not count."""


AnyEdit = Scale | Add | Set | Ablate | ProjectOut
