"""Every family of tests/families.py: paused at every layer, in prefill and in decode, in three dtypes, to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import family_table
import pytest
import torch
import transformers
from families import FAMILIES, REFUSED, Refused
from family_subject import LATER, TOKENS, Subject
from family_table import DTYPES, Record
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from djinn.errors import UnsupportedModel
from djinn.model.executor import Executor
from djinn.model.layers import text_config
from djinn.model.load import load_model
from djinn.model.probe import probe
from djinn.model.slabs import SlabCache


@pytest.fixture(scope="module", params=[(f, d) for f in FAMILIES for d in DTYPES], ids=lambda p: f"{p[0].name}-{p[1]}")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield Subject(*request.param)
    torch.set_num_threads(before)


def pauses_at(
    subject: Subject, caches: list[SlabCache], ids: torch.Tensor, past: int, expected: list[torch.Tensor]
) -> int:
    """Stop at every layer, everything above poisoned; then resume each, and feed the tokens behind. How many were bit-equal.

    All of them stand paused at once, and run in turn, so that each is also a stranger to the others.
    """
    run, depth, end = subject.executor.run, subject.depth, past + ids.shape[1]
    held = {}
    with subject.poisoned() as parts, subject.watched() as ran:
        for layer in range(depth, 0, -1):
            for parameter in parts[layer]:  # those above `layer`; the ones above them are NaN already
                parameter.fill_(torch.nan)
            ran.clear()
            cache = caches[layer - 1]
            above = [one.slab.clone() for one in cache.layers[layer:]]
            held[layer] = run(cache, ids, past, stop=layer).hidden.clone()
            assert ran == set(range(1, layer + 1)), "no layer above the pause may run"
            assert held[layer].isfinite().all(), "something above the pause was read"
            now = [one.slab for one in cache.layers[layer:]]
            assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(above, now, strict=True))
            assert past or all(slab.isnan().all() for slab in now)
            for one in cache.layers:
                one.length = 7919  # a resume depends on ids, past and hidden alone
    equal = 0
    with subject.watched() as ran:
        for layer in range(1, depth + 1):
            ran.clear()
            cache, hidden = caches[layer - 1], held[layer].clone()
            found = [run(cache, ids, past, start=layer, hidden=hidden).logits]
            assert ran == set(range(layer + 1, depth + 1)), "only the layers above the pause run on resume"
            assert torch.equal(hidden, held[layer]), "the saved state must serve again"
            at = end
            for token in subject.tokens[at - subject.family.prompt :][: len(expected) - 1]:
                found.append(run(cache, token, at).logits)
                at += 1
            equal += all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    return equal


def test_paused_at_every_layer_is_bit_equal_and_nothing_above_runs(subject, family_record: Record):
    caches = [subject.fresh() for _ in range(subject.depth)]
    prompt = subject.family.prompt
    equal = pauses_at(subject, caches, subject.prompt, 0, subject.logits[:1])
    equal += pauses_at(subject, caches, subject.tokens[0], prompt, subject.logits[1:3])  # the same sessions go on
    later = [subject.copied(subject.before_later) for _ in range(subject.depth)]
    expected = subject.logits[LATER : LATER + 3]
    equal += pauses_at(subject, later, subject.tokens[LATER - 1], prompt + LATER - 1, expected)
    row = family_record.row(subject.family.name)
    row.pauses += 3 * subject.depth
    row.equal += equal
    assert equal == 3 * subject.depth


def test_tokens_are_those_of_plain_generate(subject, family_record: Record):
    """Demanded in fp32; in 16 bits the share is recorded."""
    run, family = subject.executor.run, subject.family
    whole = run(subject.fresh(), subject.prompt, 0, all_logits=True).logits
    same = subject.same(subject.plain_tokens)
    row, config = family_record.row(family.name), text_config(subject.executor.model)
    heads = subject.shape[0]
    kind = "MHA" if heads == config.num_attention_heads else "MQA" if heads == 1 else "GQA"
    row.attention, row.layers = f"{kind}, {family.notes}", subject.depth
    row.tokens[subject.dtype] = str(same)
    if same < TOKENS and any(word in family.notes for word in ("sliding", "local")):  # its own cache drops tokens
        full = subject.generated(subject.executor.model, past_key_values=DynamicCache())
        row.tokens[subject.dtype] += f" ({subject.same(full)})"
    row.delta[subject.dtype] = (whole - subject.plain_logits).abs().max().item()
    if subject.dtype == "float32":
        assert same == TOKENS
        assert len({token.item() for token in subject.tokens}) > 4, "a model that repeats itself shows little"


def test_a_paused_session_is_unharmed_by_others(subject):
    """Longer ones too: a table that grows with the longest sequence must not reach it."""
    run, prompt = subject.executor.run, subject.family.prompt
    cache, past = subject.copied(subject.before_later), prompt + LATER - 1
    stopped = run(cache, subject.tokens[LATER - 1], past, stop=4)
    other, longer = subject.fresh(), torch.cat([subject.prompt, subject.prompt.flip(1), subject.prompt], 1)
    run(other, longer[:, : prompt + 40], 0, stop=5)
    for step in range(8):
        run(other, subject.tokens[step], prompt + 40 + step, stop=6 + step % 3)
    done = run(cache, subject.tokens[LATER - 1], past, start=4, hidden=stopped.hidden)
    assert torch.equal(done.logits, subject.logits[LATER])


def test_the_probe_lets_it_in(subject):
    probe(subject.executor)


def load_and_probe(case: Refused, folder: Path) -> None:
    """What a server does: load from a folder, then probe."""
    config = AutoConfig.for_model(case.model_type, **case.config)
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    else:
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
    loaded = load_model("refused", "path", path=str(folder))
    probe(Executor(loaded.model))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_by_name(case, tmp_path, family_record: Record):
    with pytest.raises(UnsupportedModel, match=case.says) as refusal:
        load_and_probe(case, tmp_path)
    family_record.refusals[case.name] = str(refusal.value).replace(str(tmp_path), "the folder").replace("|", "/")


def test_the_committed_table_names_exactly_these_cases():
    sections = family_table.sections(family_table.PATH.read_text())
    assert len(sections) >= 2, "the locked transformers and the newest"
    for version, section in sections.items():
        served, refused = family_table.names(section)
        assert served == [family.name for family in FAMILIES], version
        assert refused == [case.name for case in REFUSED], version
