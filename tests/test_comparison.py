"""Two campaigns held against each other: what is better, worse, the same, and in one of them only."""

import gzip
import json
import random
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation.campaign import CampaignError
from evaluation.claims import evaluate
from evaluation.combine import combine
from evaluation.comparison.command import find, main
from evaluation.comparison.rows import changed, measured
from evaluation.comparison.samples import sampled

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"


def campaign(folder: Path, name: str, factor: float = 1.0, without: tuple[str, ...] = ()) -> Path:
    """A made-up campaign whose every cold resume takes `factor` times as long."""
    results = write_results(folder, campaign=f"20000101-{name}", without=without)
    change(results / "campaign.json", lambda facts: facts.update(name=name))

    def slower(raw: dict) -> None:
        for case in raw["result"]["cases"]:
            for sample in case["samples"]:
                sample["ready_ms"] *= factor if case["temperature"] == "cold" else 1.0

    change(results / "raw" / "djinn_resume.json", slower)
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
    return results


def raws(folder: Path) -> dict:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "raw").glob("*.json"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results of mine")
    campaign(made / "campaigns" / "20000101-before", "before")
    campaign(made / "laptop", "after", 1.5, without=("peer_nnsight",))
    return made


@pytest.fixture(scope="module")
def rows(root: Path) -> dict:
    found = measured(raws(root / "campaigns" / "20000101-before"), raws(root / "laptop"))
    return {(row.rule, row.name): row for row in found}


def test_what_takes_longer_is_worse_and_what_does_not_is_the_same(rows: dict) -> None:
    slow = rows["djinn_resume", "prefill cold L=15 ready_ms"]
    assert slow.verdict == "worse" and slow.ratio == pytest.approx(1.5) and 1 < slow.low < 1.5 < slow.high
    assert rows["djinn_resume", "prefill warm L=15 ready_ms"].verdict == "same"
    assert rows["recompute", "decode L=30 logits_ms"].verdict == "same"


def test_the_other_way_round_it_is_better(root: Path) -> None:
    found = measured(raws(root / "laptop"), raws(root / "campaigns" / "20000101-before"))
    verdicts = {row.name: row.verdict for row in found if row.rule == "djinn_resume"}
    assert verdicts["prefill cold L=15 ready_ms"] == "better" and verdicts["prefill warm L=15 ready_ms"] == "same"


def test_a_rule_of_one_campaign_is_only_there(rows: dict) -> None:
    row = rows["peer_nnsight", "continued.ms.offloaded"]
    assert row.verdict == "only in A" and row.a == 41.0 and row.b is None


def test_a_few_samples_get_a_ratio_and_no_verdict(rows: dict) -> None:
    three = rows["workload", "systems.djinn.seconds"]
    assert three.verdict == "few samples" and three.ratio == 1.0 and three.low is None


def test_a_change_within_the_spread_is_the_same() -> None:
    noise = random.Random(1)
    one, other = ({"rule": {"result": {"wait_ms": [noise.lognormvariate(0, 0.3) for _ in range(30)]}}} for _ in "AB")
    (row,) = measured(one, other)
    assert row.ratio != 1.0 and row.low < 1 < row.high and row.verdict == "same"
    other["rule"]["result"]["wait_ms"] = [0.0] * 30
    assert measured(other, one)[0].verdict == "no ratio"


def test_every_list_of_times_is_found_whatever_the_rule() -> None:
    result = {
        "dispatch_ms": [1, 2],
        "edited": {"ms": {"plain": [3.0]}},
        "systems": {"djinn": {"seconds": [4.0], "tokens": [1, 2, 3]}},
        "layers": [1, 8],
        "settings": [{"name": "mmap64k", "curve": [{"sessions": 1}], "wait_s": [5.0]}],
        "cases": [
            {"phase": "decode", "temperature": "none", "layer": 8, "samples": [{"ready_ms": 6.0, "client_ms": None}]}
        ],
        "timeline": [{"t_s": 0.1}],
    }
    assert dict(sampled(result)) == {
        "dispatch_ms": [1.0, 2.0],
        "edited.ms.plain": [3.0],
        "systems.djinn.seconds": [4.0],
        "mmap64k wait_s": [5.0],
        "decode L=8 ready_ms": [6.0],
    }


def test_what_was_not_the_same_is_named_once(root: Path) -> None:
    one, other = raws(root / "laptop"), raws(root / "laptop")
    for raw in other.values():
        raw["settings"]["threads"] = 2
        raw["versions"]["torch"] = "2.14.0"
    assert {(each.key, each.a, each.b) for each in changed(one, other)} == {
        ("threads", "1", "2"),
        ("versions.torch", "2.13.0", "2.14.0"),
    }
    assert changed(one, one) == []


def test_the_table_shows_what_changed_and_all_of_it_when_asked(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["before", "after", "--results", str(root)]) == 0
    text = capsys.readouterr().out
    assert "prefill cold L=15 ready_ms" in text and "prefill warm L=15 ready_ms" not in text
    assert "restore_p50" in text and "reproduced → not reproduced" in text and "eager_fair" not in text
    assert main(["before", "after", "--results", str(root), "--all"]) == 0
    text = capsys.readouterr().out
    assert "prefill warm L=15 ready_ms" in text and "eager_fair" in text


def test_a_campaign_is_found_by_folder_file_id_and_name(root: Path) -> None:
    for which in (str(root / "laptop"), str(root / "laptop" / "combined.json"), "20000101-after", "after"):
        assert find(which, root) == root / "laptop"
    with pytest.raises(CampaignError, match=r"no campaign 'afer'.*20000101-after after"):
        find("afer", root)
    with pytest.raises(CampaignError, match="none"):
        find("after", root / "nothing")


def test_two_campaigns_of_one_name_must_be_told_apart(tmp_path: Path) -> None:
    for folder in ("laptop", "smoke"):
        write_results(tmp_path / folder, campaign=f"of-{folder}")
    with pytest.raises(CampaignError, match="of-laptop or of-smoke"):
        find("made up", tmp_path)


def test_an_unfinished_campaign_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = write_results(tmp_path / "laptop")
    assert main([str(results), str(results)]) == 2
    said = capsys.readouterr().err
    assert "lacks claims.json: run snakemake" in said and f"python -m evaluation.redraw {results}\n" in said
    for path in (results / "raw").iterdir():
        path.unlink()
    assert main([str(results), str(results)]) == 2
    assert "no measurement" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["raw/eager.json", "raw/eager.json.gz", "claims.json", "campaign.json"])
def test_a_file_that_was_cut_short_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    results = campaign(tmp_path / "laptop", "before")
    raw = results / "raw" / "eager.json"
    if name.endswith(".gz"):
        (results / name).write_bytes(gzip.compress(raw.read_bytes()))
        raw.unlink()
    (results / name).write_bytes((results / name).read_bytes()[:-100])
    for which in (str(results), "before"):  # a name is looked up in every campaign.json
        assert main([which, which, "--results", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"djinn compare: {results / name} is not a whole")
