"""The systems beside Djinn in the analysis: ratios inside a round, tables in which no cell is empty without its reason."""

from __future__ import annotations

import json

import pytest
from synthetic import change, write_results

from evaluation.combine import combined_of
from evaluation.contenders.contender import PROBES
from evaluation.peers import PEERS
from evaluation.peers_table import NAMES, capabilities, going_on, render, workload
from evaluation.summary import paired


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / "laptop")


def combined(results):
    return combined_of(results / "raw", campaign_of(results))


def campaign_of(results):
    return json.loads((results / "campaign.json").read_text())


def test_a_ratio_is_taken_inside_its_round():
    slow_moment = [10.0, 100.0, 10.0]
    assert paired([2 * s for s in slow_moment], slow_moment) == {"n": 3, "ratio": 2.0, "low": 2.0, "high": 2.0}
    wide = paired([float(i) for i in range(1, 101)], [1.0] * 100)
    assert (wide["ratio"], wide["low"], wide["high"]) == (50.5, 41.0, 61.0)  # ranks 41 and 61 of 100: 95 %
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])


def test_totals_are_compared_with_djinns(results):
    systems = combined(results)["workload"]["systems"]
    assert systems["handswap_pinned"]["over_djinn"]["ratio"] == pytest.approx(1.4)
    assert systems["djinn"]["over_djinn"]["ratio"] == 1
    assert systems["hf_offload"]["over_djinn"] is None
    headline = combined(results)["headline"]
    assert headline["handswap_pinned_over_djinn"]["value"] == pytest.approx(1.4)
    assert headline["djinn_over_vllm"]["value"] == pytest.approx(1 / 0.9)


def test_a_system_whose_own_file_is_missing_keeps_its_ratio(results):
    (results / "raw" / "peer_vllm.json").unlink()
    found = combined(results)["headline"]["djinn_over_vllm"]
    assert found["value"] == pytest.approx(1 / 0.9) and "raw/peer_vllm.json is missing" in found["detail"]


def test_fewer_rounds_of_a_slow_system_are_held_against_as_many_of_djinns(results):
    def once(raw):
        raw["result"]["systems"]["handswap_pinned"].update(seconds=[60.0])

    change(results / "raw" / "workload.json", once)
    found = combined(results)["workload"]
    assert found["systems"]["handswap_pinned"]["over_djinn"]["n"] == 1
    assert "one of a slow one" in "".join(workload(found))


def test_every_system_has_a_row_with_every_cell_filled(results):
    found = combined(results)
    assert list(NAMES) == list(PEERS)
    for rows, first in (
        (capabilities(found["peers"]), 2),
        (workload(found["workload"]), 4),
        (going_on(found["peers"]), 2),
    ):
        body = [row for row in rows[first:] if row.startswith("|")]
        assert len(body) == len(PEERS)
        columns = rows[first - 1].count("|")
        assert all(row.count("|") == columns and "|  |" not in row for row in body), body
    assert sum("not run: made up: none" in row for row in workload(found["workload"])) == 4  # of the empty rows, why


def test_a_system_taken_as_shipped_says_so(results):
    change(results / "raw" / "peer_vllm.json", lambda raw: raw["result"].update(tuning=[], settings_offered=4))
    assert "**tuning skipped**: 4 settings" in render(combined(results))


def test_what_refused_and_what_was_not_run_is_told(results):
    text = render(combined(results))
    assert "not run: FileNotFoundError: made up" in text
    assert text.count("`RuntimeError: made up`") == len(PROBES) * (
        len(PEERS) - 3
    )  # all but Djinn, by hand, and the one not run
    assert "{'batch': 8}: 1.00 s (chosen)" in text and "{'graphs': True}: not run: RuntimeError: no graphs" in text
    assert "edit ÷ plain pass" in text and "own 1.020" in text


def test_a_changed_number_changes_the_table(results):
    before = render(combined(results))
    change(results / "raw" / "workload.json", lambda raw: raw["result"]["systems"]["djinn"].update(seconds=[60.0] * 3))
    assert render(combined(results)) != before
