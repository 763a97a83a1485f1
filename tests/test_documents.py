"""What the documents say is what the reference results say; what is not measured says so."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from synthetic import change, write_results

from evaluation import artifact, campaign, reviewers
from evaluation.claims import evaluate
from evaluation.combine import combine
from evaluation.documents import DOCUMENTS, DocumentError, made, main, refresh, rendered
from evaluation.peers_table import render
from evaluation.readme import PAPERS
from evaluation.settings import parse

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "config" / "claims.yaml"
REFERENCE = ROOT / "results" / "reference" / "laptop"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="results/reference/laptop does not exist yet")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A checkout with this one's documents and a made-up reference."""
    for name in DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for folder, scale in (("laptop", "laptop"), *((name, "paper") for name in PAPERS)):
        analyse(write_results(tmp_path / "results" / "reference" / folder, scale=scale))
    return tmp_path


def analyse(results: Path) -> None:
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")


def reference(top: Path) -> Path:
    return top / "results" / "reference" / "laptop"


def test_check_fails_until_they_are_written_and_again_when_one_raw_number_changes(
    top: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--top", str(top), "--reference", str(reference(top))]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    change(reference(top) / "raw" / "oversubscription.json", lambda raw: raw["result"].update(bit_equal=47))
    analyse(reference(top))
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    said = capsys.readouterr().err
    assert "README.md does not say" in said and "docs/reviewers.md does not say" in said and "| 47 |" in said


def test_what_stands_outside_the_markers_stays(top: Path) -> None:
    before = {name: (top / name).read_text() for name in DOCUMENTS}
    assert refresh(top, reference(top)) == []
    for name, blocks in DOCUMENTS.items():
        after = (top / name).read_text()
        assert after != before[name]
        for block in blocks:
            before[name], after = (rendered(text, "", block) for text in (before[name], after))
        assert after == before[name]


def test_what_cannot_be_written_is_said_and_the_others_are_written(top: Path) -> None:
    (top / "docs" / "reviewers.md").write_text("no markers")
    (top / "docs" / "artifact.md").unlink()
    wrong = refresh(top, reference(top))
    assert [line.partition(":")[0] for line in wrong] == ["docs/artifact.md", "docs/reviewers.md"]
    assert "<!-- steering:begin -->" in wrong[1]
    assert "made-up processor" in (top / "README.md").read_text()


def test_a_reference_older_than_the_code_is_said(top: Path) -> None:
    change(reference(top) / "combined.json", lambda combined: combined.pop("measured_s"))
    with pytest.raises(DocumentError, match="'measured_s': it is older than this code"):
        made((top / "README.md").read_text(), DOCUMENTS["README.md"], reference(top))


def test_a_raw_file_that_was_cut_short_is_said(top: Path) -> None:
    paper = top / "results" / "reference" / PAPERS[0]
    (paper / "combined.json").unlink()  # not kept there: its raw files are read
    raw = paper / "raw" / "eager.json"
    raw.write_bytes(raw.read_bytes()[:-100])
    (line,) = refresh(top, reference(top))
    assert line.startswith("README.md: ") and "eager.json is not a whole JSON file" in line


def test_the_appendix_has_every_claim_with_its_command_time_and_disk(top: Path) -> None:
    table = artifact.claims(reference(top))
    for answer in json.loads((reference(top) / "claims.json").read_text()):
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {answer['id']}: "))
        assert answer["verdict"] in row
        for file in answer["source"].split(", "):
            assert f"results/laptop/{file}" in row
    (row,) = (line for line in table.splitlines() if line.startswith("| eager_dies_first"))
    assert "| 25 s |" in row and "| figure6 |" in row  # two rules of 12.5 s each
    assert "made-up processor, 2 cores" in artifact.machine(reference(top))


def test_what_is_not_measured_says_so(top: Path) -> None:
    (reference(top) / "raw" / "steering.json").unlink()
    analyse(reference(top))
    (row,) = (line for line in artifact.claims(reference(top)).splitlines() if line.startswith("| steering_change"))
    assert "not measured: no steering in the reference" in row and "| not measured |" in row
    assert "| not measured | steering: " in artifact.machine(reference(top))
    assert "raw/steering.json is missing" in reviewers.block(reference(top), "steering")


def test_a_reviewer_without_a_claim_gets_no_silence(top: Path, tmp_path: Path) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIMS.read_text().replace("  reviewer: logits only\n", ""))
    assert "Not measured: no claim" in reviewers.block(reference(top), "logits only", claims)
    assert "sessions_bit_equal" in reviewers.block(reference(top), "logits only")


def test_a_new_reference_is_told_in_every_document(top: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.move(reference(top), top / "results" / "laptop")
    results = top / "results" / "laptop"
    (results / "peers.md").write_text(render(json.loads((results / "combined.json").read_text())))
    for name in campaign.DONE:
        if not (results / name).exists():
            (results / name).parent.mkdir(exist_ok=True)
            (results / name).write_bytes(b"made up")
    assert campaign.main(["--results", str(top / "results"), "reference"]) == 0
    assert f"{len(DOCUMENTS)} of {len(DOCUMENTS)} documents" in capsys.readouterr().out
    assert main(["--top", str(top), "--reference", str(reference(top)), "--check"]) == 0


def test_a_campaign_of_ones_own_named_like_a_reference_is_told_in_no_document(
    top: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {name: (top / name).read_text() for name in DOCUMENTS}
    own = top / "results" / "laptop"
    shutil.copytree(reference(top), own)
    assert campaign.tell(top, own) == 0
    assert "in results/reference, and stay as they are" in capsys.readouterr().out
    assert {name: (top / name).read_text() for name in DOCUMENTS} == before
    assert campaign.tell(top, reference(top)) == 0
    assert all((top / name).read_text() != before[name] for name in DOCUMENTS)


@needs_reference
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_here_say_what_the_reference_says(name: str) -> None:
    text = (ROOT / name).read_text()
    assert made(text, DOCUMENTS[name], REFERENCE) == text, "python -m evaluation.documents writes it"


def test_every_setting_that_the_seeds_flags_became_is_one() -> None:
    text = (ROOT / "docs" / "from-the-seed.md").read_text()
    overrides = re.findall(r"--config '(\w+)=(\{.*?\})'", text) + re.findall(r"--config (\w+)=(\S+?)[`;]", text)
    assert len(overrides) >= 7
    for scale in ("laptop", "paper"):
        for section, value in overrides:
            config = yaml.safe_load((ROOT / "config" / "scales" / f"{scale}.yaml").read_text()) | {"scale": "paper"}
            given = yaml.safe_load(value)
            config[section] = config[section] | given if isinstance(given, dict) else given
            if scale == "paper":
                parse(config)
            else:
                assert section in config


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in (*DOCUMENTS, "docs/from-the-seed.md"):
        text = (ROOT / document).read_text()
        named = re.findall(r"`((?:workflow|config|djinn|docs|tests)/[\w./-]+\.(?:py|yaml|md|txt))`", text)
        linked = re.findall(r"\]\(([\w./-]+\.md)\)", text)
        missing = [path for path in named if not (ROOT / path).exists()]
        missing += [path for path in linked if not ((ROOT / document).parent / path).exists()]
        assert missing == [], document
