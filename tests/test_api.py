"""The public API holds as it is written down: the promised listing, docs/api.md and the README's example are run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import save_llama
from transformers import AutoModelForCausalLM

import djinn
from djinn import errors
from djinn.states import MOVES, State

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text()
MODEL = '"smollm2-135m"'


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of SmolLM2's depth and vocabulary whose layers are tiny, so that the examples run as written."""
    made = tmp_path_factory.mktemp("tiny-smollm2")
    save_llama(made, layers=30, vocabulary=49152)
    return made


@pytest.fixture(scope="module")
def small(folder, tmp_path_factory) -> Iterator[djinn.Client]:
    with (
        djinn.serve(
            model=str(folder),
            device_budget="600MB",
            host_budget="100MB",
            threads=1,
            state_dir=str(tmp_path_factory.mktemp("state")),
        ) as server,
        djinn.connect(server.endpoint, timeout=60) as client,
    ):
        yield client


def test_the_promised_listing_in_its_order(client, prompt):
    """DESIGN's listing line by line: tiny-llama's 8 layers for 30, and a new session where a prefill needs one."""
    token_ids, more_ids = prompt, [5, 6, 7]
    session = client.open()
    pause = session.prefill(token_ids, break_at=5)
    h = pause.activation()
    assert h.shape == (1, 100, 256) and h.dtype == np.float32
    out = session.resume(edit=djinn.Scale(0.9), max_new_tokens=16)
    assert out.tokens.shape == (16,) and out.logits.shape == (512,)
    pause = session.resume(max_new_tokens=16, break_at=4, break_token=1)
    assert (pause.layer, pause.rows, len(pause.tokens)) == (4, 1, 1)
    pause = session.generate(more_ids, max_new_tokens=16, break_at=5, break_token=3)
    assert (pause.layer, pause.rows, len(pause.tokens)) == (5, 1, 3)

    first, session = session, client.open()
    ckpts, out = session.prefill(token_ids, checkpoint_at=[3, 5])
    h2 = ckpts[5].activation() * 0.9
    steered = session.resume(ckpts[5], activation=h2)
    assert not np.array_equal(steered.logits, out.logits)
    session.park()
    with pytest.raises(errors.BadRequest, match="--state-dir"):
        session.park(durable=True)
    session.cancel()
    session.close()
    assert pause.state == "paused" and pause.stamps["done"] > 0 and client.stats()["bytes"]["device_bytes"] > 0
    first.close()
    assert pause.state == "done"


def test_the_listing_gives_what_one_uninterrupted_run_gives(client, prompt):
    """Idle, paused in decode, with more input: the same tokens as turns that never stop."""
    plain, paused = client.open(), client.open()
    plain.prefill(prompt, max_new_tokens=4)
    expected = [plain.generate(max_new_tokens=1)]
    plain.generate(max_new_tokens=0)  # feeds the last token by itself, as the paused pass does: the same sums
    expected.append(plain.generate([5, 6, 7], max_new_tokens=6))
    paused.prefill(prompt, break_at=5)
    paused.resume(max_new_tokens=4)
    first = paused.resume(max_new_tokens=16, break_at=4, break_token=1)
    second = paused.generate([5, 6, 7], max_new_tokens=6, break_at=5, break_token=3)
    third = paused.resume(max_new_tokens=3)
    assert first.tokens.tolist() == expected[0].tokens.tolist()
    assert [*second.tokens, *third.tokens] == expected[1].tokens.tolist()
    assert np.array_equal(third.logits, expected[1].logits)
    for session in (plain, paused):
        session.close()


@pytest.mark.parametrize("code", blocks(API)[1:], ids=lambda code: code.splitlines()[1][:50])
def test_an_example_of_the_reference_runs(small, code):
    before = small.stats()["bytes"]["device_bytes"]
    names = {"djinn": djinn, "client": small, "ids": [504, 3575, 282, 4649, 314]}
    exec(code, names | {"more_ids": [1, 2, 3]})
    assert small.stats()["bytes"]["device_bytes"] == before, "an example closes its sessions"


def test_layers_are_counted_as_the_reference_says(small, folder):
    """From 1, in transformers' order; the last has not gone through the final norm."""
    ids, depth = [504, 3575, 282, 4649, 314], small.server.depth
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    session = small.open()
    checkpoints, _ = session.prefill(ids, checkpoint_at=range(1, depth + 1))
    for layer in range(1, depth):
        assert np.allclose(checkpoints[layer].activation(), states[layer], atol=1e-5)
    last = torch.from_numpy(checkpoints[depth].activation())
    with torch.inference_mode():
        assert np.allclose(model.model.norm(last), states[depth], atol=1e-5) and not np.allclose(last, states[depth])
    session.close()


def test_the_logits_that_come_chose_the_last_token(client, prompt):
    session = client.open()
    out = session.prefill(prompt, max_new_tokens=3)
    assert out.logits.argmax() == out.tokens[-1]
    stopped = client.open()
    met = stopped.prefill(prompt, max_new_tokens=3, break_at=2, break_token=3, stop_tokens=[out.tokens[0]])
    assert isinstance(met, djinn.Out) and met.tokens.tolist() == [out.tokens[0]]
    session.close()
    stopped.close()


@pytest.mark.parametrize(("end", "state"), [(djinn.Session.cancel, "cancelled"), (djinn.Session.close, "closed")])
def test_what_is_under_way_when_its_session_ends_says_so(client, prompt, end, state):
    session = client.open()
    stream = session.prefill(prompt, max_new_tokens=150, stream=True)
    next(stream)
    end(session)
    with pytest.raises(errors.IllegalMove, match=f"the session was {state} while"):
        stream.result()


@pytest.mark.parametrize(("name", "text"), [("docs/api.md", API), ("README.md", (ROOT / "README.md").read_text())])
def test_the_whole_example_runs(folder, name, text):
    code = blocks(text)[0]
    assert MODEL in code, f"the first python block of {name} starts a server with {MODEL}"
    exec(code.replace(MODEL, repr(str(folder))), {})


def test_the_table_of_states_is_that_of_the_state_machine():
    table = API.partition("<!-- states:begin -->")[2].partition("<!-- states:end -->")[0]
    rows = [line.strip("|").split("|") for line in table.strip().splitlines()[2:]]
    written = {re.findall(r"`(\w+)`", state)[0]: set(re.findall(r"`(\w+)`", to)) for state, _, to in rows}
    assert written == {str(state): {str(to) for to in MOVES[state]} for state in State}


def test_every_name_that_the_reference_gives_exists():
    for name in set(re.findall(r"`djinn\.([A-Za-z_.]+)", API)):
        target = djinn
        for part in name.split("."):
            target = getattr(target, part)
    for name in errors.BY_CODE.values():
        assert f"`{name.__name__}`" in API or f".{name.__name__}`" in API, f"{name.__name__} is not in the reference"


def test_the_reference_gives_every_keyword():
    for call in (djinn.serve, djinn.connect, djinn.Session.prefill, djinn.Session.resume, djinn.Session.generate):
        for name, parameter in inspect.signature(call).parameters.items():
            if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                assert re.search(rf"\b{name}\b", API), f"{call.__qualname__}({name}) is not in the reference"
    for name in djinn.__all__:
        assert re.search(rf"\b{name}\b", API), f"{name} is not in the reference"


def test_serve_says_what_each_option_is():
    for name in inspect.signature(djinn.serve).parameters:
        if name != "unknown":
            assert re.search(rf"\b{name}\b", djinn.serve.__doc__), f"serve's docstring does not say what {name} is"
