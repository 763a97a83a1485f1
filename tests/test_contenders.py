"""How the systems of the comparison are asked: what they cannot do is a row, a mistake of ours is an error."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from evaluation import peer as peer_rule
from evaluation import workload as workload_rule
from evaluation.contenders import answer
from evaluation.contenders.asking import Asked, Broken, environment
from evaluation.contenders.contender import PROBES, Contender, Evidence, Job, NotRefused, Unable, refusal
from evaluation.peers import MODULES, PEERS, interpreters, missing

TINY = {"name": "tiny-llama", "source": "random", "dtype": "bfloat16", "seed": 0}
TINY |= dict.fromkeys(("path", "hub_id", "revision"))
FACTS = {
    "bytes": 10_756_608,
    "layers": 8,
    "hidden_size": 256,
    "intermediate_size": 512,
    "vocab_size": 512,
    "dtype": "bfloat16",
}
FACTS |= {"kv_heads": 4, "head_dim": 64, "kv_bytes_per_token": 8192}
JOB = Job(
    device="cpu",
    threads=1,
    model=TINY,
    weights="",
    device_budget=32_000_000,
    given_out=30_000_000,
    kv_room=10_000_000,
    kv_bytes_per_token=FACTS["kv_bytes_per_token"],
    host_budget=100_000_000,
    layer=4,
    prompts=[list(range(3, 99)), list(range(9, 105))],
    new_tokens=3,
)


class Fake(Contender):
    TUNED = ({"speed": 1}, {"speed": 3}, {"speed": 2}, {"speed": 0})

    def __init__(self, job):
        super().__init__(job)
        self.speed = job.setting["speed"]
        if self.speed == 0:
            raise Unable("OSError: this setting needs a compiler")

    def versions(self):
        return {"fake": "1"}

    def workload(self, sessions):
        if sessions > 40:
            raise Unable("41 sessions do not fit")
        made = {"seconds": sessions / self.speed, "tokens": [[1, 2]] * sessions, "paused": False}
        return {**made, "parts": {}, "off_device_bytes": 0}

    def continued(self, warmup, samples):
        return {"dropped": [1.0] * samples}

    def stop(self):
        return Evidence("no", "8 layers ran again", refusal(lambda: [][1], IndexError))

    def edit(self):
        return Evidence("yes", "equal")

    park = exact = edit

    def leave(self, folder):
        (folder / "session").write_text("kept")

    def come_back(self, folder):
        return Evidence("yes", (folder / "session").read_text())


class InProcess:
    """What Asked does, without the process: it is taken to import until it is heard."""

    every: ClassVar[list] = []
    asked: ClassVar[list] = []  # (question, its arguments, how many imported meanwhile)
    loaded: ClassVar[list] = []  # at each load: (processes that import, that are loaded) beside it

    def __init__(self, module, job, python=""):
        self.told, self.begun, self.ended = None, False, False
        self.every.append(self)

    @classmethod
    def importing(cls):
        return sum(one.told is None and not one.ended for one in cls.every)

    def hear(self):
        self.told = self.told or talk("fake")[0]["answer"]
        return self.told

    @property
    def tuned(self):
        return self.hear()["tuned"]

    @property
    def workload(self):
        return self.hear()["workload"]

    def begin(self, job, choice=0):
        self.job = job if choice is None else replace(job, setting=self.tuned[choice])
        self.loaded.append((self.importing(), sum(one.begun and not one.ended for one in self.every)))
        self.begun = True
        self._said(json.dumps(asdict(self.job)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True

    kill = close = __exit__

    def ask(self, question, **more):
        self.asked.append((question, more, self.importing()))
        return self._said(json.dumps(asdict(self.job)), json.dumps({"ask": question, **more}))

    def _said(self, *lines):
        told = talk("fake", *lines)
        if "unable" in told[-1]:
            raise Unable(told[-1]["unable"])
        return told[-1]["answer"]


@pytest.fixture
def fake(monkeypatch):
    module = ModuleType("fake")
    module.SYSTEM = Fake
    monkeypatch.setitem(sys.modules, "evaluation.contenders.fake", module)
    monkeypatch.setattr(peer_rule, "Asked", InProcess)
    monkeypatch.setattr(workload_rule, "Asked", InProcess)
    for kept in (InProcess.every, InProcess.asked, InProcess.loaded):
        kept.clear()
    yield module
    assert all(one.ended for one in InProcess.every)


def talk(module, *lines):
    answers = io.StringIO()
    answer.serve(module, io.StringIO("".join(f"{line}\n" for line in lines)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def settings(**peers):
    given = {"vllm": "auto", "vllm_python": "/nowhere/python", "rounds": 2, "together": True}
    given |= {"samples": 3, "warmup": 1, "tune_sessions": 2, "tune_seconds": 60, **peers}
    return SimpleNamespace(
        device="cpu",
        threads=1,
        weights=FACTS,
        model=SimpleNamespace(**TINY),
        budget=SimpleNamespace(device="32MB", overhead="2MB", host="100MB"),
        oversubscription=SimpleNamespace(sessions=3, prompt_tokens=32, new_tokens=3, break_at=4),
        peers=SimpleNamespace(**given),
    )


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
    assert tuned["answer"] == {"tuned": [{"speed": n} for n in (1, 3, 2, 0)], "workload": True}
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


@pytest.mark.parametrize("together", [True, False])
def test_all_systems_take_their_rounds_in_turn(fake, monkeypatch, tmp_path, together):
    for system in PEERS:
        monkeypatch.setitem(workload_rule.MODULES, system, "fake")
        reason = "it is off" if system == "vllm" else None
        result = {"reason": reason, "setting": {"speed": 3 if system == "djinn" else 2}}
        (tmp_path / f"peer_{system}.json").write_text(json.dumps({"result": result}))
    said = []
    found = workload_rule.measure(settings(together=together), said.append, tmp_path)
    rounds = [line.split(": ")[1:3] for line in said if ": round" in line]
    order = [system for system in PEERS if system != "vllm"]
    assert [system for _, system in rounds] == (order * 2 if together else [s for s in order for _ in range(2)])
    assert found["systems"]["vllm"] == {"unable": "it is off", "seconds": []}
    assert found["systems"]["djinn"]["seconds"] == [1.0, 1.0] and found["systems"]["hooks"]["seconds"] == [1.5, 1.5]
    assert found["systems"]["hooks"]["tokens_as_djinn"] == 1 and found["systems"]["hooks"]["sessions_as_djinn"] == 3
    timed = [importing for _, more, importing in InProcess.asked if more["sessions"] > workload_rule.WARM_UP]
    assert timed == [0] * 2 * len(order)
    first, *behind = InProcess.loaded
    assert first == (len(order) - 1, 0), "the others import while the first loads"
    assert all(held == (number if together else 0) for number, (_, held) in enumerate(behind, 1))


@pytest.mark.parametrize(("together", "rounds"), [(True, 2), (False, 1)])
def test_a_long_round_is_the_last_of_a_system_that_has_the_device_alone(fake, monkeypatch, together, rounds):
    monkeypatch.setitem(workload_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(workload_rule, "LONG_S", 0.8)
    every = [workload_rule.Timed("hooks", {"reason": None, "setting": {"speed": n}}, JOB, "") for n in (2, 3)]
    for group in [every] if together else [[one] for one in every]:
        workload_rule.in_turn(group, 2, print)
    slow, fast = every
    assert [one["seconds"] for one in slow.rounds] == [1.0] * rounds
    assert len(fast.rounds) == 2


def test_who_has_no_workload_is_not_loaded_to_say_so(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(Fake, "workload", Contender.workload)
    monkeypatch.setattr(InProcess, "begin", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setitem(workload_rule.MODULES, "hooks", "fake")
    with workload_rule.Timed("hooks", {"reason": None, "setting": {"speed": 2}}, JOB, "") as one:
        one.load()
    assert one.row([])["unable"] == "it has no workload of many sessions"


def test_who_does_few_sessions_but_not_as_many_says_so(fake, monkeypatch, tmp_path):
    for system in PEERS:
        monkeypatch.setitem(workload_rule.MODULES, system, "fake")
        (tmp_path / f"peer_{system}.json").write_text(json.dumps({"result": {"reason": None, "setting": {"speed": 2}}}))
    many = settings()
    many.oversubscription.sessions = 41
    with pytest.raises(workload_rule.NothingToCompare, match="41 sessions do not fit"):
        workload_rule.measure(many, print, tmp_path)


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
