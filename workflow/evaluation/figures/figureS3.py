"""Figure S3, interference: how much copies of checkpoints slow others, pair by pair. Needs raw/checkpoint_cost.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from evaluation.figures import style
from evaluation.figures.style import BLACK, BLUE, ORANGE, VERMILION

WORK = (("prefill", "prefill", BLUE), ("decode", "decode, a token", ORANGE))
HEADER = ("work", "slowdown", "share_of_pairs", "label")
PROMISED = 1.01  # the seed: less than 1 % overhead


def draw(combined: Path, out_pdf: Path, out_png: Path, out_csv: Path) -> None:
    results = style.load(combined)
    cost = results["checkpoint_cost"]
    if cost is None:
        raise style.NothingToDraw("figure S3 needs raw/checkpoint_cost.json: snakemake --forcerun checkpoint_cost")
    style.write_csv(out_csv, HEADER, rows(cost))
    with plt.rc_context(style.RC):
        figure, grid = style.canvas(4.0, 2, 1)
        figure.subplots_adjust(left=0.13, right=0.97, top=0.94, hspace=0.55)
        for letter, (work, label, colour), axes in zip("ab", WORK, grid[:, 0], strict=True):
            panel(axes, cost["interference"][work], colour)
            times = cost["interference"][work]
            alone, beside = (times[f"{way}_ms"]["median"] for way in ("alone", "beside"))
            style.panel_title(axes, letter, f"{label}: {alone:.3g} ms alone, {beside:.3g} ms beside copies")
            axes.set_ylabel("Share of pairs")
        style.small_print(
            figure,
            results,
            f"{cost['prompt_tokens']} tokens; sessions with {cost['checkpoints']} checkpoints were copied during "
            f"{100 * cost['busy']['median']:.0f} % of the time beside copies. Grey: 95 % bounds of the median.",
        )
        style.save(figure, out_pdf, out_png)


def rows(cost: dict[str, Any]) -> list[tuple[Any, ...]]:
    table: list[tuple[Any, ...]] = []
    for work, _, _ in WORK:
        found = cost["interference"][work]
        pairs = found["by_pair"]
        table += [(work, ratio, number / len(pairs), "") for number, ratio in enumerate(pairs, 1)]
        table += [(work, found["slowdown"][key], None, f"median: {key}") for key in ("ratio", "low", "high")]
    return table


def panel(axes: Any, found: dict[str, Any], colour: str) -> None:
    ratio = found["slowdown"]
    axes.axvspan(ratio["low"], ratio["high"], color="#E6E6E6", linewidth=0, zorder=0)
    style.staircase(axes, found["by_pair"], color=colour)
    axes.axvline(1.0, color=BLACK, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.axvline(PROMISED, color=VERMILION, linewidth=0.9, linestyle=(0, (4, 1.5)))
    axes.annotate(
        "+1 %",
        (PROMISED, 0.97),
        xycoords=axes.get_xaxis_transform(),
        xytext=(2, 0),
        textcoords="offset points",
        fontsize=7,
        color=VERMILION,
        va="top",
        path_effects=style.HALO,
    )
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # which have 1, alone, among them
    axes.set_xlabel(
        f"Beside / alone: median {percent(ratio['ratio'])}, upper 95 % bound {percent(ratio['high'])}, {ratio['n']} pairs",
        fontsize=style.SMALL,
        labelpad=1.5,
    )
    axes.set_ylim(0, 1)


def percent(ratio: float) -> str:
    """A slowdown as text: 1.133 is +13.3 %."""
    return f"{100 * (ratio - 1):+.1f} %"
