"""Facts about the other systems: the workload of many sessions, theirs over Djinn's, round by round."""

from __future__ import annotations

from functools import partial

from evaluation.facts import Absent, Combined, Facts

FACTS = Facts()


def _over_djinn(combined: Combined, system: str) -> tuple[float, str]:
    row = combined["workload"]["systems"][system]
    if row["unable"]:
        raise Absent(f"{system} did not run: {row['unable']}")
    ratio, ours = row["over_djinn"], combined["workload"]["systems"]["djinn"]["total"]
    return ratio["ratio"], (
        f"{row['total']['median']:.1f} s against {ours['median']:.1f} s, {ratio['n']} rounds, "
        f"ratio {ratio['low']:.2f}–{ratio['high']:.2f}"
    )


for _system in ("handswap_pageable", "handswap_pinned", "hf_batching", "vllm"):
    FACTS[f"{_system}_over_djinn"] = (("workload",), partial(_over_djinn, system=_system))
