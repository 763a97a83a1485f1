"""What a reader opens or searches: the report's pages and the seed's log, both from one campaign's files."""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation.answered import answered
from evaluation.claims import evaluate
from evaluation.combine import combine
from evaluation.pages import claims_page, environment_page
from evaluation.redraw import main, redraw
from evaluation.seed_log import render

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"
SEARCH = re.compile(r"Token Accuracy|Checkpoint|Overhead")  # the seed's own


class Text(HTMLParser):
    """The words of a page, and whatever it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.fetched = [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.fetched += [value for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    made = write_results(tmp_path / "laptop")
    change(made / "campaign.json", lambda facts: facts.update(name="<b>bold & brave</b>"))
    combine(made / "raw", made / "campaign.json", made / "combined.json")
    evaluate(made / "combined.json", CLAIMS, made / "claims.json", made / "claims.md")
    return made


def test_every_claim_is_on_its_page_with_its_reason(results: Path) -> None:
    page = Text(claims_page(results))
    for answer in json.loads((results / "claims.json").read_text()):
        for words in (answer["statement"], answer["reason"], answer["verdict"], answer["source"]):
            assert " ".join(words.split()) in page.text
    assert "<b>bold & brave</b>" in page.text and page.fetched == []


def test_a_page_warns_of_uncommitted_changes(results: Path) -> None:
    assert "Uncommitted" not in claims_page(results)
    change(results / "combined.json", lambda combined: combined.update(dirty=["eager"]))
    assert "Uncommitted changes" in claims_page(results)


def test_the_environment_page_has_versions_and_the_time_of_every_rule(results: Path) -> None:
    change(results / "raw" / "eager.json", lambda raw: raw.update(seconds=77.25, versions={"torch": "2.99"}))
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    page = Text(environment_page(results))
    for path in (results / "raw").iterdir():
        assert path.stem in page.text
    for words in ("77.2", "2.13.0 / 2.99", "made-up processor", "smollm2-135m", "resume.prompt_tokens 512"):
        assert words in page.text
    assert page.fetched == []


def test_a_rule_that_did_not_run_is_said(results: Path) -> None:
    (results / "raw" / "steering.json").unlink()
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    assert "Not measured in this campaign: steering" in Text(environment_page(results)).text


def test_a_campaign_is_drawn_again_from_packed_raw_files_alone(results: Path) -> None:
    page, claims = environment_page(results), (results / "claims.md").read_text()
    for raw in list((results / "raw").iterdir()):
        raw.with_suffix(".json.gz").write_bytes(gzip.compress(raw.read_bytes()))
        raw.unlink()
    for name in ("combined.json", "claims.json", "claims.md"):
        (results / name).unlink()
    assert redraw(results, CLAIMS) == []
    assert (results / "report" / "environment.html").read_text() == page
    assert (results / "claims.md").read_text() == claims
    assert {path.suffix for path in (results / "figures").iterdir()} == {".pdf", ".png", ".csv"}


@pytest.mark.parametrize("name", ["eager.json", "eager.json.gz"])
def test_drawing_again_names_the_raw_file_that_was_cut_short(
    results: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    raw = results / "raw" / "eager.json"
    content = raw.read_bytes()
    raw.unlink()
    (results / "raw" / name).write_bytes((gzip.compress(content) if name.endswith(".gz") else content)[:-100])
    assert main([str(results), "--claims", str(CLAIMS)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"redraw: {results / 'raw' / name} is not a whole")


def log_of(results: Path, claims: Path = CLAIMS) -> list[str]:
    campaign = json.loads((results / "campaign.json").read_text())
    return render(campaign, answered(claims, results / "claims.json")).splitlines()


def test_the_seeds_search_finds_what_was_measured(results: Path) -> None:
    found = [line for line in log_of(results)[-100:] if SEARCH.match(line)]
    assert {line.partition(":")[0] for line in found} == {"Token Accuracy", "Checkpoint", "Overhead"}
    assert any("50 (= 50 asked), reproduced [raw/oversubscription.json]" in line for line in found)
    change(
        results / "claims.json", lambda claims: [c.update(value=49) for c in claims if c["id"] == "sessions_bit_equal"]
    )
    assert any("49 (= 50 asked)" in line for line in log_of(results) if line.startswith("Token Accuracy"))


def test_a_word_without_a_claim_says_so(results: Path, tmp_path: Path) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIMS.read_text().replace("  log: Overhead\n", ""))
    assert any(line.startswith("Overhead: not measured: no claim") for line in log_of(results, claims))


def test_a_campaign_older_than_a_claim_says_so(results: Path) -> None:
    change(results / "claims.json", lambda claims: claims.__delitem__(slice(0, None)))
    lines = log_of(results)
    assert all("not measured" in line for line in lines if SEARCH.match(line)) and len(lines) > 20
