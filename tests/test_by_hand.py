"""The peers of the comparison on a tiny model: each does the work, and each cell of the table comes from a probe that ran."""

from __future__ import annotations

import logging
import weakref
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from test_contenders import JOB

from evaluation.contenders.answer import answer
from evaluation.contenders.contender import Job, Unable, tails

ROOMY = replace(JOB, kv_room=10_000_000)  # about twelve of these sessions
SMALL_BLOCKS = 4  # of continuous batching's settings: a prompt of 32 tokens fills some
FEW = dict.fromkeys(("stop", "edit", "park", "exact", "survive"), "no")


class Asked:
    """What asking.Asked does, in this process: its start takes longer than all that is asked here."""

    def __init__(self, module: str, job: Job, choice: int = 0) -> None:
        system = import_module(f"evaluation.contenders.{module}").SYSTEM
        self.system, self.in_turn = system(replace(job, setting=system.TUNED[choice])), system.IN_TURN

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.system.close()
        torch.set_grad_enabled(True)

    def ask(self, question: str, **more: Any) -> Any:
        return answer(self.system, {"ask": question, **more})


@pytest.fixture
def ask(tmp_path):
    """system → its workload's answer, its times' names, and answer by probe, through two instances as the rule does it."""

    def asked(module, choice=0, job=ROOMY):
        with Asked(module, job, choice=choice) as system:
            found = {"versions": system.ask("versions"), "workload": system.ask("workload", sessions=2)}
            found["continued"] = system.ask("continued", warmup=0, samples=1)
            found["edited"] = _or_unable(system, "edited")
            probes = {probe: system.ask(probe) for probe in system.in_turn}
            system.ask("leave", folder=str(tmp_path))
        with Asked(module, job, choice=choice) as system:
            probes["survive"] = system.ask("survive", folder=str(tmp_path))
        return found | {"probes": probes, "answers": {probe: cell["answer"] for probe, cell in probes.items()}}

    return asked


def _or_unable(system, question):
    try:
        return system.ask(question, warmup=0, samples=1)
    except Unable:
        return None


def tokens_of(found):
    tokens = found["workload"]["tokens"]
    assert [len(row) for row in tokens] == [JOB.new_tokens + 1] * 2
    return tokens


@pytest.fixture(scope="module")
def plain():
    with Asked("hooks", ROOMY) as system:
        return system.ask("workload", sessions=2)["tokens"]


def test_hooks_stop_nothing(ask, plain):
    found = ask("hooks")
    assert found["answers"] == FEW | {"edit": "yes", "exact": "partly", "survive": "partly"}
    assert found["probes"]["stop"]["exception"].startswith("LeftForward")
    assert found["probes"]["survive"]["exception"].startswith("UnpicklingError")
    assert tokens_of(found) == plain and set(found["continued"]) == {"resident"}


def test_what_hooks_keep_must_fit():
    with Asked("hooks", replace(JOB, kv_room=1000)) as system, pytest.raises(Unable, match="the budget leaves 1"):
        system.ask("workload", sessions=2)


def test_manual_offload_does_all_of_it_for_this_type_of_model(tmp_path):
    with Asked("manual", ROOMY) as system:
        with pytest.raises(Unable, match="the loop is for one session"):
            system.ask("workload", sessions=2)
        assert set(system.ask("continued", warmup=0, samples=1)) == {"offloaded"}
        assert set(system.ask("edited", warmup=0, samples=1)) == {"plain", "hook", "own"}
        assert {probe: system.ask(probe)["answer"] for probe in system.in_turn} == dict.fromkeys(
            ("stop", "edit", "park", "exact"), "yes"
        )
        system.ask("leave", folder=str(tmp_path))
    with Asked("manual", ROOMY) as system:
        assert system.ask("survive", folder=str(tmp_path))["answer"] == "yes"


@pytest.mark.parametrize("module", ["handswap_pageable", "handswap_pinned"])
@pytest.mark.parametrize("rooms", [1, 9])
def test_hand_written_swaps_give_the_plain_tokens(ask, plain, module, rooms):
    one = (96 + JOB.new_tokens + 1) * JOB.kv_bytes_per_token
    found = ask(module, job=replace(JOB, kv_room=rooms * one))
    assert tokens_of(found) == plain and found["workload"]["paused"]
    assert found["workload"]["off_device_bytes"] == (one if rooms == 1 else 0)
    assert found["answers"]["stop"] == "no" and found["answers"]["park"] == found["answers"]["exact"] == "partly"


def test_a_swap_without_room_for_one_says_so():
    with pytest.raises(Unable, match="the budget leaves"):
        Asked("handswap_pinned", replace(JOB, kv_room=1000))


def test_transformers_offload_needs_a_card_and_says_so():
    with pytest.raises(Unable, match="DynamicCache"):
        Asked("hf_offload", ROOMY)


def test_continuous_batching_is_left_only_by_losing_the_requests(ask, plain):
    found = ask("hf_batching", choice=SMALL_BLOCKS)
    assert tokens_of(found) == plain and not found["workload"]["paused"]
    assert found["answers"] == FEW | {"edit": "partly", "exact": found["answers"]["exact"]}
    assert "2 of 2 requests are lost" in found["probes"]["stop"]["seen"]
    assert set(found["continued"]) == {"prefix_cached", "dropped"}


def test_batching_that_lost_its_thread_gives_its_blocks_back(request):
    logging.disable()  # pytest keeps what is logged, the exception too
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    with Asked("hf_batching", ROOMY, choice=SMALL_BLOCKS) as asked:
        blocks = weakref.ref(asked.system.batching.manager.batch_processor.cache)
        assert "a new manager is needed" in asked.ask("stop")["seen"]
        assert blocks() is None, "a card has no room for the new ones beside them"


def test_what_graphs_hide_from_hooks_is_not_taken_for_work_that_was_left_out(plain, monkeypatch):
    """Nor for work that was spared: the probes go without them."""

    @contextmanager
    def sees_nothing(self):
        yield []

    with Asked("hf_batching", ROOMY, choice=SMALL_BLOCKS) as asked:
        asked.system.setting["use_cuda_graph"] = True  # there are none without a card
        with monkeypatch.context() as patch:
            patch.setattr(type(asked.system), "tokens_computed", sees_nothing)
            done = {"workload": asked.ask("workload", sessions=2)}
            assert tokens_of(done) == plain
            assert set(asked.ask("continued", warmup=0, samples=1)) == {"prefix_cached", "dropped"}
        assert asked.ask("park")["answer"] == "no"
        assert asked.system.hooks_fire


def test_nnsight_goes_on_by_skipping_what_has_run(ask, plain):
    found = ask("nnsight_peer")
    assert found["answers"] == {"stop": "yes", "edit": "yes", "park": "no", "exact": "yes", "survive": "yes"}
    assert found["probes"]["stop"]["exception"].startswith("RuntimeError")
    assert tokens_of(found) == plain and "nnsight" in found["versions"]
    assert set(found["edited"]) == {"plain", "hook", "own"}


def test_what_whole_blocks_cannot_keep():
    assert tails([[0] * 513, [0] * 512, [0]], 128) == 1 + 128 + 1
