"""The README's numbers are the reference results', and those are what their raw files say."""

import json
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation.claims import evaluate
from evaluation.combine import combine, combined_of, same
from evaluation.readme import BEGIN, END, ReadmeError, block, duration, main, rendered

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "config" / "claims.yaml"
REFERENCE = ROOT / "results" / "reference" / "laptop"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="results/reference/laptop does not exist yet")


def made_up(tmp_path: Path) -> Path:
    results = write_results(tmp_path / "laptop")
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
    return results


def test_the_block_holds_every_claim_and_what_it_was_measured_on(tmp_path: Path) -> None:
    text = block(made_up(tmp_path))
    for claim in json.loads((tmp_path / "laptop" / "claims.json").read_text()):
        assert claim["statement"] in text
    for words in ("made-up processor", "2000-01-01", "commit 0123456789ab", "5 min 12 s", "smollm2-135m"):
        assert words in text


def test_check_fails_until_it_is_written_and_again_after_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results, readme = made_up(tmp_path), tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nthe end\n")
    arguments = ["--readme", str(readme), "--reference", str(results)]
    assert main([*arguments, "--check"]) == 1
    assert "-old" in capsys.readouterr().err
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    assert readme.read_text().startswith("# Title\n\n") and readme.read_text().endswith(f"{END}\n\nthe end\n")
    change(results / "claims.json", lambda claims: claims[0].update(value=9.0))
    assert main([*arguments, "--check"]) == 1


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ReadmeError, match=r"lacks campaign\.json"):
        block(tmp_path)
    with pytest.raises(ReadmeError, match="results:begin"):
        rendered("no markers", "text")
    assert main(["--readme", str(tmp_path / "none.md"), "--reference", str(tmp_path)]) == 1
    assert "none.md" in capsys.readouterr().err


def test_duration() -> None:
    assert duration(42.4) == "42 s" and duration(250) == "4 min 10 s"


@needs_reference
def test_this_readme_says_what_the_reference_says() -> None:
    made = rendered(
        (ROOT / "README.md").read_text(),
        block(Path("results/reference/laptop") if Path.cwd() == ROOT else REFERENCE),
    )
    assert made == (ROOT / "README.md").read_text(), "python -m evaluation.readme writes it"


@needs_reference
def test_the_reference_says_what_its_raw_files_say(tmp_path: Path) -> None:
    made = json.loads(json.dumps(combined_of(REFERENCE / "raw", json.loads((REFERENCE / "campaign.json").read_text()))))
    kept = json.loads((REFERENCE / "combined.json").read_text())
    assert same(made, kept), "a raw number was changed, or how it is combined: python -m evaluation.campaign reference"
    assert not kept["mixed_commits"] and not kept["dirty"] and not kept["missing"]
    evaluate(REFERENCE / "combined.json", CLAIMS, tmp_path / "claims.json", tmp_path / "claims.md")
    assert (tmp_path / "claims.json").read_text() == (REFERENCE / "claims.json").read_text()
    assert (tmp_path / "claims.md").read_text() == (REFERENCE / "claims.md").read_text()
