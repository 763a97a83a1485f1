"""Figure S2, steering: what factors from 0 to 2 change, beside the seed's number, and what an edit costs.

Needs raw/steering.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from evaluation.figures import style
from evaluation.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION

SEED = (0.9, 0.39)  # the seed's factor, and the % of "output change" it gives
HEADER = ("panel", "x", "changed_argmax", "relative_l2", "kl", "hook_max_abs", "hook_top1", "share_of_pairs")


def draw(combined: Path, out_pdf: Path, out_png: Path, out_csv: Path) -> None:
    results = style.load(combined)
    steering = results["steering"]
    if steering is None:
        raise style.NothingToDraw("figure S2 needs raw/steering.json: snakemake --forcerun steering")
    style.write_csv(out_csv, HEADER, rows(steering) if steering["enabled"] else [])
    with plt.rc_context(style.RC):
        figure, grid = style.canvas(4.2, 2, 2)
        figure.subplots_adjust(left=0.13, right=0.98, top=0.94, wspace=0.42, hspace=0.55)
        if steering["enabled"]:
            changes(grid[0][0], steering)
            divergence(grid[0][1], steering)
            spread = grid[1][0].get_gridspec()
            for axes in grid[1]:
                axes.remove()
            cost(figure.add_subplot(spread[1, :]), steering)
            words = (
                f"Layer {steering['layer']}, {steering['positions']} positions; a forward hook doing the same edit differs "
                f"by at most {max(row['hook_max_abs'] for row in steering['sweep']):.3g} in any logit."
            )
        else:
            for axes in grid.flat:
                axes.axis("off")
            words = "Steering is off: activation_steering.enabled is false."
        style.small_print(figure, results, words)
        style.save(figure, out_pdf, out_png)


def rows(steering: dict[str, Any]) -> list[tuple[Any, ...]]:
    keys = HEADER[2:7]
    table = [("ab", row["factor"], *(row[key] for key in keys), None) for row in steering["sweep"]]
    ratios = steering["by_pair"]
    return table + [("c", ratio, *(None for _ in keys), number / len(ratios)) for number, ratio in enumerate(ratios, 1)]


def changes(axes: Any, steering: dict[str, Any]) -> None:
    sweep = steering["sweep"]
    factors = [row["factor"] for row in sweep]
    axes.plot(factors, [100 * row["changed_argmax"] for row in sweep], color=BLUE, marker="o", label="best token")
    axes.plot(
        factors,
        [100 * row["relative_l2"] for row in sweep],
        color=ORANGE,
        marker="s",
        linestyle="--",
        label="logits (L2)",
    )
    axes.plot(*SEED, color=VERMILION, marker="x", linestyle="none", markeredgewidth=1.3, label="the seed's 0.39 %")
    axes.set_xlabel("Factor", labelpad=1.5)
    axes.set_ylabel("Changed (%)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", borderaxespad=0.1, handlelength=1.3)
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.03 * top, 1.45 * top)
    style.panel_title(axes, "a", "what changes")


def divergence(axes: Any, steering: dict[str, Any]) -> None:
    """On a logarithmic axis, which has no place for the 0 of factor 1."""
    found = [(row["factor"], row["kl"]) for row in steering["sweep"]]
    for side in ([point for point in found if point[0] < 1], [point for point in found if point[0] > 1]):
        shown = [point for point in side if point[1] > 0]
        if shown:
            axes.plot(*zip(*shown, strict=True), color=BLUE, marker="o")
    axes.set_yscale("log")
    unity = next(row["kl"] for row in steering["sweep"] if row["factor"] == 1.0)
    axes.axvline(1.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
    axes.text(
        1.0,
        0.98,
        f"{unity:g} at 1.0",
        transform=axes.get_xaxis_transform(),
        fontsize=7,
        ha="center",
        va="top",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    axes.set_xlabel("Factor", labelpad=1.5)
    axes.set_ylabel("KL (nats)", labelpad=1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.15)
    style.panel_title(axes, "b", "divergence")


def cost(axes: Any, steering: dict[str, Any]) -> None:
    ratio = steering["edited_over_unedited"]
    axes.axvspan(ratio["low"], ratio["high"], color="#E6E6E6", linewidth=0, zorder=0)
    style.staircase(axes, steering["by_pair"], color=GREEN)
    axes.axvline(1.0, color=BLACK, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    bounds = f"95 % bounds {ratio['low']:.3f}–{ratio['high']:.3f}"
    axes.set_xlabel(
        f"Edited / unedited: median {ratio['ratio']:.3f}, {bounds}, {ratio['n']} pairs",
        fontsize=style.SMALL,
        labelpad=1.5,
    )
    axes.set_ylabel("Share of pairs")
    style.panel_title(axes, "c", "what an edit costs, request to logits")
