"""Every claim in config/claims.yaml can be answered; a wrong one is an error that says what is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from synthetic import change, write_results

from benchmarks.metal.rows import rows
from benchmarks.metal.setting import PAPER
from evaluation.claims import ClaimsError, evaluate, load, resolve
from evaluation.combine import combined_of

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"
REFERENCE = CLAIMS.parent.parent / "results" / "reference"
KEYS = {"id", "statement", "value", "unit", "op", "target", "met", "verdict", "reason", "source"}
GOOD = {
    "id": "one",
    "statement": "it is so",
    "source": ["oversubscription"],
    "value": "headline.total_s",
    "unit": "s",
    "op": "<=",
    "target": 78,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    results = write_results(tmp_path_factory.mktemp("whole") / "laptop")
    return combined_of(results / "raw", json.loads((results / "campaign.json").read_text()))


def answers(tmp_path: Path, results: dict, claims: list[dict] | None = None) -> dict[str, dict]:
    (tmp_path / "combined.json").write_text(json.dumps(results))
    source = CLAIMS
    if claims is not None:
        source = tmp_path / "claims.yaml"
        source.write_text(yaml.safe_dump(claims))
    evaluate(tmp_path / "combined.json", source, tmp_path / "claims.json", tmp_path / "claims.md")
    return {one["id"]: one for one in json.loads((tmp_path / "claims.json").read_text())}


def test_every_claim_of_the_seed_is_answered_from_a_whole_campaign(tmp_path: Path, whole: dict) -> None:
    made = answers(tmp_path, whole)
    markdown = (tmp_path / "claims.md").read_text()
    for claim in load(CLAIMS):
        one = made[claim.id]
        assert one.keys() >= KEYS
        assert one["reason"] and claim.statement in markdown and f"**{claim.id}**" in markdown
        resolve(claim.value, whole, claim.id)
        assert (one["verdict"] == "not run") == (claim.scales == ["paper"])
    assert made["demand_over_budget"]["verdict"] == "reproduced"
    assert made["steering_change"]["verdict"] == "not reproduced" and "3.1 %" in made["steering_change"]["reason"]
    assert made["eager_dies_first"]["target"] == 50
    assert made["eager_dies_first"]["source"] == "raw/eager.json, raw/oversubscription.json"


def test_without_raw_files_claims_are_not_run_and_say_which_file(tmp_path: Path) -> None:
    results = write_results(tmp_path / "laptop", without=("oversubscription", "djinn_resume"))
    made = answers(tmp_path, combined_of(results / "raw", json.loads((results / "campaign.json").read_text())))
    for name, file in (
        ("total_workload", "oversubscription"),
        ("ready_flat", "djinn_resume"),
        ("eager_dies_first", "oversubscription"),
    ):
        assert made[name]["verdict"] == "not run" and made[name]["met"] is None and made[name]["value"] is None
        assert f"raw/{file}.json is missing" in made[name]["reason"]
    assert made["recompute_grows"]["verdict"] == "reproduced"


def test_an_empty_campaign_is_all_not_run(tmp_path: Path) -> None:
    results = write_results(tmp_path / "laptop")
    for path in (results / "raw").iterdir():
        path.unlink()
    made = answers(tmp_path, combined_of(results / "raw", json.loads((results / "campaign.json").read_text())))
    assert {one["verdict"] for one in made.values()} == {"not run"}


@pytest.mark.parametrize(
    ("edit", "verdict"),
    [
        ({}, "reproduced"),
        ({"better_at": 60}, "better"),
        (
            {"better_at": 60, "absolute": True},
            "reproduced",
        ),  # another machine than the seed's is never "better"
        ({"better_at": 10}, "reproduced"),
        ({"target": 20, "note": "too slow"}, "not reproduced"),
        ({"op": "~", "target": 50, "tolerance": 0.1}, "reproduced"),
        ({"op": "~", "target": 40, "tolerance": 0.1}, "not reproduced"),
        ({"op": "==", "target": "headline.total_s"}, "reproduced"),
        ({"scales": ["paper"]}, "not run"),
        ({"value": "oversubscription.seconds.total"}, "reproduced"),
    ],
)
def test_verdicts(tmp_path: Path, whole: dict, edit: dict, verdict: str) -> None:
    one = answers(tmp_path, whole, [GOOD | edit])["one"]
    assert one["verdict"] == verdict
    assert one["met"] is {"reproduced": True, "better": True, "not reproduced": False, "not run": None}[verdict]
    if verdict == "not reproduced":
        assert "53.4 s" in one["reason"] and edit.get("note", "") in one["reason"]
    if edit.get("absolute"):
        assert "not like for like" in one["reason"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"targett": 3}, "unknown key 'targett', did you mean 'target'"),
        ({"op": "=>"}, "op: .*got '=>'"),
        ({"unit": "furlongs"}, "unit"),
        ({"value": "headline.total"}, "leads nowhere.*did you mean 'total_s'"),
        ({"value": "campaign.scale"}, "leads to str, not to a number"),
        ({"target": "headline.sesions"}, "did you mean 'sessions'"),
        ({"source": ["oversubscriptoin"]}, "is no rule"),
        ({"source": ["eager"]}, r"source is \['eager'\]"),
        ({"tolerance": 0.1}, "tolerance belongs"),
        ({"op": "==", "better_at": 3}, "no direction"),
        ({"statement": None}, "statement"),
    ],
)
def test_a_claim_written_wrongly_is_an_error_that_names_it(tmp_path: Path, whole: dict, edit: dict, words: str) -> None:
    with pytest.raises(ClaimsError, match=words) as error:
        answers(tmp_path, whole, [GOOD | edit])
    assert "one" in str(error.value)


def test_a_file_that_is_no_list_of_claims_is_an_error(tmp_path: Path) -> None:
    for text, words in (
        ("{", "not YAML"),
        ("a: 1", "must be a list"),
        ("", "must be a list"),
        ("- 3", "claim 1"),
    ):
        (tmp_path / "claims.yaml").write_text(text)
        with pytest.raises(ClaimsError, match=words):
            load(tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([GOOD, GOOD]))
    with pytest.raises(ClaimsError, match="used twice"):
        load(tmp_path / "claims.yaml")


def test_a_single_layer_cannot_be_flat_or_grow(tmp_path: Path) -> None:
    results = write_results(tmp_path / "laptop")

    def one_layer(raw: dict) -> None:
        raw["result"]["cases"] = [case for case in raw["result"]["cases"] if case["layer"] == 15]

    for rule in ("djinn_resume", "recompute"):
        change(results / "raw" / f"{rule}.json", one_layer)
    made = answers(tmp_path, combined_of(results / "raw", json.loads((results / "campaign.json").read_text())))
    assert "resume.layers needs two" in made["ready_flat"]["reason"]
    assert made["beats_recompute_ready"]["verdict"] == "reproduced"


def test_mixed_results_are_warned_of_in_the_table(tmp_path: Path, whole: dict) -> None:
    answers(tmp_path, whole | {"mixed_commits": True, "commits": ["aaa", "bbb"], "dirty": ["eager"]})
    markdown = (tmp_path / "claims.md").read_text()
    assert "**Mixed commits**: aaa, bbb" in markdown and "**Uncommitted changes**" in markdown
    lines = markdown.splitlines()
    assert (
        lines[lines.index("| claim | measured | asked | verdict | raw file |") - 1] == ""
    )  # else the quote swallows it


def test_a_note_for_one_kind_of_device_is_not_given_on_another(tmp_path: Path, whole: dict) -> None:
    missed = GOOD | {"target": 1, "note": {"cpu": "it has no copy engine"}}
    on_card = {**whole, "campaign": {**whole["campaign"], "device": {**whole["campaign"]["device"], "kind": "cuda"}}}
    assert "no copy engine" in answers(tmp_path, whole, [missed])["one"]["reason"]
    assert "no copy engine" not in answers(tmp_path, on_card, [missed])["one"]["reason"]


def test_a_rivals_claim_says_from_how_many_settings_its_own_was_chosen(tmp_path: Path, whole: dict) -> None:
    assert "its setting: {'batch': 8}, 2 of 3 tried" in answers(tmp_path, whole)["vs_handswap_pinned"]["reason"]


def at_paper_scale(whole: dict) -> dict:
    return {**whole, "campaign": {**whole["campaign"], "scale": "paper"}}


def test_at_paper_scale_a_claim_names_its_row_of_the_speed_table(tmp_path: Path, whole: dict) -> None:
    assert all(one["row"] is None for one in answers(tmp_path, whole).values())
    made = answers(tmp_path, at_paper_scale(whole))
    assert made["vs_vllm"]["row"] == "oversub.total" and made["steering_cost"]["row"] is None
    over = whole["oversubscription"]
    assert made["sessions_bit_equal"]["row"] == f"oversub.n{over['sessions']}_{over['prompt_tokens']}"
    assert "**vs_vllm** (`oversub.total`)" in (tmp_path / "claims.md").read_text()


def test_a_row_whose_sizes_nothing_tells_is_not_named(tmp_path: Path, whole: dict) -> None:
    without = at_paper_scale({**whole, "oversubscription": None, "resume": {}})
    claim = {**GOOD, "value": "measured_s"}
    made = answers(
        tmp_path, without, [{**claim, "row": "resume.ready@{layer}"}, {**claim, "id": "two", "row": "oversub.total"}]
    )
    assert (made["one"]["row"], made["two"]["row"]) == (None, "oversub.total")


def test_the_rows_that_the_campaign_on_a_card_names_are_rows_of_the_table() -> None:
    settings = {**asdict(PAPER), "weights_bytes": 1, "kv_bytes_per_token": 1}
    table = {row.id for row in rows(settings)}
    found = json.loads((REFERENCE / "h100-80gb" / "claims.json").read_text())
    named = {one["id"]: one["row"] for one in found if one["row"]}
    assert named.keys() == {claim.id for claim in load(CLAIMS) if claim.row}
    assert set(named.values()) <= table
