"""A campaign's JSON results, shown in MLflow: one parent run per campaign, one child run per raw file.

The JSON is the truth and the database a view of it: logging again replaces what a rule said before, and
`rebuild` makes the whole database anew, as it must when the folder moves (MLflow keeps absolute artifact
paths).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

# Both before the import: nothing here calls out, and no connection outlives a database that is replaced.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run

from evaluation.figures import FIGURE_OF
from evaluation.points import Point, merged, params, scalars, series, values_of

EXPERIMENT = "djinn"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # shown as runs to compare, not as chats
BATCH_METRICS, BATCH_PARAMS = 1000, 100  # MLflow's limits for one log_batch


def log_campaign(results_dir: Path, database: Path) -> None:
    """Find or create the campaign's parent run, and make its children say what the raw files say."""
    client, experiment = open_database(database)
    if Path(experiment.artifact_location) != artifacts(database):
        print(
            f"tracking: {database} was made elsewhere ({experiment.artifact_location}): rebuilding it",
            flush=True,
        )
        rebuild(database.parent, database)
        return
    log_into(client, experiment, results_dir)


def open_database(database: Path) -> tuple[MlflowClient, Experiment]:
    database.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        experiment = client.get_experiment(
            client.create_experiment(EXPERIMENT, artifact_location=str(artifacts(database)), tags=KIND)
        )
    return client, experiment


def artifacts(database: Path) -> Path:
    return database.resolve().parent / "mlartifacts"


def log_into(client: MlflowClient, experiment: Experiment, results_dir: Path) -> None:
    campaign = json.loads((results_dir / "campaign.json").read_text())
    present = {path.stem: path for path in sorted((results_dir / "raw").glob("*.json"))}
    raws = {rule: json.loads(path.read_text()) for rule, path in present.items()}
    claims = results_dir / "claims.json"
    answers = json.loads(claims.read_text()) if claims.exists() else []
    parent = parent_run(client, experiment, campaign, describe(campaign, raws), values_of(answers))
    children = {run.data.tags["rule"]: run for run in children_of(client, experiment, parent)}
    for rule in sorted(children.keys() - present.keys()):
        remove(client, experiment, children[rule])
    for rule, path in present.items():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if rule in children:
            if is_whole(children[rule], digest):
                continue
            remove(client, experiment, children[rule])
        log_raw(client, experiment, parent, raws[rule], digest, path)
    if answers:
        log_claims(client, parent, answers, round(1000 * claims.stat().st_mtime))
    for name in ("combined.json", "claims.json", "claims.md", "peers.md", "figures"):
        source = results_dir / name
        if source.is_dir():
            client.log_artifacts(parent.info.run_id, str(source), name)
        elif source.exists():
            client.log_artifact(parent.info.run_id, str(source))
    ends = [millis(raw["started"]) + round(1000 * raw["seconds"]) for raw in raws.values()]
    client.set_terminated(parent.info.run_id, end_time=max(ends, default=millis(campaign["started"])))


def is_whole(child: Run, digest: str) -> bool:
    """Whether the raw file of this digest is all in it: a run is ended last, and whoever was killed left it unended."""
    return child.info.status == "FINISHED" and child.data.tags.get("sha256") == digest


def runs(client: MlflowClient, experiment: Experiment, query: str) -> list[Run]:
    return list(client.search_runs([experiment.experiment_id], query, max_results=1000))


