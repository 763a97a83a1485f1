"""The seed's other experiments, each run small against a real server: what they see, and that they would see a fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sessions import small_server

import djinn
from evaluation import breakpoints, checkpoint_cost, concurrent, dispatch, steering, traced, zero_change
from evaluation.copying import busy_share, last_copy_out
from evaluation.load import DECODING, Load
from evaluation.parking import OFF, put_aside
from evaluation.plain import Plain, apart, step
from evaluation.wire_tap import WireTap

TINY = {"name": "tiny-llama", "source": "random", "dtype": "float32", "seed": 0} | dict.fromkeys(
    ("path", "hub_id", "revision")
)


def said(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def server() -> Iterator[djinn.LocalServer]:
    """For these tests alone: a load that breaks off leaves its sessions to their lease."""
    with small_server() as running:
        yield running


@pytest.fixture(scope="module")
def settings(server: djinn.LocalServer) -> SimpleNamespace:
    """Those of the server, and few of everything."""
    plain = Plain(TINY, "cpu")
    return SimpleNamespace(
        device="cpu",
        threads=1,
        server=server.endpoint,
        weights=plain.facts,
        model=SimpleNamespace(**TINY),
        budget=SimpleNamespace(host="60MB"),
        resume=SimpleNamespace(prompt_tokens=48, samples=2),
        oversubscription=SimpleNamespace(break_at=4, new_tokens=3),
        activation_steering=SimpleNamespace(
            enabled=True, modification_type="scale", modification_factor=0.9, steering_layer=4
        ),
        breakpoints=SimpleNamespace(prompt_tokens=8, new_tokens=4),
        checkpoint_cost=SimpleNamespace(prompt_tokens=32, pairs=2),
        dispatch=SimpleNamespace(samples=2),
        concurrent=SimpleNamespace(clients=3),
    )


def test_interrupted_sessions_give_the_tokens_of_uninterrupted_ones_and_of_plain_transformers(
    client: djinn.Client, settings: SimpleNamespace, prompt: list[int]
) -> None:
    prompts = [prompt[:8], prompt[20:28]]
    plain, wanted = Plain(TINY, "cpu"), settings.breakpoints
    whole = breakpoints.uninterrupted(client, prompts, wanted.new_tokens)
    alone = [(out.tokens, out.logits[-1]) for out in whole]
    generated = list(plain.generate(prompts, wanted.new_tokens))
    row = breakpoints.held_against(breakpoints.interrupted(client, prompts, 3, wanted), alone, generated)
    assert row == {"tokens": 8, "as_uninterrupted": [4, 4], "as_generate": [4, 4], "bit_equal": 2}
    found = plain.compare(prompts[0], whole[0].tokens, whole[0].logits)
    assert (found["positions"], found["near_ties"], found["different"]) == (11, 0, 0)
    assert found["max_abs_logit_diff"] < 1e-3
    control = found["control"]  # rounds otherwise, and is the same model
    assert control["different"] == 0 and 0 < control["max_abs_logit_diff"] < 1e-3
    assert plain.model.config._attn_implementation != "eager"


def test_another_token_and_other_logits_are_counted() -> None:
    tokens, logits = np.array([1, 2, 3]), np.array([0.5, 0.25])
    row = breakpoints.held_against([(tokens, logits)], [(np.array([1, 9, 3]), logits + 1)], [np.array([0, 0, 0])])
    assert row == {"tokens": 3, "as_uninterrupted": [2], "as_generate": [0], "bit_equal": 0}


def test_a_near_tie_is_told_from_a_difference(prompt: list[int]) -> None:
    plain = Plain(TINY, "cpu")
    with torch.inference_mode():
        logits = plain.model(torch.tensor([prompt[:4]])).logits[0].numpy().copy()
    best, second = np.argsort(logits[1])[::-1][:2]
    logits[1, second] = logits[1, best] + 1  # they see another best token; plain logits are far apart
    found = plain.compare(prompt[:3], np.array([prompt[3], 0]), logits)
    assert (found["near_ties"], found["different"]) == (0, 1) and found["max_abs_logit_diff"] >= 1
    assert step(torch.tensor([1.0, 3.0, -4.0]), "bfloat16").tolist() == [2**-7, 2**-6, 2**-5]


def test_a_near_tie_is_counted_apart_whether_both_agree_or_not() -> None:
    plainly = torch.tensor([[1.0, 1 + 2**-7, 0.0], [1.0, 1 + 2**-7, 0.0], [1.0, 3.0, 0.0], [1.0, 3.0, 0.0]])
    ours = plainly.clone()
    ours[1, 0] = ours[3, 0] = 4.0
    found = apart(ours, plainly, "bfloat16")
    assert (found["near_ties"], found["different"]) == (2, 1)


def test_steering_agrees_with_a_hook_and_one_changes_nothing(settings: SimpleNamespace) -> None:
    found = steering.measure(settings, said)
    rows = {row["factor"]: row["by_prompt"] for row in found["sweep"]}
    assert set(rows) == set(steering.SWEEP) and all(len(prompts) == steering.PROMPTS for prompts in rows.values())
    assert all(one["changed_logits"] == one["kl"] == one["relative_l2"] == 0 for one in rows[1.0])
    assert all(one["changed_logits"] > 0.9 for one in rows[0.5])
    assert max(one["hook_max_abs"] for prompts in rows.values() for one in prompts) < 1e-3
    pairs = {way: len(times) for way, times in found["resume_ms"].items()}
    assert pairs == {"unedited": steering.COST_PAIRS, "edited": steering.COST_PAIRS}


def test_steering_that_is_off_says_so(settings: SimpleNamespace) -> None:
    off = SimpleNamespace(**{**vars(settings), "activation_steering": SimpleNamespace(enabled=False)})
    heard: list[str] = []
    assert steering.measure(off, heard.append) == {"enabled": False} and "off" in heard[0]


def test_checkpoints_are_timed_drained_and_copied_beside_others(settings: SimpleNamespace) -> None:
    found = checkpoint_cost.measure(settings, said)
    assert found["checkpoints"] == 8 and all(len(times) == 2 for times in found["prefill_ms"].values())
    hidden = 8 * 32 * 256 * 4  # a checkpoint of each layer: at least that left the device
    assert min(found["drained_bytes"]) >= hidden and min(found["parked_ms"]) > 0
    for all_of_it, behind in zip(found["drained_bytes"], found["behind_bytes"], strict=True):
        assert 0 < behind <= all_of_it, "it is copied while the prefill runs, not from the park on"
    assert len(found["drained_ms"]) == 2 and min(found["drained_ms"]) >= 0
    beside = found["interference"]
    assert all(len(beside[what][way]) == 2 for what in ("prefill_ms", "decode_ms") for way in ("alone", "beside"))
    assert min(beside["copied_bytes"]) > 0 and all(0 <= share <= 1 for share in beside["busy"])
    assert beside["decode_passes"] == 3 and len(beside["busy"]) == 1


def test_copies_are_watched_in_every_tenth_pair_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode of four new tokens is timed over the three passes behind the first one's logits."""
    out = SimpleNamespace(stamps={"ready": 0, "logits": 1_000_000, "done": 7_000_000})
    session = SimpleNamespace(prefill=lambda *_, **__: out, resume=lambda *_, **__: out, close=lambda: None)
    decoder = SimpleNamespace(**{**vars(session), "prefill": lambda *_, **__: ({8: None}, out)})
    sessions = iter([decoder, *[session] * 100])
    client = SimpleNamespace(
        open=lambda: next(sessions),
        server=SimpleNamespace(depth=8),
        stats=lambda: {"bytes": {"evicted_bytes": 0, "restored_bytes": 0}},
    )
    watched: list[int] = []
    copying = contextlib.nullcontext(SimpleNamespace(under_way=contextlib.nullcontext))
    monkeypatch.setattr(checkpoint_cost, "Copying", lambda *_: copying)
    monkeypatch.setattr(checkpoint_cost, "busy_share", lambda *_: watched.append(1) or float(len(watched)))
    pairs = checkpoint_cost.WARM_UP + 11
    with contextlib.ExitStack() as stack:
        found = checkpoint_cost.interference(stack, "", client, [[0]] * 2, pairs)
    assert found["decode_ms"] == {"alone": [2.0] * 11, "beside": [2.0] * 11}
    assert found["busy"] == [1.0, 2.0]


