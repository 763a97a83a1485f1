"""Figure 7, resume latency over the breakpoint layer: every system, `ready` and `logits`, median with p95.

Needs at least one of raw/{recompute,manual_*,djinn_resume}.json. Pauses in prefill; those in decode and the other intervals
are in figure S1, which draws the same panels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.figures import style
from evaluation.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from evaluation.resumes import INTERVALS, phase_of

SERIES = (
    ("recompute", "cold", "recompute", VERMILION, "o", "-"),
    ("manual_pageable", "cold", "manual offload, pageable", PURPLE, "v", (0, (1, 1))),
    ("manual_full", "cold", "manual offload, full", ORANGE, "s", (0, (4, 1.5))),
    ("manual_activation", "cold", "manual offload, activation only", GREEN, "^", (0, (4, 1.5, 1, 1.5))),
    ("djinn", "cold", "Djinn, evicted", BLUE, "D", "-"),
    ("djinn", "warm", "Djinn, on the device", SKY, "D", "-"),
)
WHISKERS: dict[str, Any] = {"elinewidth": 0.7, "capsize": 1.6, "capthick": 0.7}
SHOWN = (("ready_ms", "ready"), ("logits_ms", "logits"))
# fmt: off
HEADER = (
    "phase", "temperature", "system", "layer", "interval", "n", "median_ms", "p95_ms",
    "q25_ms", "q75_ms", "min_ms", "max_ms", "bytes", "plotted", "label",
)
# fmt: on


def draw(combined: Path, out_pdf: Path, out_png: Path, out_csv: Path) -> None:
    results = style.load(combined)
    if not results["resume"]:
        raise style.NothingToDraw(
            "figure 7 needs raw/djinn_resume.json and its baselines: snakemake --forcerun djinn_resume"
        )
    style.write_csv(out_csv, HEADER, rows(results))
    with plt.rc_context(style.RC):
        figure, grid = style.canvas(4.6, 2, 1, sharex=True)
        figure.subplots_adjust(left=0.15, right=0.985, top=0.845, hspace=0.2)
        for letter, (interval, word), axes in zip("ab", SHOWN, grid[:, 0], strict=True):
            panel(axes, results, "prefill", interval)
            mark_crossover(axes, results["crossover"].get(interval, {}).get("cold"))
            style.panel_title(axes, letter, f"{word}, paused in prefill")
            axes.set_ylabel("Latency (ms)")
        grid[1][0].set_xlabel("Breakpoint layer $L$", labelpad=1.5)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncol=2, bbox_to_anchor=(0.5, 1.0), borderaxespad=0.3)
        style.small_print(figure, results, explained(results, "ready and logits both count from the request"))
        style.save(figure, out_pdf, out_png)


def explained(results: dict[str, Any], more: str) -> str:
    tokens = " and ".join(str(count) for count in sorted(set(results["resume_prompt_tokens"].values())))
    return f"{tokens} prompt tokens; points: medians, whiskers: to the 95th percentile; {more}."


def rows(results: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every interval of every system; `plotted` says which are in the picture."""
    table = []
    for name, system in results["resume"].items():
        for phase, kinds in system.items():
            for temperature, layers in kinds.items():
                for layer, row in layers.items():
                    for interval in (each for each in INTERVALS if each in row["intervals"]):
                        numbers = row["intervals"][interval]
                        values = [numbers[key] for key in ("n", "median", "p95", "q25", "q75", "min", "max")]
                        table.append(
                            (
                                phase,
                                temperature,
                                name,
                                int(layer),
                                interval,
                                *values,
                                row["bytes"],
                                int(interval in dict(SHOWN)),
                                "",
                            )
                        )
    for interval, word in SHOWN:
        for temperature, place in results["crossover"].get(interval, {}).items():
            layer = place["measured_layer"] if place["interpolated_layer"] is None else place["interpolated_layer"]
            blank = (None,) * 8
            table.append(
                (
                    "prefill",
                    temperature,
                    "djinn",
                    layer,
                    interval,
                    *blank,
                    int(temperature == "cold"),
                    f"crossover with recompute, {word}",
                )
            )
    return table


def panel(axes: Axes, results: dict[str, Any], phase: str, interval: str) -> None:
    drawn = [series for series in SERIES if phase_of(results["resume"].get(series[0], {}), phase, series[1])]
    rows = [phase_of(results["resume"][series[0]], phase, series[1]) for series in drawn]
    layers = sorted({int(layer) for each in rows for layer in each})
    beside = 0.003 * (layers[-1] - layers[0])  # whiskers of neighbours stand side by side
    for place, (system, temperature, label, colour, marker, line) in enumerate(drawn):
        points = phase_of(results["resume"][system], phase, temperature)
        found = sorted(
            (int(layer), row["intervals"][interval]) for layer, row in points.items() if interval in row["intervals"]
        )
        shift = (place - (len(drawn) - 1) / 2) * beside
        medians = [numbers["median"] for _, numbers in found]
        whiskers = [[0.0] * len(found), [numbers["p95"] - numbers["median"] for _, numbers in found]]
        look = {"color": colour, "marker": marker, "linestyle": line, "label": label}
        look["markerfacecolor"] = "white" if temperature == "warm" else colour
        axes.errorbar([layer + shift for layer, _ in found], medians, yerr=whiskers, **look, **WHISKERS)
    axes.set_yscale("log")
    axes.set_xticks(layers)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=1.5, width=0.4)


def mark_crossover(axes: Axes, place: dict[str, Any] | None) -> None:
    """A line where recompute becomes slower than Djinn with an evicted session, or words that say none."""
    if place is None:
        return
    if place["interpolated_layer"] is not None:
        x, text = place["interpolated_layer"], f"crossover $L$ = {place['interpolated_layer']:.1f}"
    elif place["measured_layer"] is not None:
        x, text = place["measured_layer"], f"crossover $L$ ≤ {place['measured_layer']}"
    else:
        x, text = None, "no crossover with recompute"
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.14)  # headroom for the words
    if x is None:
        axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=7)
        return
    axes.axvline(x, color=BLACK, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    left = x < sum(axes.get_xlim()) / 2
    axes.annotate(
        text,
        (x, 0.99),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3 if left else -3, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top",
        fontsize=7,
    )
