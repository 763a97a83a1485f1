"""One look for every figure: print size, colour-blind safe (Okabe-Ito), embedded fonts, no dates inside."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a server; before pyplot, by any module of this package
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from PIL import Image

from evaluation.answers import machines_of, weights_of

COLUMN = (
    3.33  # width (inches) of a column of a two-column paper: every figure is drawn at that size, no text below 7 pt
)
SMALL = 7.0  # pt
PNG_COLOURS = 128  # a palette: a third of the bytes, and nothing to be seen of it
LABELS = 0.36  # inches that the lowest panel's ticks and label take
EDGE = 2.0  # pt that small print keeps from either edge
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY, PALE = "#7F7F7F", "#D9D9D9"
HALO = [withStroke(linewidth=2.0, foreground="white")]

RC = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],  # comes with matplotlib: the same letters on every machine
    "mathtext.fontset": "stix",
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "legend.columnspacing": 0.9,
    "legend.handletextpad": 0.4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "pdf.fonttype": 42,  # TrueType, so that publishers' checks pass and text can be selected
    "ps.fonttype": 42,
    "svg.hashsalt": "djinn",
}


class NothingToDraw(ValueError):
    """combined.json lacks what the figure is about; the message names the rule to run."""


def load(combined: Path) -> dict[str, Any]:
    return json.loads(combined.read_text())


def canvas(height: float, rows: int, columns: int, **layout: Any) -> tuple[Figure, Any]:
    """A figure of a column's width and that height (inches) with a grid of axes; call inside `plt.rc_context(RC)`."""
    return plt.subplots(rows, columns, figsize=(COLUMN, height), squeeze=False, **layout)


def save(figure: Figure, out_pdf: Path, out_png: Path) -> None:
    """Vector PDF and 300 dpi PNG, without dates or versions in them; the PNG in as few colours as these drawings have."""
    for path in (out_pdf, out_png):
        path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_pdf, metadata={"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None})
    figure.savefig(out_png, dpi=300)
    plt.close(figure)
    with Image.open(out_png) as drawn:
        drawn.convert("RGB").quantize(PNG_COLOURS).save(out_png, optimize=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """What is plotted, in full precision; an empty field is a value that does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def byte_unit(largest: float) -> tuple[float, str]:
    """The unit in which the largest value of an axis reads well; decimal, as everywhere here."""
    return (1e9, "GB") if largest >= 2e9 else (1e6, "MB")


def panel_title(axes: Axes, letter: str, text: str) -> None:
    axes.set_title(f"({letter}) {text}", loc="left", pad=4)


def small_print(figure: Figure, results: dict[str, Any], extra: str = "") -> None:
    """Under the figure: what it was measured on, and what a reader must be warned of. The panels make room for its lines."""
    campaign = results["campaign"]
    stamp = next(iter(results["raw"].values()))
    weights, device = stamp["weights"] or {}, stamp["device"]
    facts = [
        f"{campaign['scale']} scale",
        f"{weights.get('name')} ({weights.get('source')} weights, {weights.get('dtype')})",
        str(device.get("name") or device["kind"]),
        f"campaign {campaign['id']}",
        f"commit {campaign['commit'][:10]}" + (" + uncommitted changes" if results["dirty"] else ""),
    ]
    mixed = {
        "commits": results["mixed_commits"],
        "config": results["mixed_config"],
        "machines": len(machines_of(results)) > 1,
        "weights": len(weights_of(results)) > 1,
    }
    if any(mixed.values()):
        facts.append("MIXED " + " and ".join(kind for kind, so in mixed.items() if so))
    lines = [line for text in (extra, "\N{NO-BREAK SPACE}· ".join(facts)) if text for line in _wrapped(text)]
    room = (len(lines) * 1.2 * SMALL / 72 + LABELS) / figure.get_figheight()
    for grid in {axes.get_subplotspec().get_topmost_subplotspec().get_gridspec() for axes in figure.axes}:
        grid.update(bottom=room)
    figure.text(
        0.5,
        0.004,
        "\n".join(lines),
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color="#555555",
        linespacing=1.15,
    )


def _wrapped(text: str) -> list[str]:
    """Lines of small print that fit the column, by the widths of their letters; call inside `plt.rc_context(RC)`."""
    font, lines = FontProperties(size=SMALL), []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_to_path.get_text_width_height_descent(longer, font, False)[0] <= 72 * COLUMN - 2 * EDGE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def staircase(axes: Axes, ratios: Sequence[float], **look: Any) -> None:
    """The share of pairs up to each ratio: every single pair is a step."""
    steps = [0.0, *(number / len(ratios) for number in range(1, len(ratios) + 1))]
    axes.step([ratios[0], *ratios], steps, where="post", **look)
