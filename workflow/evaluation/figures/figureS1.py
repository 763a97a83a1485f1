"""Figure S1, the other intervals of a resume: pauses in decode, first layer, residency, and what the client sees.

Needs what figure 7 needs, and draws its panels smaller; the CSV holds the rows that are drawn here.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from evaluation.figures import figure7, style
from evaluation.resumes import phase_of

PANELS = (  # phase, interval, title
    ("decode", "ready_ms", "ready, in decode"),
    ("decode", "logits_ms", "logits, in decode"),
    ("prefill", "first_layer_ms", "first layer"),
    ("prefill", "resident_ms", "all KV resident"),
    ("prefill", "client_ms", "seen by the client"),
)


def draw(combined: Path, out_pdf: Path, out_png: Path, out_csv: Path) -> None:
    results = style.load(combined)
    if not results["resume"]:
        raise style.NothingToDraw(
            "figure S1 needs raw/djinn_resume.json and its baselines: snakemake --forcerun djinn_resume"
        )
    drawn = {(phase, interval) for phase, interval, _ in PANELS}
    table = [row for row in figure7.rows(results) if (row[0], row[4]) in drawn]
    style.write_csv(out_csv, figure7.HEADER, table)
    with plt.rc_context(style.RC | {"axes.titlesize": style.SMALL, "lines.markersize": 2.8, "lines.linewidth": 1.0}):
        figure, grid = style.canvas(5.4, 3, 2, sharex=True)
        figure.subplots_adjust(left=0.135, right=0.985, top=0.965, wspace=0.27, hspace=0.25)
        spots = list(grid.flat)
        for letter, (phase, interval, title), axes in zip("abcde", PANELS, spots, strict=False):
            style.panel_title(axes, letter, title)
            if any(
                interval in row["intervals"]
                for system, temperature, *_ in figure7.SERIES
                for row in phase_of(results["resume"].get(system, {}), phase, temperature).values()
            ):
                figure7.panel(axes, results, phase, interval)
            else:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", fontsize=style.SMALL)
        for axes in grid[:, 0]:
            axes.set_ylabel("Latency (ms)")
        for axes in (grid[2][0], grid[1][1]):
            axes.set_xlabel("Breakpoint layer $L$", labelpad=1.5)
        grid[1][1].tick_params(labelbottom=True)
        handles = {
            label: handle for axes in spots[:5] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        spots[5].axis("off")
        spots[5].legend(
            handles.values(), handles.keys(), loc="lower right", bbox_to_anchor=(1.06, -0.1), handlelength=1.4
        )
        style.small_print(figure, results, figure7.explained(results, "(c) to (e) are of pauses in prefill"))
        style.save(figure, out_pdf, out_png)
