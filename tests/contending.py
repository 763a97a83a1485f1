"""A system of the comparison that computes nothing, asked in this process: what the rules ask, and in which order, is kept."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from evaluation import peer as peer_rule
from evaluation import workload as workload_rule
from evaluation.contenders import answer
from evaluation.contenders.contender import Contender, Evidence, Job, Unable, refusal

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

    @property
    def whole(self):
        return self.hear()["whole"]

    @property
    def in_turn(self):
        return self.hear()["in_turn"]

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
