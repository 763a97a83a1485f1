"""A campaign has an identity, is put away whole, and is the reference only if one commit stands for it."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation import again
from evaluation.campaign import DONE, CampaignError, archive, main, reference, start
from evaluation.claims import evaluate
from evaluation.combine import combine
from evaluation.figures import FIGURES
from evaluation.peers_table import render

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"


class MadeUpSettings:
    """The three fields of the settings that a campaign keeps; the digest is replaced in the test."""

    scale, name, device = "laptop", "from the config", "cpu"


def finish(results: Path) -> Path:
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
    (results / "peers.md").write_text(render(json.loads((results / "combined.json").read_text())))
    for module, name in FIGURES.items():
        import_module(f"evaluation.figures.{module}").draw(
            results / "combined.json",
            *(results / "figures" / f"{name}.{kind}" for kind in ("pdf", "png", "csv")),
        )
    return stand_in(results)


def stand_in(results: Path) -> Path:
    """A made-up file for whatever a finished campaign has beside."""
    for name in DONE:
        if not (results / name).exists():
            (results / name).parent.mkdir(exist_ok=True)
            (results / name).write_text("made up")
    return results


def test_start_writes_who_what_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.settings.digest", lambda settings: "d" * 16)
    first = start(tmp_path / "laptop" / "campaign.json", MadeUpSettings())
    assert first == json.loads((tmp_path / "laptop" / "campaign.json").read_text())
    assert first.keys() == {"id", "name", "scale", "commit", "dirty", "config_digest", "device", "started"}
    assert (
        first["name"] == "from the config" and first["device"]["kind"] == "cpu" and first["config_digest"] == "d" * 16
    )
    second = start(tmp_path / "laptop" / "campaign.json", MadeUpSettings(), "mine")
    assert second["name"] == "mine" and second["id"] != first["id"] and first["id"][:8].isdigit()


def test_archive_moves_a_finished_campaign_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "results of mine"
    assert main(["--results", str(root), "archive"]) == 1
    assert "no campaign in" in capsys.readouterr().err
    results = write_results(root / "laptop")
    with pytest.raises(CampaignError, match=r"unfinished, it lacks combined\.json.*--unfinished"):
        archive(root)
    finish(results)
    for name in ("mlflow.json", "exp3_osdi.log", "report/claims.html"):
        (results / name).unlink()
        with pytest.raises(CampaignError, match=rf"lacks {name}: "):
            archive(root)
        (results / name).write_text("made up")
    change(results / "raw" / "eager.json", lambda raw: raw.update(seconds=99.0))
    with pytest.raises(CampaignError, match=r"raw/eager\.json as it is now"):
        archive(root)
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    assert main(["--results", str(root), "archive"]) == 0
    assert "20000101-made-up" in capsys.readouterr().out
    assert not results.exists() and (root / "campaigns" / "20000101-made-up" / "raw" / "eager.json").exists()
    write_results(root / "laptop")
    with pytest.raises(CampaignError, match="is there already"):
        archive(root, allow_unfinished=True)
    write_results(root / "smoke", scale="smoke", campaign="small")
    with pytest.raises(CampaignError, match="--scale laptop or --scale smoke"):
        archive(root)
    assert archive(root, "smoke", allow_unfinished=True).name == "small"


@pytest.fixture
def two_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A folder with finished campaigns of two scales, and the words that Snakemake was started with there."""
    for scale in ("smoke", "laptop"):
        results = write_results(tmp_path / "results" / scale, scale=scale, campaign=f"of-{scale}")
        combine(results / "raw", results / "campaign.json", results / "combined.json")
        stand_in(results)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("scale: laptop\n")
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(again.subprocess, "call", lambda words: "--dry-run" not in words)
    monkeypatch.setattr(again.os, "execv", lambda program, words: started.append(words[3:]))
    return started


@pytest.mark.parametrize(
    ("given", "away", "words"),
    [
        (["--cores", "1"], "laptop", ["--cores", "1"]),
        (["--name", "x"], "laptop", ["--config", "name=x"]),
        (
            ["--name", "x", "--config", "scale=smoke", "threads=2", "-p"],
            "smoke",
            ["-p", "--config", "name=x", "scale=smoke", "threads=2"],
        ),
        (["eager", "-C", "scale=smoke"], "smoke", ["eager", "--config", "scale=smoke"]),
        (["--configfile", "small.yaml"], "smoke", ["--configfile", "small.yaml"]),
    ],
)
def test_a_new_campaign_puts_the_one_of_its_scale_away_and_keeps_its_name(
    two_scales: list[list[str]], given: list[str], away: str, words: list[str]
) -> None:
    Path("small.yaml").write_text("scale: smoke\n")
    again.main(given)
    assert two_scales == [words]
    assert [path.name for path in Path("results", "campaigns").iterdir()] == [f"of-{away}"]


@pytest.mark.parametrize("dry", ["-n", "--dry-run", "--dryrun", "-np"])
def test_a_dry_run_of_a_new_campaign_moves_nothing(
    two_scales: list[list[str]], dry: str, capsys: pytest.CaptureFixture
) -> None:
    again.main(["--cores", "1", dry])
    assert "nothing is moved" in capsys.readouterr().out
    assert two_scales == [] and not Path("results", "campaigns").exists()


def test_no_campaign_is_put_away_for_words_that_snakemake_does_not_take(
    two_scales: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(again.subprocess, "call", lambda words: asked.append(words[1:]) or 3)
    with pytest.raises(SystemExit, match="3"):
        again.main(["--name", "x", "--cores", "1", "--config", "resume={samples: none}"])
    words = ["-m", "snakemake", "--cores", "1", "--config", "name=x", "resume={samples: none}", "--dry-run", "--quiet"]
    assert asked == [words]
    assert two_scales == [] and not Path("results", "campaigns").exists()


def test_a_new_campaign_is_not_started_over_an_unfinished_one(
    two_scales: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    Path("results", "smoke", "mlflow.json").unlink()
    with pytest.raises(SystemExit, match="1"):
        again.main(["--config", "scale=smoke"])
    assert "archive --scale smoke --unfinished" in capsys.readouterr().err
    assert two_scales == [] and not Path("results", "campaigns").exists()


def test_reference_is_a_copy_of_one_commits_clean_results(tmp_path: Path) -> None:
    results = finish(write_results(tmp_path / "laptop"))
    kept = reference(tmp_path)
    assert kept == tmp_path / "reference" / "laptop"
    for path in (path.relative_to(results) for path in results.rglob("*") if path.is_file()):
        if str(path) == "mlflow.json" or path.parent.name == "report":  # a database and a report that are not kept
            assert not (kept / path).exists()
            continue
        assert (kept / path).read_bytes() == (results / path).read_bytes()

    combined = json.loads((results / "combined.json").read_text())
    for edit, words in (
        ({"mixed_commits": True, "commits": ["aaa", "bbb"]}, "mixed commits .aaa, bbb"),
        ({"mixed_config": True}, "mixed configurations"),
        ({"dirty": ["eager"]}, "uncommitted changes .eager"),
        ({"commits": ["unknown"]}, "commit is unknown"),
    ):
        (results / "combined.json").write_text(json.dumps(combined | edit))
        with pytest.raises(CampaignError, match=words):
            reference(tmp_path)
    (results / "claims.md").unlink()
    with pytest.raises(CampaignError, match=r"lacks claims\.md"):
        reference(tmp_path)
