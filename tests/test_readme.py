"""The README's numbers are the reference results', and those are what their raw files say."""

import json
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation.claims import evaluate
from evaluation.combine import combine, combined_of, same
from evaluation.readme import PAPERS, ReferenceLacks, block, duration

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "config" / "claims.yaml"
REFERENCE = ROOT / "results" / "reference" / "laptop"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="results/reference/laptop does not exist yet")


def made_up(results: Path, **more: object) -> Path:
    write_results(results, **more)
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
    return results


def test_the_block_holds_every_claim_of_both_campaigns_and_what_they_were_measured_on(tmp_path: Path) -> None:
    for name in PAPERS:
        paper = made_up(tmp_path / name, scale="paper", without=("steering",))
        (paper / "combined.json").unlink()  # not kept: it is made
    text = block(made_up(tmp_path / "laptop"))
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    for claim in json.loads((tmp_path / "laptop" / "claims.json").read_text()):
        assert f"| {claim['statement']}" in rows
    for words in ("made-up processor", "2000-01-01", "commit 0123456789ab", "5 min 12 s", "25 of 25", "24 of 25"):
        assert words in text
    assert "| –, **not run** |" in rows["| Scaling by 1.0 changes nothing"]


def test_a_warning_stands_above_the_table_and_not_in_it(tmp_path: Path) -> None:
    for name in PAPERS:
        made_up(tmp_path / name, scale="paper")
    laptop = made_up(tmp_path / "laptop")
    change(laptop / "combined.json", lambda combined: combined.update(dirty=["eager"]))
    lines = block(laptop).splitlines()
    warned = lines.index("> laptop: **Uncommitted changes** when these ran: eager.")
    assert lines[warned + 1] == "" and lines[warned + 2].startswith("| claim |")


def test_a_missing_reference_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReferenceLacks, match=r"lacks campaign\.json"):
        block(tmp_path)
    with pytest.raises(ReferenceLacks, match=f"{PAPERS[0]} lacks"):
        block(made_up(tmp_path / "laptop"))


def test_duration() -> None:
    assert duration(42.4) == "42 s" and duration(250) == "4 min 10 s"


@pytest.mark.parametrize("folder", PAPERS)
def test_the_paper_scale_says_what_its_raw_files_say(folder: str, tmp_path: Path) -> None:
    """Its combined.json is not kept: what is checked is that the claims are those of the raw files, of one clean commit."""
    paper = ROOT / "results" / "reference" / folder
    combine(paper / "raw", paper / "campaign.json", tmp_path / "combined.json")
    made = json.loads((tmp_path / "combined.json").read_text())
    assert not made["mixed_commits"] and not made["dirty"] and not made["mixed_config"]
    evaluate(tmp_path / "combined.json", CLAIMS, tmp_path / "claims.json", tmp_path / "claims.md")
    assert (tmp_path / "claims.json").read_text() == (paper / "claims.json").read_text()
    assert (tmp_path / "claims.md").read_text() == (paper / "claims.md").read_text()


@needs_reference
def test_the_reference_says_what_its_raw_files_say(tmp_path: Path) -> None:
    made = json.loads(json.dumps(combined_of(REFERENCE / "raw", json.loads((REFERENCE / "campaign.json").read_text()))))
    kept = json.loads((REFERENCE / "combined.json").read_text())
    assert same(made, kept), "a raw number was changed, or how it is combined: python -m evaluation.campaign reference"
    assert not kept["mixed_commits"] and not kept["dirty"] and not kept["missing"]
    evaluate(REFERENCE / "combined.json", CLAIMS, tmp_path / "claims.json", tmp_path / "claims.md")
    assert (tmp_path / "claims.json").read_text() == (REFERENCE / "claims.json").read_text()
    assert (tmp_path / "claims.md").read_text() == (REFERENCE / "claims.md").read_text()
