"""How the systems of the comparison are asked: what they cannot do is a row, a mistake of ours is an error."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from contending import JOB, Fake, InProcess, settings, talk

from evaluation import peer as peer_rule
from evaluation.contenders import answer
from evaluation.contenders.asking import Asked, Broken, environment
from evaluation.contenders.contender import PROBES, NotRefused, refusal
from evaluation.peers import MODULES, interpreters, missing
from evaluation.rounds import WARM_UP


def test_a_refusal_must_be_the_one_that_was_expected():
    assert refusal(lambda: {}["x"], KeyError) == "KeyError: 'x'"
    with pytest.raises(NotRefused, match="returned 3"):
        refusal(lambda: 3, KeyError)
    with pytest.raises(ZeroDivisionError):
        refusal(lambda: 1 / 0, KeyError)


def test_questions_are_answered_in_turn(fake):
    job = json.dumps(asdict(JOB) | {"setting": {"speed": 2}})
    tuned, ready, versions, workload, edited = talk(
        "fake",
        job,
        '{"ask": "versions"}',
        '{"ask": "workload", "sessions": 2}',
        '{"ask": "edited", "warmup": 0, "samples": 1}',
    )
    told = {"tuned": [{"speed": n} for n in (1, 3, 2, 0)], "whole": False, "workload": True}
    told["in_turn"] = list(Fake.IN_TURN)
    assert tuned["answer"] == told
    assert (ready["answer"], versions["answer"], workload["answer"]["seconds"]) == ("ready", {"fake": "1"}, 1.0)
    assert edited == {"unable": "it has no way to edit a layer"}


def test_a_mistake_is_told_and_ends_it(fake):
    fake.SYSTEM = type("Wrong", (Fake,), {"versions": lambda self: 1 / 0})
    answers, job = io.StringIO(), json.dumps(asdict(JOB) | {"setting": {"speed": 2}})
    with pytest.raises(ZeroDivisionError):
        answer.serve("fake", io.StringIO(f'{job}\n{{"ask": "versions"}}\n'), answers)
    assert "ZeroDivisionError" in json.loads(answers.getvalue().splitlines()[-1])["broken"]


def test_the_fastest_setting_that_runs_is_measured(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    result = peer_rule.measure(settings(), print, "hooks")
    assert result["ran"] and result["setting"] == {"speed": 3}
    assert [row["seconds"] for row in result["tuning"]] == [2, pytest.approx(2 / 3), 1, None]
    assert result["tuning"][3]["unable"] == "OSError: this setting needs a compiler"
    assert result["continued"] == {"ms": {"dropped": [1.0] * 3}, "unable": None}
    assert result["edited"] == {"ms": {}, "unable": "it has no way to edit a layer"}
    assert list(result["capabilities"]) == [*(probe for probe in PROBES if probe != "survive"), "survive"]
    assert result["capabilities"]["stop"]["exception"].startswith("IndexError")
    assert result["capabilities"]["survive"]["seen"] == "kept"


def test_the_process_that_was_tuned_last_is_measured_where_it_was_the_fastest(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(Fake, "TUNED", ({"speed": 1}, {"speed": 3}))
    result = peer_rule.measure(settings(), print, "hooks")
    assert result["setting"] == {"speed": 3} and result["capabilities"]["survive"]["seen"] == "kept"
    assert len(InProcess.loaded) == 3  # of each setting, and for `survive`
    assert len({len(one.job.prompts) for one in InProcess.every if one.begun}) == 2  # it comes back with one prompt


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_the_next_imports_while_one_loads_and_never_while_one_is_asked(fake, monkeypatch, cores):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(peer_rule.os, "sched_getaffinity", lambda _: range(cores))
    peer_rule.measure(settings(), print, "hooks")
    assert not [each for each in InProcess.asked if each[2]]
    assert len(InProcess.every) == 6  # four settings, and two to be measured
    beside = [importing for importing, _ in InProcess.loaded]
    assert beside == {2: [1, 1, 1, 1, 1, 0], 4: [3, 0, 0, 1, 1, 0], 16: [5, 0, 0, 0, 0, 0]}[cores]
    assert not any(held for _, held in InProcess.loaded), "the device holds one at a time"


def test_what_waits_to_begin_is_ended_with_a_mistake_too(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(InProcess, "begin", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        peer_rule.measure(settings(), print, "hooks")
    assert len(InProcess.every) > 1 and all(one.ended for one in InProcess.every)


def test_settings_that_depend_on_how_the_device_fills_are_tried_with_all_sessions(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(Fake, "TUNED_WHOLE", True)
    peer_rule.measure(settings(tune_sessions=1), print, "hooks")
    tried = [more["sessions"] for question, more, _ in InProcess.asked if question == "workload"]
    assert tried == [WARM_UP, 3] * 3  # the fourth setting does not load


def test_no_setting_is_begun_when_the_time_for_them_is_over(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    result = peer_rule.measure(settings(tune_seconds=0), print, "hooks")
    assert result["ran"] and result["setting"] == {"speed": 1}
    assert [row["seconds"] for row in result["tuning"]] == [2, None, None, None]
    assert all("not tried" in row["unable"] for row in result["tuning"][1:])


def test_what_is_not_tuned_is_measured_as_shipped(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    result = peer_rule.measure(settings(tune_sessions=0), print, "hooks")
    assert result["ran"] and result["setting"] == {"speed": 1}
    assert (result["tuning"], result["settings_offered"]) == ([], 4)


def test_what_runs_in_no_setting_is_not_run_with_every_reason(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(Fake, "TUNED", ({"speed": 0},) * 2)
    result = peer_rule.measure(settings(), print, "hooks")
    assert not result["ran"] and result["reason"] == "OSError: this setting needs a compiler"
    assert len(result["tuning"]) == 2 and result["capabilities"] is None


@pytest.mark.parametrize(("mode", "words"), [("auto", "FileNotFoundError: "), ("off", "peers.vllm: off")])
def test_vllm_without_its_environment_is_not_run_with_its_reason(mode, words):
    result = peer_rule.measure(settings(vllm=mode), print, "vllm")
    assert not result["ran"] and words in result["reason"]
    assert missing("vllm", settings(vllm=mode).peers) and missing("hooks", settings().peers) is None


def test_vllm_that_is_asked_for_must_be_there():
    with pytest.raises(peer_rule.PeerMissing, match=r"peers\.vllm is on, but it cannot be run: FileNotFoundError"):
        peer_rule.measure(settings(vllm="on"), print, "vllm")


def test_djinn_answers_what_the_others_are_asked(tmp_path):
    with Asked("djinn_peer", JOB) as asked:
        done = asked.ask("workload", sessions=2)
        assert done["paused"] and [len(tokens) for tokens in done["tokens"]] == [4, 4]
        times = asked.ask("continued", warmup=0, samples=1)
        assert set(times) == {"resident", "offloaded"} and all(ms > 0 for (ms,) in times.values())
        assert set(asked.ask("edited", warmup=0, samples=1)) == {"plain", "own"}
        for probe in ("stop", "edit", "park", "exact"):
            assert asked.ask(probe)["answer"] == "yes", probe
        asked.ask("leave", folder=str(tmp_path))
        asked.kill()
    with Asked("djinn_peer", JOB) as asked:
        assert asked.ask("survive", folder=str(tmp_path))["answer"] == "yes"


def test_a_process_that_ends_by_itself_is_broken():
    with pytest.raises(Broken, match="ModuleNotFoundError"):
        Asked("no_such_system", JOB)


def test_a_python_that_has_the_system_alone_finds_what_asks_it(monkeypatch, tmp_path):
    """As vLLM's has, which is an environment of its own."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    names = "import sys; sys.path = [p for p in sys.path if 'packages' not in p]; "
    code = names + "from importlib.util import find_spec as f; assert f('djinn') and f('evaluation.contenders.answer')"
    subprocess.run([sys.executable, "-S", "-c", code], env=environment(), cwd=tmp_path, check=True)