def test_the_busy_share_counts_overlapping_copies_once() -> None:
    def event(tid: int, start_us: float, length_us: float) -> dict:
        return {"ph": "X", "tid": tid, "ts": start_us, "dur": length_us}

    names = [
        {"ph": "M", "tid": tid, "args": {"name": name}}
        for tid, name in ((0, "compute"), (1, "copy out"), (2, "copy in"))
    ]
    events = [*names, event(0, 0, 100), event(1, 10, 20), event(2, 20, 20), event(2, 90, 50)]
    client = SimpleNamespace(timeline=lambda: {"traceEvents": events})
    assert busy_share(client, [(0, 100_000)]) == pytest.approx(0.4)
    assert last_copy_out(client) == pytest.approx(30_000), "of copies off the device alone"


def test_dispatch_is_measured_idle_and_busy(settings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "NEW_TOKENS", 2)  # so that some are over in so short a time
    found = dispatch.measure(settings, said)
    assert found["same_clock"]
    for state in ("idle_ms", "busy_ms"):
        assert set(found[state]) == {"prefill", "resume", "resume_with_activation"}
        assert all(len(times) == 2 and min(times) > 0 for times in found[state].values())
    assert found["fetch"]["bytes"] == 48 * 256 * 4 and len(found["fetch"]["ms"]) == 2
    assert len(found["loaded"]["ready_ms"]) == 2 and found["loaded"]["tokens"] > 0


