"""What is wrong with a configuration, in words."""

from __future__ import annotations

import difflib
from typing import Any

_PATTERNS = {
    "server": "tcp://127.0.0.1:PORT (a server elsewhere is reached through a tunnel)",
    "device": "cpu or cuda:N",
}


def _name(keys: tuple[int | str, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def line(item: Any, known: list[str]) -> str:
    """One of pydantic's errors as `config: key = value: expected ...`; `known` names the keys and sections there are."""
    name, value = _name(item["loc"]), item["input"]
    match item["type"]:
        case "extra_forbidden" if "." in str(item["loc"][-1]):
            section, _, key = name.partition(".")
            return f"config: unknown key '{name}': write it as {section}: {{{key}: ...}}"
        case "extra_forbidden":
            near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
            return f"config: unknown key '{name}'" + (
                f" (did you mean '{near[0]}'?)"
                if near
                else f": known are {', '.join(key for key in known if '.' not in key)}"
            )
        case "missing":
            return f"config: missing key '{name}'"
        case "literal_error":
            return f"config: {name} = {value!r}: expected {item['ctx']['expected']}"
        case "greater_than_equal":
            return f"config: {name} = {value!r}: expected {item['ctx']['ge']} or more"
        case "less_than_equal":
            return f"config: {name} = {value!r}: expected {item['ctx']['le']} at most"
        case "int_parsing" | "int_type":
            return f"config: {name} = {value!r}: expected a whole number"
        case "model_type":
            return f"config: {name} = {value!r}: expected a section of keys"
        case "string_pattern_mismatch":
            return f"config: {name} = {value!r}: expected {_PATTERNS[name]}"
        case "value_error":
            return f"config: {name} = {value!r}: {item['ctx']['error']}"
        case _:
            return f"config: {name} = {value!r}: expected {item['msg'].removeprefix('Input should be ')}"
