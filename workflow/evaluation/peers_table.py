"""peers.md: what each system can do, and how long it takes, as tables; every cell is read from combined.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evaluation.contenders.contender import PROBES

NAMES = {
    "djinn": "Djinn",
    "hooks": "PyTorch eager, forward hooks",
    "manual": "manual offload, own loop over the layers",
    "handswap_pageable": 'hand-written swap, `.to("cpu")`',
    "handswap_pinned": "hand-written swap, buffers allocated before",
    "hf_offload": "transformers `DynamicCache(offloading=True)`",
    "hf_batching": "transformers continuous batching",
    "nnsight": "nnsight",
    "vllm": "vLLM",
}
HEADS = {"stop": "stop mid-forward", "edit": "edit", "park": "park", "exact": "exact", "survive": "survive"}


def render(combined: dict[str, Any]) -> str:
    campaign, peers = combined["campaign"], combined["peers"]
    lines = [
        "# Every system beside Djinn",
        "",
        f"Made from combined.json; campaign {campaign['id']}, {campaign['scale']} scale, commit {campaign['commit'][:12]}. "
        "What each system is and how it was tuned: docs/baselines.md.",
        "",
        "## What each can do",
        "",
        *capabilities(peers),
        "",
        "## Many sessions",
        "",
        *workload(combined["workload"]),
        "",
        "## Going on with a session that was put aside, and editing a layer",
        "",
        *going_on(peers),
        "",
        "## What was seen, and what was tried",
        "",
    ]
    for system, peer in peers.items():
        lines += [*behind(system, peer), ""]
    return "\n".join(lines[:-1]) + "\n"


def capabilities(peers: dict[str, Any]) -> list[str]:
    """System × capability; each answer is of a probe that ran."""
    if not peers:
        return ["No raw/peer_SYSTEM.json is there: the rules have not run in this campaign."]
    rows = [f"| system | {' | '.join(HEADS[probe] for probe in PROBES)} |", f"|---{'|---' * len(PROBES)}|"]
    for system, peer in peers.items():
        cells = (
            [peer["capabilities"][probe]["answer"] for probe in PROBES] if peer["ran"] else ["not run"] * len(PROBES)
        )
        rows.append(f"| {NAMES[system]} | {' | '.join(cells)} |")
    return rows


def workload(found: dict[str, Any] | None) -> list[str]:
    """Totals (s) of the rounds and their ratios to Djinn's."""
    if found is None:
        return ["raw/workload.json is missing: the rule has not run."]
    fewer = any(0 < len(row["seconds"]) < found["rounds"] for row in found["systems"].values())
    slow = ", one of a slow one" if fewer else ""
    turns = "all systems in turn" if found["together"] else "one system after the other"
    rows = [
        f"{found['sessions']} sessions of {found['prompt_tokens']} tokens and {found['new_tokens']} new ones after the first, "
        f"{found['rounds']} rounds{slow}, {turns}.",
        "",
        "| system | put aside, all alive | off the device | total, median (lowest–highest) | ÷ Djinn | tokens as Djinn |",
        "|---|---|---|---|---|---|",
    ]
    for system, row in found["systems"].items():
        if row["unable"]:
            rows.append(f"| {NAMES[system]} | **not run** | – | – | – | – |")
            continue
        total, ratio = row["total"], row["over_djinn"]
        same = "other weights" if row["tokens_as_djinn"] is None else f"{100 * row['tokens_as_djinn']:.1f} %"
        rows.append(
            f"| {NAMES[system]} | {'yes' if row['paused'] else 'cannot'} | {row['off_device_bytes'] / 1e6:.0f} MB "
            f"| {total['median']:.1f} s ({total['min']:.1f}–{total['max']:.1f}) "
            f"| {ratio['ratio']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f}) | {same} |"
        )
    why = [f"- {NAMES[system]}: not run: {row['unable']}" for system, row in found["systems"].items() if row["unable"]]
    return [*rows, "", *why]


def going_on(peers: dict[str, Any]) -> list[str]:
    rows = ["| system | next token of a session that was | ms, median (p95) | edit ÷ plain pass |", "|---|---|---|---|"]
    for system, peer in peers.items():
        if peer["ran"]:
            edits = "; ".join(_edits(peer["edited"])) or "–"
            waits = list(peer["continued"]["ms"].items()) or [("–", None)]
            for what, numbers in waits:
                ms = f"{numbers['median']:.1f} ({numbers['p95']:.1f})" if numbers else "–"
                rows.append(f"| {NAMES[system]} | {what.replace('_', ' ')} | {ms} | {edits} |")
                edits = "as above"
        else:
            rows.append(f"| {NAMES[system]} | **not run** | – | – |")
    return rows


def _edits(edited: dict[str, Any]) -> Iterator[str]:
    for way, ratio in edited["over_plain"].items():
        yield f"{way} {ratio['ratio']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})"


def behind(system: str, peer: dict[str, Any]) -> list[str]:
    """One system's evidence, settings tried, and reasons for what is empty."""
    made_of = ", ".join(f"{name} {version}" for name, version in peer["versions"].items())
    lines = [f"### {NAMES[system]}" + (f" ({made_of})" if made_of else ""), ""]
    if not peer["ran"]:
        lines.append(f"- not run: {peer['reason']}")
    for probe, cell in (peer["capabilities"] or {}).items():
        refused = f" `{cell['exception']}`" if cell["exception"] else ""
        lines.append(f"- {HEADS[probe]}: {cell['answer']}; {cell['seen']}.{refused}")
    for question in ("continued", "edited"):
        if peer[question] and peer[question]["unable"]:
            lines.append(f"- {question}: not run: {peer[question]['unable']}")
    for row in peer["tuning"]:
        outcome = f"{row['seconds']:.2f} s" if row["seconds"] is not None else f"not run: {row['unable']}"
        chosen = " (chosen)" if peer["ran"] and row["setting"] == peer["setting"] else ""
        lines.append(f"- setting {row['setting'] or 'as shipped'}: {outcome}{chosen}")
    if peer["ran"] and peer["settings_offered"] == 1:
        lines.append("- nothing to tune")
    elif peer["ran"] and not peer["tuning"]:
        lines.append(
            f"- **tuning skipped**: {peer['settings_offered']} settings, the shipped one was taken (peers.tune_sessions: 0)"
        )
    return lines