def test_a_load_that_broke_off_is_no_load(server: djinn.LocalServer) -> None:
    with pytest.raises(djinn.errors.BadRequest), Load(server.endpoint, [[10**9]] * DECODING):
        pytest.fail("the load did not begin")


def test_concurrent_clients_stand_paused_at_once_and_are_bit_equal(settings: SimpleNamespace) -> None:
    found = concurrent.measure(settings, said)
    assert [row["layer"] for row in found["clients"]] == [1, 5, 8] and found["paused_at_once"]
    assert all(row["bit_equal"] and row["tokens_equal"] == 3 for row in found["clients"])


def test_layers_are_spread_from_first_to_last() -> None:
    assert concurrent.spread(8, 8) == list(range(1, 9)) and concurrent.spread(30, 1) == [1]


def test_the_traced_request_counts_every_byte_both_ways(settings: SimpleNamespace) -> None:
    found = traced.measure(settings, said)
    by_step = {row["step"]: row for row in found["steps"]}
    hidden, logits = 48 * 256 * 4, 512 * 4
    assert (found["activation_bytes"], found["logits_bytes"]) == (hidden, logits)
    run, fetched, went_on = list(by_step.values())[1:4]
    assert 48 * 8 < run["up_bytes"] < 48 * 8 + 1000 and logits < run["down_bytes"] < logits + 1000
    assert hidden < fetched["down_bytes"] < hidden + 1000 and hidden < went_on["up_bytes"] < hidden + 1000
    assert by_step["run and stop at the layer"]["down_bytes"] < 1000  # a pause sends neither logits nor activation
    assert found["stop_equals_checkpoint"] and found["changed_logits"] > 0
    assert found["stayed_bytes"] == 48 * settings.weights["kv_bytes_per_token"] + hidden


def test_a_tap_ends_when_no_client_came(server: djinn.LocalServer) -> None:
    with WireTap(server.endpoint) as tap:
        assert tap.counts == (0, 0)


def test_sessions_are_aside_when_put_aside(client: djinn.Client, prompt: list[int]) -> None:
    sessions = [client.open() for _ in range(2)]
    for session in sessions:
        session.prefill(prompt[:32], break_at=2)
    put_aside(sessions)
    assert all(session.state in OFF for session in sessions)
    for session in sessions:
        session.close()


def test_the_users_script_prints_the_same_with_and_without_pressure(
    server: djinn.LocalServer, prompt: list[int]
) -> None:
    prompts = [prompt[:40], prompt[40:80]]
    first = zero_change.run_script(server.endpoint, prompts, 2)
    assert first == zero_change.run_script(server.endpoint, prompts, 2) and len(first.splitlines()) == 4
    with pytest.raises(zero_change.ScriptFailed, match="exit code 1"):
        zero_change.run_script(server.endpoint, [[10**9]], 2)
    code = zero_change.SCRIPT.read_text().partition('"""\n')[2]  # behind its docstring
    assert code and not any(word in code for word in ("park", "cpu", "budget"))
