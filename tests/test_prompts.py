"""Prompts: an exact number of tokens, all different, also when there are more of them than texts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evaluation.prompts import NoPrompts, cut, encoder, load_prompts, load_texts


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_there_are_fifty_different_texts():
    texts = load_texts()
    assert len(texts) >= 50 and len(set(texts)) == len(texts)


@pytest.mark.parametrize("tokens", [64, 512, 2048])
def test_prompts_are_of_the_length_asked_for_and_all_different(tokens):
    model = SimpleNamespace(name="tiny-llama", source="random")
    prompts = load_prompts(model, 60, tokens)
    assert {len(prompt) for prompt in prompts} == {tokens}
    assert len({tuple(prompt) for prompt in prompts}) == 60
    assert all(0 <= token < 512 for prompt in prompts for token in prompt)


def test_more_prompts_than_texts_are_still_different():
    prompts = cut(["one two three four five", "six seven eight nine ten"], letters, 6, 8)
    assert len({tuple(prompt) for prompt in prompts}) == 6


def test_a_short_text_goes_on_with_the_next():
    assert cut(["ab", "cd"], letters, 2, 3) == [letters("abc"), letters("cda")]


def test_too_few_tokens_and_no_texts_are_errors(tmp_path):
    with pytest.raises(NoPrompts, match="hold 4 tokens, 5 were asked for"):
        cut(["ab", "cd"], letters, 1, 5)
    with pytest.raises(NoPrompts, match="restore the folder"):
        load_texts(tmp_path)


def test_random_weights_read_bytes():
    assert encoder(SimpleNamespace(name="tiny-llama", source="random"))("é") == [0xC3, 0xA9]
