"""The same promises on a CUDA device. Skipped where there is none; what they showed is in results/reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sessions import alone, edited_alone

import djinn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


PARTS = ("batching", "own-loop", "compiling", "graphs", "ahead", "write-through", "parts-first", "overlap")


@pytest.fixture(
    scope="module", params=[(), *[(part,) for part in PARTS]], ids=lambda without: "-".join(without) or "all"
)
def client(request):
    with (
        djinn.serve(
            "tiny-llama",
            device="cuda:0",
            dtype="bfloat16",
            device_budget="24MB",
            host_budget="60MB",
            max_tokens=256,
            without=request.param,
        ) as server,
        djinn.connect(server.endpoint, timeout=60) as connected,
    ):
        yield connected


def test_a_pause_behind_any_layer_goes_on_to_the_bit(client, prompt):
    session = client.open()
    whole = session.prefill(prompt, max_new_tokens=6)
    session.close()
    for layer in range(1, client.server.depth + 1):
        session = client.open()
        session.prefill(prompt, break_at=layer)
        session.park()
        pause = session.resume(max_new_tokens=6, break_at=layer, break_token=3)
        rest = session.resume(max_new_tokens=3)
        assert [*pause.tokens.tolist(), *rest.tokens.tolist()] == whole.tokens.tolist()
        assert np.array_equal(rest.logits, whole.logits)
        session.close()


def test_more_sessions_than_the_arena_holds_are_bit_equal_to_themselves_alone(client, prompt):
    prompts = [prompt[i:] + prompt[:i] for i in range(14)]
    expected = [alone(client, p, 6) for p in prompts]
    sessions = [client.open() for _ in prompts]
    for session, p in zip(sessions, prompts, strict=True):
        session.prefill(p, break_at=4)
        session.resume(max_new_tokens=1, break_at=4, break_token=1)
    assert client.stats()["bytes"]["host_bytes"] > 0
    for session, whole in zip(sessions, expected, strict=True):
        out = session.resume(max_new_tokens=5)
        assert out.tokens.tolist() == whole.tokens[1:].tolist()
        assert np.array_equal(out.logits, whole.logits)
        s = out.stamps
        assert s["accepted"] <= s["ready"] <= s["first_layer"] <= s["done"]
        session.close()


def test_an_unedited_round_trip_through_the_client(client, prompt):
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[5])
    again = session.resume(checkpoints[5], activation=checkpoints[5].activation())
    assert np.array_equal(again.logits, out.logits)
    session.close()


def test_prompts_asked_for_at_once_are_bit_equal_to_themselves_alone(client, prompt):
    prompts = [(prompt[i:] + prompt[:i])[: 20 + 3 * i] for i in range(8)]
    expected = [alone(client, p, 0) for p in prompts]
    sessions = [client.open() for _ in prompts]
    asked = [session.prefill(p, break_at=3, wait=False) for session, p in zip(sessions, prompts, strict=True)]
    for pending in asked:
        pending.result()
    for session, whole in zip(sessions, expected, strict=True):
        assert np.array_equal(session.resume().logits, whole.logits)
        session.close()


def test_who_stands_at_a_layer_joins_those_who_go_through_all_to_the_bit(client, prompt):
    depth = client.server.depth
    layers = [0, 1, 3, 3, depth - 1, depth, 0]
    prompts = [prompt[i:] + prompt[:i] for i, _ in enumerate(layers)]
    expected = [alone(client, p, 6) for p in prompts]
    sessions = [client.open() for _ in layers]
    for session, p, layer in zip(sessions, prompts, layers, strict=True):
        session.prefill(p, max_new_tokens=1, **({"break_at": layer, "break_token": 1} if layer else {}))
    asked = [
        session.resume(max_new_tokens=5, wait=False) if layer else session.generate(max_new_tokens=5, wait=False)
        for session, layer in zip(sessions, layers, strict=True)
    ]
    for session, pending, whole in zip(sessions, asked, expected, strict=True):
        out = pending.result()
        assert out.tokens.tolist() == whole.tokens[1:].tolist()
        assert np.array_equal(out.logits, whole.logits)
        session.close()


def test_forks_of_one_pause_are_edited_each_by_itself_to_the_bit(client, prompt):
    edits = [djinn.Scale(0.5), djinn.Scale(1.5), ()]
    expected = [edited_alone(client, prompt, 3, edit, 5) for edit in edits]
    session = client.open()
    session.prefill(prompt, break_at=3)
    forks = [session.fork() for _ in edits]
    asked = [fork.resume(edit=edit, max_new_tokens=5, wait=False) for fork, edit in zip(forks, edits, strict=True)]
    for pending, whole in zip(asked, expected, strict=True):
        out = pending.result()
        assert out.tokens.tolist() == whole.tokens.tolist() and np.array_equal(out.logits, whole.logits)
    for one in (session, *forks):
        one.close()