def children_of(client: MlflowClient, experiment: Experiment, parent: Run) -> list[Run]:
    return runs(client, experiment, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


def describe(campaign: dict[str, Any], raws: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What can be why two campaigns differ, as the parameters that MLflow shows side by side."""
    measured_with = (
        {**raw["settings"], "versions": raw["versions"], "weights": raw["weights"] or {}} for raw in raws.values()
    )
    own = {key: str(campaign[key]) for key in ("scale", "name", "commit", "config_digest")}
    return merged(measured_with) | own | dict(params(campaign["device"], "machine."))


def parent_run(
    client: MlflowClient,
    experiment: Experiment,
    campaign: dict[str, Any],
    described: dict[str, str],
    values: dict[str, float],
) -> Run:
    """The campaign's run, made where there is none. MLflow's parameters and metrics are for good: with other parameters, or
    a metric of a claim that has no value any more, it is made anew."""
    for found in runs(client, experiment, f"tags.campaign_id = '{campaign['id']}' and tags.kind = 'campaign'"):
        if found.data.params == described and found.data.metrics.keys() <= values.keys():
            return found
        for child in children_of(client, experiment, found):
            remove(client, experiment, child)
        remove(client, experiment, found)
    run = client.create_run(
        experiment.experiment_id,
        start_time=millis(campaign["started"]),
        run_name=called(campaign),
        tags=tags(campaign) | {"kind": "campaign"},
    )
    write(client, run.info.run_id, [], list(described.items()))
    return run


def called(campaign: dict[str, Any]) -> str:
    return f"{campaign['name'] or campaign['scale']} {campaign['id']}"


def tags(stamp: dict[str, Any]) -> dict[str, str]:
    """What a person filters by, from a campaign's or a raw file's own words."""
    device = stamp["device"]
    return {
        "campaign_id": stamp.get("campaign") or stamp["id"],
        "scale": stamp["scale"],
        "commit": stamp["commit"],
        "mlflow.source.git.commit": stamp["commit"],
        "dirty": str(stamp["dirty"]).lower(),
        "device": str(device.get("name") or device["kind"]),
        "config_digest": stamp["config_digest"],
    }


def log_raw(
    client: MlflowClient, experiment: Experiment, parent: Run, raw: dict[str, Any], digest: str, path: Path
) -> None:
    """A child run for one raw file, dated as it was measured."""
    began = millis(raw["started"])
    own = {
        "kind": "rule",
        "rule": raw["rule"],
        "figure": FIGURE_OF.get(raw["rule"], "none"),
        "sha256": digest,
        "mlflow.parentRunId": parent.info.run_id,
    }
    name = f"{raw['rule']}, {parent.info.run_name}"  # two of one rule must be told apart when they are compared
    run = client.create_run(experiment.experiment_id, start_time=began, run_name=name, tags=tags(raw) | own)
    described = {"settings": raw["settings"], "weights": raw["weights"], "versions": raw.get("versions", {})}
    points = [("seconds", raw["seconds"], began, 0), *series(raw, began), *scalars(raw["result"], began)]
    write(client, run.info.run_id, points, params(described))
    client.log_artifact(run.info.run_id, str(path))
    client.set_terminated(run.info.run_id, end_time=began + round(1000 * raw["seconds"]))


def remove(client: MlflowClient, experiment: Experiment, run: Run) -> None:
    """Take a replaced run out of sight, and its copies of files with it."""
    client.delete_run(run.info.run_id)
    shutil.rmtree(Path(experiment.artifact_location) / run.info.run_id, ignore_errors=True)


def log_claims(client: MlflowClient, parent: Run, answers: list[dict[str, Any]], at: int) -> None:
    """The claims' values as metrics of the parent and their verdicts as its tags; unchanged ones stay."""
    known = parent.data.metrics
    points = [(name, value, at, 0) for name, value in values_of(answers).items() if known.get(name) != value]
    write(client, parent.info.run_id, points, [])
    for one in answers:
        client.set_tag(parent.info.run_id, f"verdict.{one['id']}", one["verdict"])


def write(client: MlflowClient, run_id: str, points: list[Point], parameters: list[tuple[str, str]]) -> None:
    """In batches as large as MLflow takes."""
    metrics = [Metric(name, float(value), at, step) for name, value, at, step in points]
    given = [Param(name, text) for name, text in parameters]
    for start in range(0, len(given), BATCH_PARAMS):
        client.log_batch(run_id, params=given[start : start + BATCH_PARAMS])
    for start in range(0, len(metrics), BATCH_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])


def millis(moment: str) -> int:
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def rebuild(results_root: Path, database: Path) -> None:
    """Log every campaign, the archived ones first, into a new database, and put it in the old one's place.

    The old one's artifacts go last: it keeps them if this is killed, and what that leaves goes with the next.
    """
    replaced = list(artifacts(database).glob("*"))
    fresh = database.with_name(database.name + ".new")
    fresh.unlink(missing_ok=True)
    client, experiment = open_database(fresh)
    for campaign in campaigns(results_root):
        print(f"tracking: {campaign.relative_to(results_root)}", flush=True)
        log_into(client, experiment, campaign)
    os.replace(fresh, database)
    for folder in replaced:
        shutil.rmtree(folder)


def campaigns(results_root: Path) -> list[Path]:
    archived = sorted((results_root / "campaigns").glob("*/campaign.json"))
    current = sorted(path for path in results_root.glob("*/campaign.json") if path.parent.name != "campaigns")
    return [path.parent for path in (*archived, *current)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.tracking", description="MLflow's database, from the JSON results"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    again = commands.add_parser("rebuild", help="make the database anew from every campaign's JSON")
    again.add_argument("--results", type=Path, default=Path("results"))
    again.add_argument("--database", type=Path, default=None, help="default: mlflow.db in the results folder")
    chosen = parser.parse_args(arguments)
    if not campaigns(chosen.results):
        print(f"tracking: no campaign in {chosen.results}: run snakemake first", file=sys.stderr)
        return 1
    rebuild(chosen.results, chosen.database or chosen.results / "mlflow.db")
    return 0


if __name__ == "__main__":
    sys.exit(main())
