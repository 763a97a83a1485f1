"""The DAG: what it plans, what reruns when what changes, that it is clean, and how it meets locks. No rule measures here."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from workflow_copy import PARTS, ROOT, command, copy_workflow, environment, planned, snakemake, stub_scripts

from evaluation.campaign import DONE
from evaluation.combine import RULES
from evaluation.lifeline import keep_bytecode

SMOKE = ("--config", "scale=smoke")
RESUMES = {"recompute": 1, "manual_offload": 3, "djinn_resume": 1}
BESIDE = {"peer": 9, "workload": 1}
# what runs prompts of resume.prompt_tokens beside the resumes
PROMPTED = {"steering": 1, "dispatch": 1, "concurrent": 1, "traced": 1, "zero_change": 1}
HOSTLESS = {"eager", "recompute", "manual_offload"}  # no session of theirs leaves the device for the host budget
MEASURED = {
    "provision": 1,
    "eager": 1,
    **RESUMES,
    "oversubscription": 1,
    "breakpoints": 1,
    "checkpoint_cost": 1,
    **PROMPTED,
    **BESIDE,
}
WAITS = """
from evaluation.lifeline import die_with_parent
die_with_parent()
print("alive", flush=True)
import time
time.sleep(600)
"""
FIGURES_AFTER = dict.fromkeys(("figure6", "figure7", "figureS1", "figureS2", "figureS3"), 1)
AFTER = {"combine": 1, **FIGURES_AFTER, **dict.fromkeys(("claims", "peers", "mlflow", "seed_log", "pages"), 1)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A workflow whose every output is there, made by stubs."""
    top = copy_workflow(tmp_path_factory.mktemp("dag"))
    stub_scripts(top)
    assert planned(top, *SMOKE) == {"campaign": 1, "weights": 1, **MEASURED, **AFTER}
    snakemake(top, *SMOKE)
    (top / "results" / "mlflow.db").touch()  # no output of a rule, so no stub makes it
    return top


def test_a_finished_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in snakemake(finished, *SMOKE)


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ("resume={samples: 6}", {**RESUMES, "steering": 1}),
        ("resume={prompt_tokens: 200}", {**RESUMES, **PROMPTED}),
        ("oversubscription={new_tokens: 5}", {"oversubscription": 1, "concurrent": 1, "zero_change": 1, **BESIDE}),
        ("oversubscription={prompt_tokens: 240}", {"oversubscription": 1, "eager": 1, **BESIDE}),
        ("budget={device: 50MB}", {"oversubscription": 1, "eager": 1, **BESIDE}),
        ("budget={host: 300MB}", {rule: count for rule, count in MEASURED.items() if rule not in HOSTLESS}),
        ("eager={max_sessions: 61}", {"eager": 1}),
        ("peers={samples: 4}", BESIDE),  # every system is asked so often
        ("peers={rounds: 2}", {"workload": 1}),
        ("peers={vllm_python: /elsewhere/python}", {"peer": 1, "workload": 1}),
        ("activation_steering={modification_factor: 0.8}", {"steering": 1, "traced": 1}),
        ("breakpoints={prompts: 3}", {"breakpoints": 1}),
        ("checkpoint_cost={pairs: 4}", {"checkpoint_cost": 1}),
        ("dispatch={samples: 4}", {"dispatch": 1}),
        ("concurrent={clients: 4}", {"concurrent": 1}),
        ("threads=2", {"weights": 1, **MEASURED}),
        ("model={seed: 1}", {"weights": 1, **MEASURED}),
    ],
)
def test_a_changed_key_reruns_what_depends_on_it(finished, change, rerun):
    assert planned(finished, *SMOKE, change) == {**rerun, **AFTER}


