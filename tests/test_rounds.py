"""Rounds of the workload: in turn where several systems fit the device, by each system's own rule where one does."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from contending import JOB, Fake, InProcess, settings

from evaluation import peer as peer_rule
from evaluation import rounds
from evaluation import workload as workload_rule
from evaluation.contenders.contender import Contender
from evaluation.peers import PEERS, used_alone, used_by_workload


def answers_of(folder, **results):
    """What each system's own rule found; as of one that ran, but for what is given."""
    for system in PEERS:
        found = {"ran": True, "reason": None, "setting": {"speed": 2}, "workload": None, **results.get(system, {})}
        (folder / f"peer_{system}.json").write_text(json.dumps({"result": found}))


OFF = {"ran": False, "reason": "it is off"}


def test_all_systems_take_their_rounds_in_turn(fake, monkeypatch, tmp_path):
    for system in PEERS:
        monkeypatch.setitem(workload_rule.MODULES, system, "fake")
    answers_of(tmp_path, djinn={"setting": {"speed": 3}}, vllm=OFF)
    said = []
    found = workload_rule.measure(settings(), said.append, tmp_path)
    order = [system for system in PEERS if system != "vllm"]
    assert [line.split(": ")[2] for line in said if ": round" in line] == order * 2
    assert found["systems"]["vllm"] == {"unable": "it is off", "seconds": []}
    assert found["systems"]["djinn"]["seconds"] == [1.0, 1.0] and found["systems"]["hooks"]["seconds"] == [1.5, 1.5]
    assert found["systems"]["hooks"]["tokens_as_djinn"] == 1 and found["systems"]["hooks"]["sessions_as_djinn"] == 3
    timed = [importing for _, more, importing in InProcess.asked if more["sessions"] > rounds.WARM_UP]
    assert timed == [0] * 2 * len(order)
    first, *behind = InProcess.loaded
    assert first == (len(order) - 1, 0), "the others import while the first loads"
    assert [held for _, held in behind] == list(range(1, len(order)))


def test_where_the_device_holds_one_system_its_own_rule_makes_the_rounds(fake, monkeypatch, tmp_path):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    alone = peer_rule.measure(settings(together=False, tune_sessions=1), print, "hooks")
    assert [one["seconds"] for one in alone["workload"]["rounds"]] == [1.0, 1.0]
    assert ["tokens" in one for one in alone["workload"]["rounds"]] == [False, True]
    asked = [(question, more.get("sessions")) for question, more, _ in InProcess.asked]
    at = asked.index(("workload", rounds.WARM_UP))
    assert asked[at : at + 4] == [("workload", 2), ("workload", 3), ("workload", 3), ("continued", None)]
    assert {len(one.job.prompts) for one in InProcess.every if one.begun} == {3, 1}, "all, and one to come back with"

    answers_of(tmp_path, vllm=OFF, **{system: alone for system in PEERS if system != "vllm"})
    begun = len(InProcess.every)
    found = workload_rule.measure(settings(together=False), print, tmp_path)
    assert len(InProcess.every) == begun, "nothing is loaded again for it"
    assert found["systems"]["djinn"]["seconds"] == [1.0, 1.0] and found["systems"]["hooks"]["sessions_as_djinn"] == 3
    assert found["systems"]["vllm"] == {"unable": "it is off", "seconds": []}


def test_in_turn_with_others_a_system_makes_no_rounds_in_its_own_rule(fake, monkeypatch):
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    assert peer_rule.measure(settings(together=True), print, "hooks")["workload"] is None


@pytest.mark.parametrize("together", [True, False])
def test_a_rule_needs_no_key_but_those_of_its_part(fake, monkeypatch, tmp_path, together):
    def part(keys):
        whole = settings(together=together)
        kept = {key: value for key, value in vars(whole.peers).items() if f"peers.{key}" in keys}
        return SimpleNamespace(**vars(whole) | {"peers": SimpleNamespace(**kept)})

    for system in PEERS:
        monkeypatch.setitem(peer_rule.MODULES, system, "fake")
    alone = {
        system: peer_rule.measure(part(used_alone(system, together)), print, system) for system in ("djinn", "vllm")
    }
    answers_of(tmp_path, **dict.fromkeys(PEERS, alone["djinn"]) | alone)
    found = workload_rule.measure(part(used_by_workload(together)), print, tmp_path)
    assert found["together"] is together and found["systems"]["vllm"]["seconds"] == [1.0, 1.0]


@pytest.mark.parametrize(("systems", "made"), [(2, 2), (1, 1)])
def test_a_long_round_is_the_last_of_a_system_that_has_the_device_alone(fake, monkeypatch, systems, made):
    monkeypatch.setitem(workload_rule.MODULES, "hooks", "fake")
    monkeypatch.setattr(rounds, "LONG_S", 0.8)
    every = [workload_rule.Timed("hooks", {"reason": None, "setting": {"speed": n}}, JOB, "") for n in (2, 3)]
    for group in [every] if systems == 2 else [[one] for one in every]:
        workload_rule.loaded_in_turn(group, 2, print)
    slow, fast = every
    assert [one["seconds"] for one in slow.done] == [1.0] * made
    assert len(fast.done) == 2


def test_who_has_no_workload_is_not_loaded_to_say_so(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(Fake, "workload", Contender.workload)
    monkeypatch.setattr(InProcess, "begin", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setitem(workload_rule.MODULES, "hooks", "fake")
    with workload_rule.Timed("hooks", {"reason": None, "setting": {"speed": 2}}, JOB, "") as one:
        one.load()
    assert one.row([])["unable"] == "it has no workload of many sessions"


@pytest.mark.parametrize("together", [True, False])
def test_who_does_few_sessions_but_not_as_many_says_so(fake, monkeypatch, tmp_path, together):
    many = settings(together=together, tune_sessions=0)
    many.oversubscription.sessions = 41
    monkeypatch.setitem(peer_rule.MODULES, "hooks", "fake")
    alone = peer_rule.measure(many, print, "hooks")
    for system in PEERS:
        monkeypatch.setitem(workload_rule.MODULES, system, "fake")
    answers_of(tmp_path, **dict.fromkeys(PEERS, alone))
    with pytest.raises(workload_rule.NothingToCompare, match="41 sessions do not fit"):
        workload_rule.measure(many, print, tmp_path)
