"""Seeded sampling is that of transformers' generate(), and its random stream belongs to the session alone.

The weights are random, so the next token is nearly uniform over 512: a stream that is one draw off shows at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sessions import wait_for

import djinn
from djinn.engine.sampler import Sampler, check
from djinn.errors import BadRequest, NotFinite
from djinn.model.load import load_model

SAMPLING = djinn.Sampling(temperature=0.8, top_k=200, top_p=0.9, seed=7)


@pytest.fixture(scope="module")
def plain() -> Iterator[torch.nn.Module]:
    """The server's model in plain transformers, with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = load_model("tiny-llama", "random", "float32").model
    model.generation_config.eos_token_id = None  # 64 tokens, whatever they are
    yield model
    torch.set_num_threads(threads)


def generated(model: torch.nn.Module, prompt: list[int], seed: int, **how) -> list[int]:
    torch.manual_seed(seed)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=64, pad_token_id=0, **how
    )
    return out[0, len(prompt) :].tolist()


def sampled(client: djinn.Client, prompt: list[int], new: int, sampling: djinn.Sampling | None) -> list[int]:
    session = client.open()
    tokens = session.prefill(prompt, max_new_tokens=new, sampling=sampling).tokens.tolist()
    session.close()
    return tokens


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3])
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1.0, "top_k": None, "top_p": 1.0},
        {"temperature": 0.7, "top_k": 50, "top_p": 1.0},
        {"temperature": 1.3, "top_k": None, "top_p": 0.9},
        {"temperature": 0.05, "top_k": 20, "top_p": 0.8},
    ],
    ids=str,
)
def test_a_seed_draws_what_generate_draws(client, plain, prompt, how, seed):
    expected = generated(plain, prompt, seed, **how | {"top_k": how["top_k"] or 0})
    assert sampled(client, prompt, 64, djinn.Sampling(**how, seed=seed)) == expected


def test_greedy_is_the_default_and_temperature_zero(client, prompt):
    greedy = sampled(client, prompt, 12, None)
    assert sampled(client, prompt, 12, djinn.Sampling(temperature=0)) == greedy
    assert sampled(client, prompt, 12, djinn.Sampling(top_k=1)) == greedy
    assert sampled(client, prompt, 12, SAMPLING) != greedy


def test_seeds_differ_and_repeat(client, prompt):
    runs = [sampled(client, prompt, 12, djinn.Sampling(seed=seed)) for seed in (0, 1, 0, 1)]
    assert runs[:2] == runs[2:] and runs[0] != runs[1]


@pytest.mark.parametrize("evicted", [False, True], ids=["on the device", "evicted"])
def test_a_sampled_session_that_is_paused_draws_as_if_it_was_not(client, prompt, evicted):
    """Paused in prefill and twice in decode, with others drawing in between."""
    expected = sampled(client, prompt, 16, SAMPLING)
    other = client.open()
    other.prefill(prompt, sampling=djinn.Sampling(seed=7))

    def aside() -> None:
        other.generate(max_new_tokens=3)
        if evicted:
            session.park()
            wait_for(session, "host")

    session = client.open()
    session.prefill(prompt, break_at=3, sampling=SAMPLING)
    aside()
    first = session.resume(max_new_tokens=16, break_at=5, break_token=4)
    aside()
    second = session.resume(max_new_tokens=12, break_at=1, break_token=1)
    aside()
    third = session.resume(max_new_tokens=3)
    aside()
    fourth = session.generate(max_new_tokens=8)
    assert [len(x.tokens) for x in (first, second, third, fourth)] == [4, 1, 3, 8]
    assert [*first.tokens, *second.tokens, *third.tokens, *fourth.tokens] == expected
    for one in (session, other):
        one.close()


def test_a_rewind_takes_the_random_stream_back(client, prompt):
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[3, 6], max_new_tokens=8, sampling=SAMPLING)
    further = session.generate(max_new_tokens=8).tokens.tolist()
    assert [*out.tokens, *further] == sampled(client, prompt, 16, SAMPLING)
    for layer in (6, 3, 6):
        again = session.resume(checkpoints[layer], max_new_tokens=8)
        assert again.tokens.tolist() == out.tokens.tolist()
    assert session.generate(max_new_tokens=8).tokens.tolist() == further
    session.close()


def test_a_rewind_with_another_sampling_is_a_new_start_once(client, prompt):
    another = djinn.Sampling(seed=8)
    session = client.open()
    checkpoints, out = session.prefill(prompt, checkpoint_at=[4], max_new_tokens=8, sampling=SAMPLING)
    other = session.resume(checkpoints[4], max_new_tokens=4, sampling=another).tokens.tolist()
    other += session.generate(max_new_tokens=4).tokens.tolist()
    assert other == sampled(client, prompt, 8, another)
    assert session.resume(checkpoints[4], max_new_tokens=8).tokens.tolist() == out.tokens.tolist()
    session.close()


def test_sampling_begins_where_it_is_given(client, prompt):
    session = client.open()
    session.prefill(prompt, break_at=4)
    out = session.resume(max_new_tokens=8, sampling=SAMPLING)
    assert out.tokens.tolist() == sampled(client, prompt, 8, SAMPLING)
    greedy = session.generate(max_new_tokens=4, sampling=djinn.Sampling(temperature=0)).tokens.tolist()
    plain = client.open()
    fed = [*prompt, *out.tokens]
    assert greedy == plain.prefill(fed, max_new_tokens=4).tokens.tolist()
    for one in (session, plain):
        one.close()


def test_a_copy_draws_what_the_original_will_and_leaves_it():
    logits = torch.zeros(512)
    sampler = Sampler(djinn.Sampling(seed=3))
    sampler.choose(logits)
    copy = sampler.copy()
    assert [copy.choose(logits) for _ in range(8)] == [sampler.choose(logits) for _ in range(8)]


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = Sampler(djinn.Sampling(seed=3)).choose(torch.zeros(512))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert Sampler(djinn.Sampling(seed=3)).choose(torch.zeros(512)) == drawn


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_overflowed_are_no_distribution(number, temperature):
    logits = torch.zeros(16)
    logits[3] = number
    with pytest.raises(NotFinite, match="rewind"):
        Sampler(djinn.Sampling(temperature=temperature)).choose(logits)


def test_the_least_temperature_stays_a_distribution():
    check(djinn.Sampling(temperature=1e-3))
    logits = torch.tensor([1e4, 0.0, -1e4, -float("inf")])
    assert Sampler(djinn.Sampling(temperature=1e-3)).choose(logits) == 0
    with pytest.raises(BadRequest):
        check(djinn.Sampling(temperature=1e-4))
