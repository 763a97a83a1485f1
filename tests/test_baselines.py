"""The baselines of the resume and the memory experiment: exact continuation, honest restores, fair and real limits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from djinn.errors import UnsupportedModel
from djinn.model.load import load_model
from evaluation import eager, manual_offload, recompute
from evaluation.continuation import Layers, SessionCache, make_cases

MODEL = {
    "name": "tiny-llama",
    "source": "random",
    "dtype": "bfloat16",
    "seed": 0,
    "path": None,
    "hub_id": None,
    "revision": None,
}
LAYERS = [1, 5, 8]


def settings(**sections):
    return SimpleNamespace(device="cpu", threads=1, model=SimpleNamespace(**MODEL), **sections)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def resume_settings():
    return settings(resume=SimpleNamespace(layers=LAYERS, prompt_tokens=48, samples=2, warmup=1))


def run(system):
    if system == "recompute":
        return recompute.measure(resume_settings(), print)
    return manual_offload.measure(resume_settings(), print, system)


@pytest.mark.parametrize("system", ["recompute", *manual_offload.MODES])
def test_each_goes_on_exactly_from_each_pause(system):
    result = run(system)
    cases = {(case["phase"], case["layer"]): case for case in result["cases"]}
    assert cases.keys() == {(phase, layer) for phase in ("prefill", "decode") for layer in LAYERS}
    for case in cases.values():
        assert case["logits_bit_equal"] and case["logits_max_abs_diff"] == 0.0
        assert len(case["samples"]) == 2
        for sample in case["samples"]:
            assert (
                sample["ready_ms"] >= 0 and sample["ready_ms"] + sample["first_layer_ms"] <= sample["logits_ms"] + 1e-6
            )
            assert (sample["resident_ms"] is None) is (system == "activation")


def test_the_bytes_restored_are_those_of_the_pause():
    hidden, kv_layer_token = 256 * 2, 2 * 4 * 64 * 2
    full = {(case["phase"], case["layer"]): case["bytes"] for case in run("full")["cases"]}
    assert full["prefill", 5] == 48 * (hidden + 5 * kv_layer_token)
    assert full["decode", 5] == hidden + 49 * 8 * kv_layer_token
    pageable = {(case["phase"], case["layer"]): case["bytes"] for case in run("pageable")["cases"]}
    assert pageable["decode", 5] == hidden + (48 * 8 + 5) * kv_layer_token
    assert all(case["bytes"] == 0 for case in run("recompute")["cases"])


@torch.inference_mode()
def test_nothing_above_the_breakpoint_has_run_or_is_there():
    loaded = load_model(**MODEL)
    layers = Layers(loaded.model)
    case = next(case for case in make_cases(loaded.model, [list(range(3, 40))], [3]) if case.phase == "prefill")
    held = SessionCache(loaded.facts, 37, loaded.model.lm_head.weight)
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, n=n: calls.append(n))
        for n, layer in enumerate(layers.body.layers, 1)
    ]
    manual_offload.Paused(layers, held, case)
    assert calls == [1, 2, 3]
    assert not held.buffer[:3].isnan().any() and held.buffer[3:].isnan().all()
    for hook in hooks:
        hook.remove()


def line(sessions):
    return {"sessions": sessions, "live_kv_bytes": sessions * 10, "process_bytes": 1000 + sessions * 10}


SIZES = {"weights_bytes": 50, "headroom_bytes": 100, "kv_bytes_per_session": 10}
DEATH = {"error": "RuntimeError: DefaultCPUAllocator: can't allocate memory", "live_kv_bytes": 90}


def outcome(lines, last_words="", exit_code=1):
    return eager.read_outcome("default", lines, last_words, exit_code, 1.0, print)


def test_an_out_of_memory_is_read():
    sizes, row = outcome([SIZES, *map(line, range(1, 10)), DEATH])
    assert sizes == SIZES
    assert (row["sessions"], row["live_over_headroom"], row["exit_code"], len(row["curve"])) == (9, 0.9, 1, 9)
    assert "can't allocate" in row["error"]


def test_a_process_that_aborted_for_memory_counts_by_its_last_words():
    _, row = outcome([SIZES, line(1)], "terminate called after throwing an instance of 'std::bad_alloc'", -6)
    assert row["sessions"] == 1 and row["exit_code"] == -6


def test_a_library_that_only_says_it_failed_counts_where_no_room_was_left():
    lines = [SIZES, *map(line, range(1, 10))]
    dumb = {"error": "RuntimeError: could not execute a primitive", "live_kv_bytes": 90}
    _, row = outcome([*lines, {**dumb, "room_bytes": 9}])
    assert row["sessions"] == 9
    for room in (10, None):
        with pytest.raises(eager.BaselineBroken, match="primitive"):
            outcome([*lines, {**dumb, "room_bytes": room}])
    with pytest.raises(eager.BaselineBroken, match="ValueError"):
        outcome([*lines, {"error": "ValueError: no", "room_bytes": 0}])


def test_no_limit_and_another_end_are_errors():
    with pytest.raises(eager.NoLimitFound, match=r"raise eager\.max_sessions"):
        outcome([SIZES, line(1)], exit_code=0)
    with pytest.raises(eager.BaselineBroken, match="ValueError"):
        outcome([SIZES, line(1), {"error": "ValueError: no"}])
    with pytest.raises(eager.BaselineBroken, match="after 0 sessions"):
        outcome([], "RuntimeError: can't allocate memory")


def test_a_wasteful_best_setting_is_unfair():
    best = {"name": "default", "sessions": 8, "live_kv_bytes": 84, "live_over_headroom": 0.84}
    with pytest.raises(eager.UnfairBaseline, match=r"0\.84, below 0\.85"):
        eager.check_fair(best, SIZES)
    eager.check_fair({**best, "live_over_headroom": 0.85}, SIZES)


def test_a_real_allocation_fails_under_the_limit():
    wanted = settings(
        budget=SimpleNamespace(device="42MB", overhead="2MB"),
        oversubscription=SimpleNamespace(prompt_tokens=256),
        eager=SimpleNamespace(max_sessions=40, allocators=["mmap64k"]),
    )
    result = eager.measure(wanted, print)
    (row,) = result["settings"]
    assert row["exit_code"] != 0 and any(sign in row["error"] for sign in (*eager.OUT_OF_MEMORY, eager.ONEDNN))
    assert (
        row["sessions"] == len(row["curve"])
        and row["live_kv_bytes"] == row["sessions"] * result["kv_bytes_per_session"]
    )
    assert result["headroom_bytes"] == 42_000_000 - result["weights_bytes"]
    assert row["live_kv_bytes"] < 40_000_000 - result["weights_bytes"]  # the overhead was not given out


def test_a_model_of_another_type_is_refused_with_what_to_do():
    other = resume_settings()
    other.model.name = "gpt2-small"
    with pytest.raises(UnsupportedModel, match=r"GPT2LMHeadModel.*snakemake djinn_resume"):
        recompute.measure(other, print)


def test_a_process_that_ends_before_it_has_its_job_is_no_limit(monkeypatch):
    monkeypatch.setitem(eager.ALLOCATORS, "default", {"PYTHONHOME": "/nowhere"})
    wanted = settings(
        budget=SimpleNamespace(device="1MB", overhead="0"),
        oversubscription=SimpleNamespace(prompt_tokens=48),
        eager=SimpleNamespace(max_sessions=2, allocators=["default"]),
    )
    with pytest.raises(eager.BaselineBroken, match="after 0 sessions"):
        eager.measure(wanted, print)
