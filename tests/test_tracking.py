"""MLflow shows the JSON: a parent per campaign, a child per raw file; reruns replace, campaigns add."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import change, write_results

from evaluation import tracking
from evaluation.claims import evaluate
from evaluation.combine import RULES, combine

CLAIMS = Path(__file__).parent.parent / "config" / "claims.yaml"


def finish(results: Path) -> Path:
    combine(results / "raw", results / "campaign.json", results / "combined.json")
    evaluate(results / "combined.json", CLAIMS, results / "claims.json", results / "claims.md")
    (results / "figures").mkdir(exist_ok=True)
    (results / "figures" / "figure6_memory_virtualization.png").write_bytes(b"made up")
    return results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one campaign logged; its path has a space. Later tests add to it, in this file's order."""
    made = tmp_path_factory.mktemp("results of mine")
    tracking.log_campaign(finish(write_results(made / "laptop", samples=5)), made / "mlflow.db")
    return made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Results with a campaign of two rules, logged, for a test of its own."""
    others = tuple(rule for rule in RULES if rule not in ("eager", "steering"))
    tracking.log_campaign(finish(write_results(tmp_path / "laptop", without=others)), tmp_path / "mlflow.db")
    return tmp_path


class Killed(BaseException):
    """What nothing may catch, as nothing sees a SIGKILL."""


def killing(function: Callable, call: int) -> Callable:
    """`function`, but its call of this number kills before it does anything."""
    calls = []

    def counted(*given: object, **named: object) -> object:
        calls.append(given)
        if len(calls) == call:
            raise Killed
        return function(*given, **named)

    return counted


def children(root: Path, campaign: str = "20000101-made-up") -> dict[str, list]:
    client, experiment = tracking.open_database(root / "mlflow.db")
    found: dict[str, list] = {}
    for run in tracking.runs(client, experiment, f"tags.campaign_id = '{campaign}'"):
        found.setdefault(run.data.tags.get("rule", "campaign"), []).append(run)
    return found


def test_a_campaign_is_a_parent_with_a_child_for_each_raw_file(root: Path) -> None:
    found = children(root)
    assert all(len(runs) == 1 for runs in found.values())
    assert found.keys() == {"campaign", *(path.stem for path in (root / "laptop" / "raw").iterdir())}
    parent, child = found["campaign"][0], found["oversubscription"][0]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["figure"] == "figure6" and found["djinn_resume"][0].data.tags["figure"] == "figure7"
    for key, value in {"dirty": "false", "device": "made-up processor", "scale": "laptop"}.items():
        assert child.data.tags[key] == value and parent.data.tags[key] == value
    assert child.data.params["weights.name"] == "smollm2-135m"
    assert child.data.metrics["barrier.demand_over_budget"] > 1.14
    assert parent.data.metrics["claim.total_workload s"] == 53.4
    assert child.info.end_time - child.info.start_time == 12_500


def test_two_campaigns_can_be_told_apart_and_compared_by_what_differs(root: Path) -> None:
    """MLflow's compare page shows names, parameters, metrics and tags of the chosen runs, or only those that differ."""
    found = children(root)
    parent, child = found["campaign"][0], found["eager"][0]
    assert (
        parent.info.run_name == "made up 20000101-made-up" and child.info.run_name == f"eager, {parent.info.run_name}"
    )
    expected = {
        "resume.prompt_tokens": "512",
        "versions.torch": "2.13.0",
        "weights.source": "wheel",
        "machine.cores": "2",
    }
    assert expected.items() <= parent.data.params.items()
    metrics = parent.data.metrics
    assert metrics["claims not run"] >= 3 and metrics["claims reproduced"] > 10
    assert parent.data.tags["verdict.steering_change"] == "not reproduced"
    assert parent.info.end_time - parent.info.start_time == 12_500  # when its last rule ended, not when it was logged


