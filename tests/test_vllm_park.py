"""vLLM's parking probe against an engine that counts as vLLM does: vLLM itself lives in another environment, most often in none."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
from test_contenders import JOB

from evaluation.contenders.contender import Unable, a_few

BLOCK, WHOLE = 16, 640
JOB = replace(JOB, prompts=[list(range(3 + n, 99 + n)) for n in range(0, 40, 5)])
ONE = -(-97 // BLOCK)  # blocks of a session


class Pool(OrderedDict):
    """Blocks by the tokens up to their end, of which those used longest ago are dropped."""

    def __init__(self, size):
        self.size = size

    def use(self, key):
        self[key] = None
        self.move_to_end(key)
        while len(self) > self.size:
            self.popitem(last=False)


class Engine:
    longest = 108

    def __init__(self, job):
        self.settings = []

    def use(self, setting):
        if "kv_offloading_size" in setting and not self.offloads:
            raise Unable("Exception: offloading is for cards")
        self.settings.append(setting)
        self.device = Pool(setting.get("num_gpu_blocks_override", WHOLE))
        self.host = Pool(int(setting.get("kv_offloading_size", 0) * 2**30) // (BLOCK * JOB.kv_bytes_per_token))

    def blocks(self, setting):
        return setting.get("num_gpu_blocks_override", WHOLE), BLOCK

    def forget(self):
        self.device.clear()
        self.host.clear()

    def run(self, prompts, new):
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt):
        keys = [tuple(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        found = next((n for n, key in enumerate(keys) if key not in self.device and key not in self.host), len(keys))
        for key in keys:
            self.device.use(key)
            self.host.use(key)
        return SimpleNamespace(num_cached_tokens=found * BLOCK, outputs=[SimpleNamespace(token_ids=[7])])


@pytest.fixture
def vllm(monkeypatch):
    stub = ModuleType("evaluation.contenders.vllm_engine")
    vars(stub).update(
        Engine=Engine, last_logits=None, limit=None, new_tokens=lambda output: output.outputs[0].token_ids
    )
    monkeypatch.setitem(sys.modules, "evaluation.contenders.vllm_engine", stub)
    monkeypatch.delitem(sys.modules, "evaluation.contenders.vllm_peer", raising=False)
    yield import_module("evaluation.contenders.vllm_peer")
    sys.modules.pop("evaluation.contenders.vllm_peer")


def test_more_than_a_few_blocks_hold_come_back_from_a_pool_that_fits_them(vllm, monkeypatch):
    monkeypatch.setattr(Engine, "offloads", True, raising=False)
    peer = vllm.VLLM(JOB)
    found = peer.park()
    assert found.answer == "partly" and found.exception is None
    few = peer.engine.settings[-1]["num_gpu_blocks_override"]
    assert few == WHOLE // 8
    many = int(found.seen.split()[0])
    assert many * ONE > few and "the 80 of 640 blocks" in found.seen and "GB of its offload" in found.seen
    need = many * ONE * BLOCK * JOB.kv_bytes_per_token
    assert need < peer.engine.settings[-1]["kv_offloading_size"] * 2**30 < 2 * need
    assert f": {many} of {98 * many - many} tokens computed again" in found.seen


def test_no_pool_is_larger_than_the_host_budget_and_what_it_drops_is_computed_again(vllm, monkeypatch):
    monkeypatch.setattr(Engine, "offloads", True, raising=False)
    peer = vllm.VLLM(replace(JOB, host_budget=20 * BLOCK * JOB.kv_bytes_per_token))
    assert peer.park().answer == "no"
    assert peer.engine.settings[-1]["kv_offloading_size"] * 2**30 == 20 * BLOCK * JOB.kv_bytes_per_token


def test_without_its_offload_they_are_computed_again(vllm, monkeypatch):
    monkeypatch.setattr(Engine, "offloads", False, raising=False)
    peer = vllm.VLLM(JOB)
    found = peer.park()
    assert found.answer == "no" and found.exception == "Exception: offloading is for cards"
    assert "without its offload" in found.seen and peer.engine.settings[-1]["num_gpu_blocks_override"] == WHOLE // 8


@pytest.mark.parametrize(("blocks", "few"), [(4100, 512), (640, 404), (40, 40)])
def test_an_eighth_of_the_blocks_but_room_for_four(blocks, few):
    assert a_few(blocks, 16, 1601) == few
