"""docs/families.md, made of what the tests of one run recorded: one section for each transformers version."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from families import FAMILIES, REFUSED

PATH = Path(__file__).parent.parent / "docs" / "families.md"
DTYPES = ("float32", "float16", "bfloat16")
HEAD = """# Families that can be paused

Made by `make test ARGS='tests/test_families.py --write-families'`, with `TRANSFORMERS=…` for another version: not
written by hand. Each row is a tiny random model (hidden 64), tried in float32, float16 and bfloat16 on a CPU.

- **pauses**: stops tried, each resumed: every layer in prefill, at the first and at a later generated token, in each dtype.
- **bit-equal**: of these, how many gave the bits of the unpaused run, in the logits of that pass and of the tokens behind it.
- **fp32, fp16, bf16**: greedy tokens, of 64, equal to `model.generate` on the family's own cache; demanded in fp32 alone.
  That cache drops what left a sliding window, ours masks it, and in 16 bits the two sums round a near tie apart, after which
  the texts differ. In brackets, where it was not 64: equal to `model.generate` on a `DynamicCache` that drops nothing.
- **Δlogit**: largest difference from the plain forward over all of the prompt's logits, in each dtype.

Sessions of a mixture of experts are decoded one by one: an expert is given as many rows as choose it, so that in a pass shared
with others a session's bits would depend on theirs.
"""


@dataclass
class Row:
    attention: str = ""
    layers: int = 0
    pauses: int = 0
    equal: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    delta: dict[str, float] = field(default_factory=dict)


@dataclass
class Record:
    """What the tests of this run saw."""

    rows: dict[str, Row] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        return self.rows.setdefault(name, Row())

    def write(self) -> None:
        """Replace this version's section. Only a whole run may: a part of it would drop the rest of the table."""
        whole = [(f.name, d) for f in FAMILIES for d in DTYPES]
        seen = [(f.name, d) for f, d in ((f, d) for f in FAMILIES for d in DTYPES) if d in self.row(f.name).tokens]
        missing = [pair for pair in whole if pair not in seen] + [
            r.name for r in REFUSED if r.name not in self.refusals
        ]
        assert not missing, f"--write-families needs the whole of tests/test_families.py to pass; missing: {missing}"
        kept = sections(PATH.read_text()) if PATH.exists() else {}
        kept[version("transformers")] = self._section()
        PATH.parent.mkdir(exist_ok=True)
        in_order = sorted(kept, key=lambda number: [int(part) for part in number.split(".")])
        PATH.write_text(HEAD + "".join(f"\n## transformers {number}\n{kept[number]}" for number in in_order))

    def _section(self) -> str:
        lines = [
            "",
            "| family | layers | attention | pauses | bit-equal | fp32 | fp16 | bf16 | Δlogit fp32 / fp16 / bf16 |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for family in FAMILIES:
            row = self.rows[family.name]
            tokens = " | ".join(row.tokens[dtype] for dtype in DTYPES)
            delta = " / ".join(f"{row.delta[dtype]:.1g}" for dtype in DTYPES)
            lines.append(
                f"| {family.name} | {row.layers} | {row.attention} | {row.pauses} | {row.equal} | {tokens} | {delta} |"
            )
        lines += [
            "",
            "Refused, each with an `UnsupportedModel` when it is loaded:",
            "",
            "| model | says |",
            "|---|---|",
        ]
        lines += [f"| {refused.name} | {self.refusals[refused.name]} |" for refused in REFUSED]
        return "\n".join(lines) + "\n"


def sections(text: str) -> dict[str, str]:
    """version -> what stands under its heading"""
    parts = re.split(r"^## transformers (\S+)\n", text, flags=re.MULTILINE)
    return {number: body.rstrip("\n") + "\n" for number, body in zip(parts[1::2], parts[2::2], strict=True)}


def names(section: str) -> tuple[list[str], list[str]]:
    """The first column of the section's two tables: families, refused."""
    served, refused = section.split("\nRefused, ")
    first = [[line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] for table in (served, refused)]
    tables = [[cell for cell in column if cell and not cell.startswith(("|", "family", "model"))] for column in first]
    return tables[0], [cell for cell in tables[1] if not cell.startswith("each with")]