def test_metrics_run_over_time_and_layers(root: Path) -> None:
    client, _ = tracking.open_database(root / "mlflow.db")
    found = children(root)
    timeline = client.get_metric_history(found["oversubscription"][0].info.run_id, "timeline.device_bytes")
    assert [point.step for point in timeline] == list(range(len(timeline))) and len(timeline) > 500
    assert timeline[10].timestamp - timeline[0].timestamp == 1000  # ten samples, 0.1 s apart
    layers = client.get_metric_history(found["djinn_resume"][0].info.run_id, "prefill.cold.ready_ms.median")
    assert [point.step for point in layers] == [1, 8, 15, 22, 30]
    factors = client.get_metric_history(found["steering"][0].info.run_id, "sweep.changed_argmax")
    assert [point.step for point in factors] == [0, 50, 90, 100, 150, 200]
    assert factors[2].value == pytest.approx(0.031) and factors[3].value == 0.0


def test_every_series_of_samples_has_its_median_and_p95(root: Path) -> None:
    found = children(root)
    for rule, name in (
        ("djinn_resume", "prefill.cold.ready_ms"),
        ("manual_full", "decode.logits_ms"),
        ("steering", "resume_ms.edited"),
        ("checkpoint_cost", "interference.decode_ms.beside"),
        ("dispatch", "loaded.ready_ms"),
        ("peer_nnsight", "continued.ms.offloaded"),
        ("workload", "systems.djinn.seconds"),
    ):
        metrics = found[rule][0].data.metrics
        assert 0 < metrics[f"{name}.median"] <= metrics[f"{name}.p95"], name


def test_figures_and_raw_files_are_artifacts_beside_the_database(root: Path) -> None:
    client, experiment = tracking.open_database(root / "mlflow.db")
    found = children(root)
    names = {item.path for item in client.list_artifacts(found["campaign"][0].info.run_id)}
    assert names == {"combined.json", "claims.json", "claims.md", "figures"}
    own = Path(experiment.artifact_location) / found["eager"][0].info.run_id / "artifacts" / "eager.json"
    assert own.read_bytes() == (root / "laptop" / "raw" / "eager.json").read_bytes()
    assert Path(experiment.artifact_location) == root / "mlartifacts"


def test_a_rerun_replaces_the_changed_child_alone(root: Path) -> None:
    before = children(root)
    change(
        root / "laptop" / "raw" / "oversubscription.json",
        lambda raw: raw["result"]["seconds"].update(total=60.5),
    )
    tracking.log_campaign(finish(root / "laptop"), root / "mlflow.db")
    after = children(root)
    assert {rule: len(runs) for rule, runs in after.items()} == dict.fromkeys(before, 1)
    changed = {rule for rule in after if after[rule][0].info.run_id != before[rule][0].info.run_id}
    assert changed == {"oversubscription"}
    assert after["oversubscription"][0].data.metrics["seconds.total"] == 60.5
    assert after["campaign"][0].data.metrics["claim.total_workload s"] == 60.5
    assert len(list((root / "mlartifacts").iterdir())) == len(after)


