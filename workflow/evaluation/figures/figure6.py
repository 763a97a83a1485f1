"""Figure 6, memory virtualization: live slab bytes by tier against the device budget, over N and time.

Needs raw/oversubscription.json; raw/eager.json adds where each allocator setting of the baseline died.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from evaluation.figures import style
from evaluation.figures.style import BLACK, BLUE, GREEN, GREY, HALO, ORANGE, PALE, PURPLE, SKY, VERMILION

TIERS = (
    ("weights", "weights", PALE),
    ("device_bytes", "KV on the device", SKY),
    ("host_bytes", "KV on the host", ORANGE),
    ("disk_bytes", "KV on disk", PURPLE),
)
# fmt: off
HEADER = (
    "panel", "x", "x_unit", "weights_bytes", "device_bytes", "host_bytes", "disk_bytes",
    "demand_bytes", "budget_bytes", "process_bytes", "label",
)
# fmt: on
DOTS = (0, (1.5, 1.2))
DIED: dict[str, Any] = {"color": VERMILION, "marker": "x", "markersize": 4.5, "markeredgewidth": 1.3}
PHASES = {"prefill": "prefill and pause", "resume": "resume and generate"}


def draw(combined: Path, out_pdf: Path, out_png: Path, out_csv: Path) -> None:
    results = style.load(combined)
    over = results["oversubscription"]
    if over is None:
        raise style.NothingToDraw("figure 6 needs raw/oversubscription.json: snakemake --forcerun oversubscription")
    timeline = measured_part(over)
    eager = (results["eager"] or {"settings": []})["settings"]
    deaths = [(setting["sessions"], setting["name"]) for setting in eager]
    style.write_csv(out_csv, HEADER, rows(over, timeline, deaths))
    with plt.rc_context(style.RC):
        figure = plt.figure(figsize=(style.COLUMN, 5.3))
        halves = figure.add_gridspec(2, 1, left=0.15, right=0.985, top=0.875, hspace=0.32)
        parts = [half.subgridspec(2, 1, height_ratios=[2.9, 1], hspace=0.16) for half in halves]
        grid = [[figure.add_subplot(part[0]), figure.add_subplot(part[1])] for part in parts]
        top = 1.3 * max(row["demand_bytes"] for row in over["by_n"])
        unit = style.byte_unit(top)
        by_sessions(grid[0][0], over, deaths, unit)
        by_time(grid[1][0], over, timeline, unit)
        for axes, strip in grid:
            axes.set_ylim(0, top / unit[0])
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylabel(f"Memory ({unit[1]})")
            budget_line(axes, over, unit)
            axes.tick_params(labelbottom=False)
            strip.set_xlim(axes.get_xlim())
            strip.set_xticks(axes.get_xticks())
            strip.set_xlim(axes.get_xlim())
        process_strips([strip for _, strip in grid], over, timeline, results)
        figure.align_ylabels([axes for pair in grid for axes in pair])
        legend(figure, over)
        reserved = f"{over['workspace_bytes'] / unit[0]:.3g} {unit[1]} of the budget is workspace, without KV"
        overhead = over["budget_bytes"] - sum(over[f"{part}_bytes"] for part in ("weights", "workspace", "arena"))
        if overhead:
            reserved += f", {overhead / unit[0]:.3g} {unit[1]} CUDA's own"
        load = f"{over['sessions']} sessions of {over['prompt_tokens']} tokens"
        style.small_print(figure, results, f"{load}; {reserved}.")
        style.save(figure, out_pdf, out_png)


def measured_part(over: dict[str, Any]) -> list[dict[str, Any]]:
    """The timeline up to the end of the resumes: the runs alone after it are a check."""
    end = next(phase["end_s"] for phase in over["phases"] if phase["name"] == "resume")
    return [row for row in over["timeline"] if row["t_s"] <= end]


def rows(over: dict[str, Any], timeline: list[dict[str, Any]], deaths: list[tuple[int, str]]) -> list[tuple[Any, ...]]:
    """Everything that is drawn, as the CSV holds it."""
    weights, budget = over["weights_bytes"], over["budget_bytes"]

    def line(panel: str, x: float, unit: str, row: dict[str, Any]) -> tuple[Any, ...]:
        tiers = [row[key] for key, _, _ in TIERS[1:]]
        return (panel, x, unit, weights, *tiers, demand(row, weights), budget, row["process_bytes"], "")

    table = [line("a", row["sessions"], "sessions", row) for row in over["by_n"]]
    table += [line("b", row["t_s"], "s", row) for row in timeline]
    blank = (None,) * 7
    table += [("a", sessions, "sessions", *blank, f"eager {name} out of memory") for sessions, name in deaths]
    for phase in (phase for phase in over["phases"] if phase["name"] != "alone"):
        table += [("b", phase[f"{edge}_s"], "s", *blank, f"{phase['name']} {edge}") for edge in ("start", "end")]
    return table


def demand(row: dict[str, Any], weights: int) -> int:
    """Live slabs of all tiers and the weights (bytes)."""
    return row["device_bytes"] + row["host_bytes"] + row["disk_bytes"] + weights


def stack(
    axes: Axes,
    x: list[float],
    table: list[dict[str, Any]],
    over: dict[str, Any],
    unit: tuple[float, str],
    step: str | None = None,
) -> None:
    weights, scale = over["weights_bytes"], unit[0]
    below = [0.0] * len(x)
    for key, _, colour in TIERS:
        own = [weights if key == "weights" else row[key] for row in table]
        above = [low + high / scale for low, high in zip(below, own, strict=True)]
        axes.fill_between(x, below, above, color=colour, linewidth=0, step=step)
        below = above
    total = [demand(row, weights) / scale for row in table]
    axes.plot(x, total, color=BLACK, drawstyle=f"steps-{step}" if step else "default")


def by_sessions(axes: Axes, over: dict[str, Any], deaths: list[tuple[int, str]], unit: tuple[float, str]) -> None:
    start = {"sessions": 0, "device_bytes": 0, "host_bytes": 0, "disk_bytes": 0}
    table = [start, *over["by_n"]]
    stack(axes, [row["sessions"] for row in table], table, over, unit)
    furthest = max([over["sessions"], *(sessions for sessions, _ in deaths)])
    axes.set_xlim(0, furthest * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    style.panel_title(axes, "a", "over sessions alive")
    last, weights = over["by_n"][-1], over["weights_bytes"]
    each = (demand(last, weights) - weights) / last["sessions"]
    mark_deaths(
        axes, [(*death, (weights + death[0] * each) / unit[0]) for death in grouped(deaths, 0.045 * furthest)], furthest
    )


def mark_deaths(axes: Axes, deaths: list[tuple[int, str, float]], furthest: int) -> None:
    """A cross on the line of demand where each allocator setting died; the later the higher its label, so that none crosses a
    line. deaths: N, its label, the demand there."""
    across = axes.get_xaxis_transform()
    for level, (x, label, held) in enumerate(reversed(deaths)):
        y = 0.965 - 0.075 * level
        axes.axvline(x, color=VERMILION, linewidth=0.9, linestyle=DOTS, ymax=y)
        axes.plot([x], [held], **DIED)
        side, gap = ("right", -0.02) if x > 0.3 * furthest else ("left", 0.02)
        text = axes.text(x + gap * furthest, y, label, transform=across, fontsize=7, ha=side, va="center")
        text.set(color=VERMILION, path_effects=HALO)


def grouped(deaths: list[tuple[int, str]], gap: float) -> list[tuple[int, str]]:
    """Deaths so close that their labels would collide share one line, at the largest N of them."""
    groups: list[list[tuple[int, str]]] = []
    for death in sorted(deaths):
        if groups and death[0] - groups[-1][0][0] < gap:
            groups[-1].append(death)
        else:
            groups.append([death])
    return [(group[-1][0], ", ".join(f"{name}: {sessions}" for sessions, name in group)) for group in groups]


def by_time(axes: Axes, over: dict[str, Any], timeline: list[dict[str, Any]], unit: tuple[float, str]) -> None:
    stack(axes, [row["t_s"] for row in timeline], timeline, over, unit, step="post")
    axes.set_xlim(0, next(phase["end_s"] for phase in over["phases"] if phase["name"] == "resume"))
    style.panel_title(axes, "b", "over time")
    across = axes.get_xaxis_transform()
    for phase in over["phases"]:
        start, end = phase["start_s"], phase["end_s"]
        if phase["name"] == "barrier":
            alive = f"  barrier: {over['barrier']['sessions_alive']} alive"
            axes.axvline(end, color=GREY, linewidth=0.7, linestyle=(0, (4, 2)))
            axes.text(end, 0.83, alive, transform=across, fontsize=7, color="#444444", va="center")
        elif phase["name"] in PHASES:
            words = PHASES[phase["name"]]
            axes.text((start + end) / 2, 0.94, words, transform=across, fontsize=7, ha="center", va="center")
        if phase["name"] == "prefill":
            axes.axvspan(start, end, color="#F4F4F4", zorder=-2, linewidth=0)


def budget_line(axes: Axes, over: dict[str, Any], unit: tuple[float, str]) -> None:
    axes.axhline(over["budget_bytes"] / unit[0], color=BLUE, linewidth=1.1, linestyle=(0, (5, 2)))


def process_strips(pair: Any, over: dict[str, Any], timeline: list[dict[str, Any]], results: dict[str, Any]) -> None:
    """The process's own reading on its own scale: on a CPU it counts the host pool and libraries too."""
    kind = results["raw"]["oversubscription"]["device"]["kind"]
    series = [
        [(row["sessions"], row["process_bytes"]) for row in over["by_n"]],
        [(row["t_s"], row["process_bytes"]) for row in timeline],
    ]
    series = [[(x, y) for x, y in points if y is not None] for points in series]
    largest = max((y for points in series for _, y in points), default=0)
    (scale, name), reading = style.byte_unit(largest), "RSS" if kind == "cpu" else "NVML"
    for axes, points, label in zip(pair, series, ("Sessions paused and alive", "Time (s)"), strict=True):
        axes.set_xlabel(label, labelpad=1.5)
        axes.set_ylim(0, 1.2 * (largest or 1) / scale)
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.set_ylabel(f"{reading} ({name})")
        if points:
            axes.plot([x for x, _ in points], [y / scale for _, y in points], color=GREEN)
        else:
            axes.text(0.02, 0.4, "the server's process could not be read", transform=axes.transAxes, fontsize=7)


def legend(figure: Any, over: dict[str, Any]) -> None:
    rows = [*over["by_n"], *over["timeline"]]
    used = [key for key, _, _ in TIERS if key == "weights" or any(row[key] for row in rows)]
    handles = [Line2D([], [], color=BLACK, label="demand")]
    handles += [Patch(color=colour, linewidth=0, label=label) for key, label, colour in reversed(TIERS) if key in used]
    handles += [
        Line2D([], [], color=BLUE, linestyle=(0, (5, 2)), label="device budget"),
        Line2D([], [], color=GREEN, label="server process"),
        Line2D([], [], **DIED, linestyle=DOTS, label="eager out of memory"),
    ]
    figure.legend(handles=handles, loc="upper center", ncol=3, bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