@pytest.mark.parametrize("change", ["name=2024", "server=tcp://127.0.0.1:5556"])
def test_a_name_or_an_address_reruns_nothing(finished, change):
    assert planned(finished, *SMOKE, change) == {}


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("resources/prompts/06-the-meaning-of-hack.txt", {**MEASURED, **AFTER}),
        ("resources/long_sessions.py", {"zero_change": 1, **AFTER}),
        ("report/page.html", {"pages": 1}),
        ("evaluation/facts_cost.py", AFTER),  # through headline, which combine imports
        ("evaluation/figures/style.py", {**FIGURES_AFTER, "mlflow": 1}),
        ("evaluation/figures/figure6.py", {"figure6": 1, "mlflow": 1}),
        ("evaluation/claims.py", {"claims": 1, "mlflow": 1, "seed_log": 1, "pages": 1}),
        ("evaluation/peers_table.py", {"peers": 1, "mlflow": 1}),
        ("evaluation/tracking.py", {"mlflow": 1}),
        ("evaluation/oversubscription.py", {}),
    ],
)
def test_an_edit_reruns_what_reads_the_file_and_no_measurement_for_its_code(finished, file, rerun):
    path = finished / "workflow" / file
    kept = path.read_text()
    path.write_text(f"{kept}\n")
    try:
        assert planned(finished, *SMOKE) == rerun
    finally:
        path.write_text(kept)


def test_other_times_of_the_sources_rerun_nothing(finished):
    """As in a clone, or in a tree that was copied to another machine with its results."""
    touch_sources(finished)
    assert "Nothing to be done" in snakemake(finished, *SMOKE)


def test_results_copied_without_snakemakes_notes_are_not_measured_again(finished):
    """config/claims.yaml is an input, and nobody knows then what it was: what is computed with it is made again."""
    touch_sources(finished)
    notes = finished / ".snakemake" / "metadata"
    aside = notes.rename(notes.with_suffix(".aside"))
    try:
        assert planned(finished, *SMOKE) == {"claims": 1, "mlflow": 1, "seed_log": 1, "pages": 1}
    finally:
        aside.rename(notes)


def touch_sources(top: Path) -> None:
    for part in PARTS:
        for path in [top / part, *(top / part).rglob("*")]:
            path.touch()


@pytest.mark.parametrize("rule", ["provision", "eager", "oversubscription", "steering", "workload"])
def test_one_box_reruns_alone_and_the_analysis_follows(finished, rule):
    assert planned(finished, "--forcerun", rule, *SMOKE) == {rule: 1, **AFTER}


def test_provision_is_measured_first(finished):
    """By its priority alone: as an input of the others its rerun would hide from Snakemake that their own keys changed."""
    text = snakemake(finished, "--forcerun", "eager", "provision", *SMOKE)
    assert re.findall(r"^localrule (\w+):$", text, re.MULTILINE)[:3] == ["provision", "eager", "combine"]


def test_a_target_makes_only_what_it_needs(finished):
    change = "oversubscription={sessions: 25}"
    made = {
        "oversubscription": 1,
        **BESIDE,
        "combine": 1,
        "figure7": 1,
    }  # what combined.json is made from, and no other figure
    assert planned(finished, "figure7", *SMOKE, change) == made


def test_a_lost_raw_file_is_measured_again(finished):
    raw = finished / "results" / "smoke" / "raw" / "steering.json"
    aside = raw.rename(raw.with_suffix(".aside"))
    try:
        assert planned(finished, *SMOKE) == {"steering": 1, **AFTER}
    finally:
        aside.rename(raw)


def test_a_lost_database_is_logged_to_again(finished):
    database = finished / "results" / "mlflow.db"
    aside = database.rename(database.with_suffix(".aside"))
    try:
        assert planned(finished, *SMOKE) == {"mlflow": 1}
    finally:
        aside.rename(database)


def test_measuring_rules_take_every_core(finished):
    text = snakemake(finished, "--dry-run", "--cores", "8", "--forceall", *SMOKE)
    jobs = [job for job in text.split("\nrule ")[1:] if "/raw/" in job.partition("output:")[2].partition("\n")[0]]
    assert len(jobs) == sum(MEASURED.values())
    assert all("threads: 8" in job for job in jobs)