def test_a_child_whose_logging_was_killed_is_made_anew(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(small)
    client = tracking.MlflowClient
    for seconds, (owner, step) in enumerate(
        ((tracking, "write"), (client, "log_artifact"), (client, "set_terminated"))
    ):
        change(small / "laptop" / "raw" / "eager.json", lambda raw, now=seconds: raw.update(seconds=now))
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(owner, step, killing(getattr(owner, step), 1))
            tracking.log_campaign(finish(small / "laptop"), small / "mlflow.db")
        assert children(small)["eager"][0].info.status == "RUNNING"
        tracking.log_campaign(small / "laptop", small / "mlflow.db")
        after = children(small)
        assert {rule: len(runs) for rule, runs in after.items()} == dict.fromkeys(before, 1)
        (eager,) = after["eager"]
        assert eager.info.status == "FINISHED", step
        assert eager.data.metrics == before["eager"][0].data.metrics | {"seconds": seconds}
        own = small / "mlartifacts" / eager.info.run_id / "artifacts" / "eager.json"
        assert own.read_bytes() == (small / "laptop" / "raw" / "eager.json").read_bytes()
        assert after["steering"][0].info.run_id == before["steering"][0].info.run_id


def test_a_rebuild_that_was_killed_leaves_the_old_database_its_artifacts(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (small / "mlartifacts").rglob("*") if path.is_file()}

    database, before = (small / "mlflow.db").read_bytes(), kept()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(tracking, "log_claims", killing(tracking.log_claims, 1))
        tracking.rebuild(small, small / "mlflow.db")
    assert (small / "mlflow.db").read_bytes() == database and before.items() < kept().items()
    # a process of its own, as after a kill: in this one MLflow believes that mlflow.db.new has its tables
    subprocess.run([sys.executable, "-m", "evaluation.tracking", "rebuild", "--results", str(small)], check=True)
    living = {run.info.run_id for runs in children(small).values() for run in runs}
    assert {path.name for path in (small / "mlartifacts").iterdir()} == living and before.keys().isdisjoint(kept())


def test_a_claim_that_is_not_run_any_more_has_no_number(small: Path) -> None:
    (before,) = children(small)["campaign"]
    assert "claim.steering_change share" in before.data.metrics
    change(small / "laptop" / "raw" / "steering.json", lambda raw: raw.update(result={"enabled": False}))
    tracking.log_campaign(finish(small / "laptop"), small / "mlflow.db")
    after = children(small)
    (parent,) = after["campaign"]
    assert parent.data.tags["verdict.steering_change"] == "not run"
    assert not {name for name in parent.data.metrics if name.startswith("claim.steering_")}
    assert parent.data.metrics["claims not run"] > before.data.metrics["claims not run"]
    assert all(len(runs) == 1 for runs in after.values())


def test_other_parameters_make_the_campaign_anew_and_leave_no_old_run(root: Path) -> None:
    before = children(root)
    change(root / "laptop" / "raw" / "eager.json", lambda raw: raw["settings"].update(threads=2))
    tracking.log_campaign(finish(root / "laptop"), root / "mlflow.db")
    after = children(root)
    assert {rule: len(runs) for rule, runs in after.items()} == dict.fromkeys(before, 1)
    assert after["campaign"][0].data.params["threads"] == "1 / 2"
    assert {runs[0].data.tags.get("mlflow.parentRunId") for rule, runs in after.items() if rule != "campaign"} == {
        after["campaign"][0].info.run_id
    }
    assert len(list((root / "mlartifacts").iterdir())) == len(after)


def test_another_campaign_adds_and_a_rebuild_finds_both(root: Path) -> None:
    shutil.copytree(root / "laptop", root / "campaigns" / "20000101-made-up")
    shutil.rmtree(root / "laptop")
    tracking.log_campaign(finish(write_results(root / "laptop", campaign="second", samples=5)), root / "mlflow.db")
    logged = {name: children(root, name) for name in ("20000101-made-up", "second")}
    assert tracking.main(["rebuild", "--results", str(root)]) == 0
    for name, before in logged.items():
        after = children(root, name)
        assert {rule: [run.data.metrics for run in runs] for rule, runs in after.items()} == {
            rule: [run.data.metrics for run in runs] for rule, runs in before.items()
        }
    assert not (root / "mlflow.db.new").exists()


def test_a_moved_folder_rebuilds_itself(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    tracking.log_campaign(moved / "laptop", moved / "mlflow.db")
    assert "was made elsewhere" in capsys.readouterr().out
    _, experiment = tracking.open_database(moved / "mlflow.db")
    assert Path(experiment.artifact_location) == moved / "mlartifacts"
    assert children(moved).keys() == children(root).keys()


def test_rebuild_without_results_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert tracking.main(["rebuild", "--results", str(tmp_path)]) == 1
    assert "run snakemake first" in capsys.readouterr().err