def test_a_process_that_waits_for_a_job_ends_with_its_block():
    with Asked("reference", None) as asked:
        assert asked._process.poll() is None
    assert asked._process.poll() == -signal.SIGKILL


IMPORTS = """
import sys, torch
def refuse(): raise SystemExit("a context on the card is made")
torch.cuda.is_available, torch.cuda._lazy_init = lambda: True, refuse  # as if there were one
for module in sys.argv[1:]:
    __import__(f"evaluation.contenders.{module}")
"""


def test_to_import_a_system_takes_nothing_of_a_card():
    """It waits so while another is measured."""
    ours = set(MODULES.values()) - {"vllm_peer"}
    done = subprocess.run([sys.executable, "-c", IMPORTS, *sorted(ours)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_environment_of_vllm_is_reached_by_a_path_without_a_space(tmp_path):
    (tmp_path / "un été" / "bin").mkdir(parents=True)
    python = tmp_path / "un été" / "bin" / "python"
    python.symlink_to(sys.executable)
    with interpreters(settings(vllm_python=str(python)).peers) as path_of:
        assert path_of("hooks") == sys.executable
        assert " " not in path_of("vllm") and Path(path_of("vllm")).resolve() == python.resolve()
    with interpreters(settings(vllm_python=str(python.parent / "not there")).peers) as path_of:
        assert path_of("vllm") == str(python.parent / "not there")
