"""Tokens of the longest session of each rule: what its server is told, and what the model must have positions for. No torch."""

from __future__ import annotations

from typing import Any

from evaluation.load import Load

DECODED = 4  # new tokens of a timed decode of `checkpoint_cost`


def oversubscription(settings: Any) -> int:
    return settings.oversubscription.prompt_tokens + settings.oversubscription.new_tokens + 1


def djinn_resume(settings: Any) -> int:
    """A layer: one new token at its cold pause, two before and at its warm one."""
    return settings.resume.prompt_tokens + 3 * len(settings.resume.layers) + 2


def dispatch(settings: Any) -> int:
    return settings.resume.prompt_tokens + Load.NEW_TOKENS


def concurrent(settings: Any) -> int:
    return settings.resume.prompt_tokens + settings.oversubscription.new_tokens


def zero_change(settings: Any) -> int:
    """Its script goes on with each conversation twice."""
    return settings.resume.prompt_tokens + 2 * settings.oversubscription.new_tokens + 1


def checkpoint_cost(settings: Any) -> int:
    return settings.checkpoint_cost.prompt_tokens + DECODED


def breakpoints(settings: Any) -> int:
    return settings.breakpoints.prompt_tokens + settings.breakpoints.new_tokens
