"""The figures: the same bytes from the same data, fonts embedded, and a CSV of what is drawn."""

import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text
from synthetic import change, write_results

from evaluation.combine import combine
from evaluation.figures import FIGURES, figure6, figure7, figureS1, figureS2, figureS3, style
from evaluation.figures.style import NothingToDraw, byte_unit


def combined(results: Path) -> Path:
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    return results / "combined.json"


def drawn(figure, source: Path, out: Path) -> list[Path]:
    paths = [out / f"{figure.__name__.rsplit('.', 1)[-1]}.{kind}" for kind in ("pdf", "png", "csv")]
    figure.draw(source, *paths)
    return paths


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return combined(write_results(tmp_path_factory.mktemp("whole") / "laptop"))


EVERY = [figure6, figure7, figureS1, figureS2, figureS3]


def test_a_figure_of_two_machines_says_so(tmp_path: Path) -> None:
    results = write_results(tmp_path / "laptop")
    change(results / "raw" / "eager.json", lambda raw: raw["device"].update(cores=16))
    figure, _ = plt.subplots()
    style.small_print(figure, json.loads(combined(results).read_text()))
    assert "MIXED machines" in figure.texts[0].get_text()
    plt.close(figure)


def test_every_figure_has_a_module_of_its_name() -> None:
    assert [figure.__name__.rsplit(".", 1)[-1] for figure in EVERY] == list(FIGURES)


@pytest.mark.parametrize("figure", EVERY)
def test_a_figure_is_a_column_wide_and_has_no_text_below_seven_points(
    figure, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(style, "save", lambda made, *paths: kept.append(made))
    drawn(figure, whole, tmp_path)
    (made,) = kept
    assert made.get_size_inches()[0] == style.COLUMN
    with plt.rc_context(style.RC):  # where the generic font is chosen
        made.canvas.draw()
    texts = [text for text in made.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 7
    ticks = {
        label for axes in made.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels(which="both")
    }
    for text in set(texts) - ticks:  # those outside an axis' limits are not drawn
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= made.bbox.width and box.y0 >= 0 and box.y1 <= made.bbox.height, text.get_text()
    plt.close(made)


@pytest.mark.parametrize("figure", EVERY)
def test_twice_drawn_is_the_same_bytes_with_fonts_and_without_a_date(figure, whole: Path, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in drawn(figure, whole, tmp_path / "one")]
    second = [path.read_bytes() for path in drawn(figure, whole, tmp_path / "two")]
    assert first == second
    pdf, png, _ = first
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert png.startswith(b"\x89PNG")


def test_figure6_csv_is_what_the_raw_file_says(whole: Path, tmp_path: Path) -> None:
    over = json.loads(whole.read_text())["oversubscription"]
    lines = table(drawn(figure6, whole, tmp_path)[2])
    stacked = [line for line in lines if line["panel"] == "a" and not line["label"]]
    assert [int(line["device_bytes"]) for line in stacked] == [row["device_bytes"] for row in over["by_n"]]
    assert [int(line["demand_bytes"]) for line in stacked] == [row["demand_bytes"] for row in over["by_n"]]
    died = {line["label"]: int(line["x"]) for line in lines if "out of memory" in line["label"]}
    assert died == {
        "eager default out of memory": 29,
        "eager mmap64k out of memory": 38,
        "eager arena1 out of memory": 30,
    }
    timed = [line for line in lines if line["panel"] == "b" and not line["label"]]
    assert [float(line["x"]) for line in timed] == [row["t_s"] for row in over["timeline"]]


def test_figure7_csv_holds_every_interval_and_the_crossover(whole: Path, tmp_path: Path) -> None:
    results = json.loads(whole.read_text())
    lines = table(drawn(figure7, whole, tmp_path)[2])
    for line in (line for line in lines if line["bytes"]):
        row = results["resume"][line["system"]][line["phase"]][line["temperature"]][line["layer"]]["intervals"]
        assert float(line["median_ms"]) == row[line["interval"]]["median"]
        assert float(line["p95_ms"]) == row[line["interval"]]["p95"]
    assert {line["interval"] for line in lines} >= {
        "ready_ms",
        "first_layer_ms",
        "logits_ms",
        "resident_ms",
        "client_ms",
    }
    assert any(line["label"] == "crossover with recompute, ready" for line in lines)


def test_what_is_missing_is_left_out_or_named(tmp_path: Path) -> None:
    few = combined(
        write_results(tmp_path / "few", without=("eager", "manual_activation", "manual_pageable", "recompute"))
    )
    drawn(figure6, few, tmp_path)
    drawn(figure7, few, tmp_path)
    resumes = ("djinn_resume", "manual_activation", "manual_full", "manual_pageable", "recompute")
    none = combined(
        write_results(tmp_path / "none", without=("oversubscription", "steering", "checkpoint_cost", *resumes))
    )
    nothing = (
        (figure6, "raw/oversubscription.json"),
        (figure7, "raw/djinn_resume.json"),
        (figureS1, "raw/djinn_resume.json"),
        (figureS2, "raw/steering.json"),
        (figureS3, "raw/checkpoint_cost.json"),
    )
    for figure, words in nothing:
        with pytest.raises(NothingToDraw, match=words):
            drawn(figure, none, tmp_path)


def test_the_supplement_holds_what_combined_says(whole: Path, tmp_path: Path) -> None:
    results = json.loads(whole.read_text())
    swept = [line for line in table(drawn(figureS2, whole, tmp_path)[2]) if line["panel"] == "ab"]
    assert [float(line["kl"]) for line in swept] == [row["kl"] for row in results["steering"]["sweep"]]
    lines = table(drawn(figureS3, whole, tmp_path)[2])
    for work, found in results["checkpoint_cost"]["interference"].items():
        own = [line for line in lines if line["work"] == work]
        assert [float(line["slowdown"]) for line in own if not line["label"]] == found["by_pair"]
        assert float(own[-1]["slowdown"]) == found["slowdown"]["high"]
    kinds = {(line["phase"], line["interval"]) for line in table(drawn(figureS1, whole, tmp_path)[2])}
    assert kinds == {(phase, interval) for phase, interval, _ in figureS1.PANELS}


def test_steering_that_is_off_is_a_figure_that_says_so(tmp_path: Path) -> None:
    results = write_results(tmp_path / "off")
    change(results / "raw" / "steering.json", lambda raw: raw.update(result={"enabled": False}))
    paths = drawn(figureS2, combined(results), tmp_path)
    assert all(path.stat().st_size for path in paths) and not table(paths[2])


def test_deaths_at_nearly_the_same_n_share_a_label() -> None:
    assert figure6.grouped([(38, "b"), (29, "a"), (30, "c")], gap=2) == [(30, "a: 29, c: 30"), (38, "b: 38")]


def test_byte_units_are_decimal() -> None:
    assert byte_unit(900e6) == (1e6, "MB") and byte_unit(92e9) == (1e9, "GB")