def test_the_lock_of_a_dead_run_is_cleared(finished):
    locks = leave_locks(finished)
    assert "Nothing to be done" in snakemake(finished, *SMOKE)
    assert not list(locks.glob("*"))


def test_a_living_run_is_left_alone(finished):
    locks = leave_locks(finished)
    with open(finished / ".snakemake" / "djinn_alive") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)  # what a living Snakemake holds
        snakemake(finished, "--dry-run", *SMOKE)
        assert list(locks.glob("*"))
        assert "lock" in snakemake(finished, "--forceall", *SMOKE, ok=False).lower()
        assert list(locks.glob("*"))
    assert "Nothing to be done" in snakemake(finished, *SMOKE)


def leave_locks(top: Path) -> Path:
    """What `kill -9` of Snakemake leaves behind."""
    locks = top / ".snakemake" / "locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("results/smoke/campaign.json\n")
    return locks


def test_scripts_die_with_snakemake_and_the_next_run_finishes(tmp_path):
    top = copy_workflow(tmp_path)
    stub_scripts(top)
    script = top / "workflow" / "scripts" / "weights.py"
    stub = script.read_text()
    script.write_text(WAITS + stub)
    run = subprocess.Popen(
        command(top, *SMOKE), cwd=top, env=environment(top), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while "alive" not in (line := run.stdout.readline()):
        assert line, "ended before its script began"
    scripts = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    run.stdout.close()
    assert scripts and not psutil.wait_procs(scripts, timeout=60)[1]
    script.write_text(stub)
    snakemake(top, *SMOKE)


def test_a_wrong_config_stops_the_run_and_names_the_key(finished):
    text = snakemake(finished, "--dry-run", *SMOKE, "oversubscripton={sessions: 3}", ok=False)
    assert "unknown key 'oversubscripton' (did you mean 'oversubscription'?)" in text
    assert "expected auto or one of smoke" in snakemake(finished, "--dry-run", "--config", "scale=huge", ok=False)


def test_lint_and_format_are_clean(finished):
    assert "good condition" in snakemake(finished, "--lint", *SMOKE)
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow/rules"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_report_is_one_file_made_and_opened_without_network(finished):
    """Whatever would be fetched while it is made goes to a proxy that is not there."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    report = finished / "results" / "report.html"
    made = command(finished, "--report", str(report), *SMOKE)
    done = subprocess.run(made, cwd=finished, env=environment(finished) | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = report.read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.https?:", text)
    for shown in (
        "1. Claims",
        "2. Figures",
        "3. Environment and time",
        "figure6_memory_virtualization.png",
        "memory virtualization",
    ):
        assert shown in text


def test_a_campaign_is_done_when_all_is_there_that_a_run_makes(finished):
    results = finished / "results" / "smoke"
    made = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    raw = {f"raw/{rule}.json" for rule in RULES}
    assert {name for name in made if not name.startswith("logs/")} == {"campaign.json", "weights.json", *raw, *DONE}


def test_every_rule_has_a_log_and_an_environment():
    for path in [*(ROOT / "workflow" / "rules").glob("*.smk")]:
        text = path.read_text()
        assert text.startswith("# Needs:"), path
        for rule in re.split(r"\n(?:use )?rule ", text)[1:]:
            inherits = " as " in rule.partition("\n")[0]  # the environment of the rule that it uses
            assert "    log:" in rule and ("    conda:" in rule or inherits), rule.partition("\n")[0]


@pytest.mark.parametrize("forbidden", [True, False])
def test_bytecode_that_may_not_lie_beside_its_sources_is_kept_elsewhere(tmp_path, monkeypatch, forbidden):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1" if forbidden else "")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "some_module.py").write_text("")
    keep_bytecode(tmp_path / "kept")
    subprocess.run([sys.executable, "-c", "import some_module"], cwd=tmp_path, check=True)
    assert bool(list(tmp_path.glob("kept/**/some_module.*.pyc"))) == forbidden
    assert bool(list(tmp_path.glob("__pycache__/*.pyc"))) != forbidden
