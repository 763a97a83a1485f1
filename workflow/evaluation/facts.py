"""A fact: one number that claims point to, computed in one place, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Combined = dict[str, Any]
Fact = Callable[[Combined], tuple[float, str]]


class Absent(Exception):
    """The number does not exist in these results; the message is the reason."""


class Facts(dict[str, tuple[tuple[str, ...], Fact]]):
    """name → the rules it needs, and the function that gives (value, detail) or raises Absent."""

    def needs(self, *rules: str) -> Callable[[Fact], Fact]:
        def register(function: Fact) -> Fact:
            self[function.__name__] = (rules, function)
            return function

        return register
