"""The speed rows: what the table makes of raw results; and that a group measures and tells, tiny and on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.metal import table
from benchmarks.metal.bench import Bench
from benchmarks.metal.report import Report
from benchmarks.metal.rivals import job_of
from benchmarks.metal.row import Row
from benchmarks.metal.rows import rows
from benchmarks.metal.samples import Missing, read
from benchmarks.metal.setting import PAPER, TINY, read_variant

ROOT = Path(__file__).parent.parent


def raw(folder, group, samples, facts=None, setting=PAPER):
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": "metal",
        "group": group,
        "started": "2000-01-01T00:00:00+00:00",
        "commit": "c" * 40,
        "dirty": False,
        "device": {"name": "a card"},
        "versions": {"torch": "2", "transformers": "5"},
        "settings": setting.as_dict(),
        "samples": {name: {"unit": "ms", "values": values} for name, values in samples.items()},
        "facts": facts or {},
        "failed": {},
    }
    (folder / f"{group}-{setting.variant}.json").write_text(json.dumps(content))


def found(tmp_path, wanted, *folders, variant=""):
    runs = read([tmp_path / folder for folder in folders])[variant]
    return {one.row.id: one for one in table.lines(runs)}.get(wanted)


def test_rivals_get_the_budget_that_the_server_gets():
    job = job_of(Bench(TINY), 2, TINY.session_tokens, {"batch": 1})
    assert job.device_budget == job.given_out == TINY.budget and len(job.prompts) == 2
    assert 0 < job.kv_room < TINY.budget


def test_every_row_has_its_own_id():
    ids = [row.id for row in rows(PAPER.as_dict())]
    assert len(ids) == len(set(ids)) and {"resume.ready@20.p99", "oversub.vs_handswap@pinned", "decode.batch25"} <= set(
        ids
    )


def test_a_value_is_the_median_over_runs_and_is_held_or_missed(tmp_path):
    for run, ready in (("1", 0.5), ("2", 0.55), ("3", 0.9)):
        raw(tmp_path / run, "resume", {"resume.ready@20": [ready] * 200})
    one = found(tmp_path, "resume.ready@20", "1", "2", "3")
    assert one.values == (0.5, 0.55, 0.9) and one.value == 0.55 and one.verdict == "held"
    assert found(tmp_path, "resume.ready@20", "3").verdict == "missed"


def test_a_ratio_is_taken_pair_by_pair(tmp_path):
    samples = {"executor.prefill_ms@1600": [80, 160, 240], "executor.plain_ms@1600": [100, 200, 300]}
    raw(tmp_path / "1", "prefill", samples)
    assert found(tmp_path, "executor.prefill@1600", "1").value == pytest.approx(0.8)


def test_a_tail_of_few_samples_is_not_called_p99(tmp_path):
    raw(tmp_path / "1", "resume", {"resume.ready@20": [0.5] * 30})
    cells = table.cells(found(tmp_path, "resume.ready@20", "1"), {})
    assert "/" not in cells[6] and "n = 30" in cells[6]


def test_a_rival_of_another_run_serves_and_alone_makes_no_row(tmp_path):
    raw(tmp_path / "1", "oversub", {"oversub.n50_1600.total": [4.0]})
    raw(tmp_path / "2", "vllm", {"vllm.total_s@50": [3.66]})
    one = found(tmp_path, "oversub.total", "1", "2")
    assert one.value == pytest.approx(4.0 / 3.66)
    assert found(tmp_path, "oversub.total", "2") is None


def test_a_variant_has_a_table_of_its_own_with_the_others_baselines(tmp_path):
    raw(tmp_path / "1", "resume", {"resume.ready@20": [0.5] * 30, "recompute.ready_ms@20": [50.0] * 30})
    raw(tmp_path / "1", "resume", {"resume.ready@20": [5.0] * 30}, setting=replace(PAPER, variant="slow"))
    assert found(tmp_path, "resume.ready.vs_recompute@20", "1").value == 100
    assert found(tmp_path, "resume.ready.vs_recompute@20", "1", variant="slow").value == 10


def test_what_is_missing_is_said(tmp_path):
    raw(tmp_path / "1", "oversub", {"oversub.n50_1600.total": [4.0]})
    runs = read([tmp_path / "1"])[""]
    assert "resume.ready@20" in table.missing(runs[0].raws[0]["settings"], runs)
    with pytest.raises(Missing):
        runs[0].median("resume.ready@20")


def test_the_markdown_keeps_what_people_wrote_around_it(tmp_path, monkeypatch):
    raw(tmp_path / "1", "resume", {"resume.ready@20": [0.5] * 30})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.MARKS[0]}\nstale\n{table.MARKS[1]}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["table", "--markdown", str(page), str(tmp_path / "1")])
    table.main()
    text = page.read_text()
    assert (
        text.startswith("before\n")
        and text.endswith("\nafter\n")
        and "| resume.ready@20 |" in text
        and "stale" not in text
    )


def test_a_raw_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"benchmark": "pausing"}')
    with pytest.raises(ValueError, match="not a raw file"):
        read([tmp_path])


def test_a_variant_is_read():
    assert read_variant("plain:write_through=false,decode_rows=8,mode=x") == (
        "plain",
        {"write_through": False, "decode_rows": 8, "mode": "x"},
    )
    assert read_variant("slow:without=graphs+compiling")[1] == {"without": ("graphs", "compiling")}
    assert read_variant("slow:without=graphs") == ("slow", {"without": ("graphs",)})
    for wrong in (":a=1", "name:a"):
        with pytest.raises(ValueError):
            read_variant(wrong)


def test_a_row_that_fails_is_kept_and_the_others_go_on(tmp_path):
    report = Report(tmp_path, "group", TINY)
    assert not report.attempt("bad", lambda: 1 / 0)
    assert report.attempt("good", lambda: report.samples("x", [1.0, 2.0, 3.0], "ms"))
    kept = json.loads((tmp_path / "group.json").read_text())
    assert "ZeroDivisionError" in kept["failed"]["bad"] and kept["samples"]["x"]["values"] == [1.0, 2.0, 3.0]


def test_a_sizes_arithmetic_is_that_of_the_model():
    assert (PAPER.weights_bytes, PAPER.shape.kv_bytes(1)) == (26_031_728_640, 819_200)


def test_a_row_without_a_target_is_reported():
    row = Row("x", "", "ms", "", None, lambda run: 1.0)
    assert row.holds(1.0) is None


@pytest.mark.slow
def test_groups_measure_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.metal", "--scale", "tiny", "--out", str(tmp_path / "1")]
    subprocess.run([*command, "--rows", "ceilings,resume,oversub", "--oversub", "16x64"], check=True)
    runs = read([tmp_path / "1"])[""]
    ids = {one.row.id for one in table.lines(runs)}
    assert {"resume.ready@4", "resume.logits@4", "resume.resident@4", "oversub.n16_64"} <= ids
    assert runs[0].fact("oversub.n16_64.bit_equal")["equal"] == 16


@pytest.mark.parametrize(("page", "card"), [("performance.md", "h100-80gb"), ("performance-h200.md", "h200-141gb")])
def test_a_cards_page_says_what_its_raw_files_say(page, card):
    runs = sorted((ROOT / "results" / "reference" / card / "metal").iterdir())
    made = table.tables(read(runs), yaml.safe_load(table.PREDICTIONS.read_text()), table.markdown)
    begin, end = table.MARKS
    kept = (ROOT / "docs" / page).read_text().partition(begin)[2].partition(end)[0]
    assert kept.strip() == made.strip(), "python -m benchmarks.metal.table --markdown writes it anew"
