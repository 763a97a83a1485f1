"""The loop of our own computes what re-entry computes, stops as it does, and says which models it does not serve."""

from __future__ import annotations

import shutil

import pytest
import torch
from small_llama import DEPTH, HEAD_DIM, HEADS, ROOM, TOKENS, build, fresh, model

from djinn.model.drive import drive
from djinn.model.executor import Executor, Finished, Stopped
from djinn.model.fused import why_not
from djinn.model.loop import Loop
from djinn.model.probe_loop import differs
from djinn.model.slabs import SlabCache
from djinn.paging.layout import Slabs
from djinn.sizes import KVShape
from djinn.tiers.pools import Pool

SHAPE = KVShape(DEPTH, HEADS, HEAD_DIM, HEADS * HEAD_DIM, "float32")
IDS = torch.randint(3, 97, (1, TOKENS), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_session_on_a_cpu_has_the_bits_of_re_entry(dtype, kv_heads):
    executor = build(dtype, num_key_value_heads=kv_heads)
    before = executor.run(fresh(executor), IDS, 0, all_logits=True)
    loop = Loop(executor, rows=4, max_tokens=ROOM)
    theirs, ours = fresh(executor), fresh(executor)
    expected = executor.run(theirs, IDS, 0, all_logits=True)
    found = loop.run(ours, IDS, 0, all_logits=True)
    assert torch.equal(before.logits, expected.logits), "joining the projections changed the model"
    assert torch.equal(found.logits, expected.logits)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(mine.slab[:TOKENS], other.slab[:TOKENS])
    assert ours.lengths == theirs.lengths == [TOKENS] * DEPTH
    assert differs(loop) is None


@pytest.mark.parametrize("layer", range(1, DEPTH + 1))
def test_a_stop_behind_any_layer_goes_on_to_the_bit_and_nothing_above_has_run(layer):
    loop = Loop(build(), rows=4, max_tokens=ROOM)
    whole = loop.run(fresh(loop.reentry), IDS, 0)
    cache = fresh(loop.reentry)
    stopped = loop.run(cache, IDS, 0, stop=layer)
    assert isinstance(stopped, Stopped)
    assert stopped.layer == layer
    assert cache.lengths == [TOKENS] * layer + [0] * (DEPTH - layer)
    assert all(bool(one.slab.isnan().all()) for one in cache.layers[layer:])
    kept = stopped.hidden.clone()
    first: list[int] = []
    rest = loop.run(cache, IDS, 0, start=layer, hidden=stopped.hidden, on_first=lambda: first.append(layer))
    assert isinstance(rest, Finished)
    assert torch.equal(rest.logits, whole.logits)
    assert torch.equal(stopped.hidden, kept), "the kept state was written to"
    assert first == [layer]


def test_a_first_pass_that_goes_on_does_not_read_its_tokens():
    loop = Loop(build(), rows=4, max_tokens=ROOM)
    whole, cache = loop.run(fresh(loop.reentry), IDS, 0), fresh(loop.reentry)
    stopped = loop.run(cache, IDS, 0, stop=3)
    assert not loop.reads(TOKENS, 0, 3)
    rest = loop.run(cache, torch.full_like(IDS, -1), 0, start=3, hidden=stopped.hidden)
    assert torch.equal(rest.logits, whole.logits)


@pytest.mark.parametrize(("tokens", "past", "start"), [(TOKENS, 0, 0), (7, TOKENS, 3), (1, TOKENS, 3), (1, 0, 3)])
def test_every_other_pass_reads_its_tokens(tokens, past, start):
    assert Loop(build(), rows=4, max_tokens=ROOM).reads(tokens, past, start)


def test_taps_see_what_a_stop_gives():
    loop, seen = Loop(build(), rows=4, max_tokens=ROOM), {}
    loop.run(fresh(loop.reentry), IDS, 0, taps={3: lambda hidden: seen.update({3: hidden.clone()})})
    assert torch.equal(seen[3], loop.run(fresh(loop.reentry), IDS, 0, stop=3).hidden)


def test_a_further_turn_goes_through_re_entry():
    """Both loops must leave the same KV for that."""
    executor = build()
    loop, more = Loop(executor, rows=4, max_tokens=ROOM), IDS[:, :7]
    ours, theirs = fresh(executor), fresh(executor)
    loop.run(ours, IDS, 0)
    executor.run(theirs, IDS, 0)
    assert torch.equal(loop.run(ours, more, TOKENS).logits, executor.run(theirs, more, TOKENS).logits)


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        ("qwen3", {}, "qwen3 is not of the Llama type"),
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("llama", {"attention_bias": True}, "have biases"),
        ("mistral", {"sliding_window": 16}, "sliding window of 16"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ("llama", {"head_dim": 24}, "24 wide"),
    ],
)
def test_what_it_does_not_serve_it_names(family, more, said):
    assert said in why_not(model(family, **more), ROOM)


@pytest.mark.parametrize(("family", "more"), [("llama", {}), ("mistral", {"sliding_window": ROOM})])
def test_what_it_serves(family, more):
    assert why_not(model(family, **more), ROOM) is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++, which is not here")
@pytest.mark.skipif(
    " " in torch.__file__, reason="torch hands its own folder to g++ without quotes: this path has a space"
)
def test_compiled_once_whatever_the_length_and_wherever_a_state_lay():
    """Two compiled forms of one half may differ in their bits: a stop must not lead from one to the other."""
    loop = Loop(build(), rows=4, max_tokens=ROOM)
    loop.first.compile()
    assert differs(loop) is None
    arena = Pool(1 << 20, torch.device("cpu"), SHAPE.unit_bytes)
    places = arena.extents.take(*[ROOM * SHAPE.layer_token_bytes] * 2 * DEPTH)
    kept = torch.zeros((1, ROOM, HEADS * HEAD_DIM))
    for tokens in (2, 17, TOKENS):
        whole_cache, cache = SlabCache(DEPTH), SlabCache(DEPTH)
        whole_cache.bind(Slabs(SHAPE, arena, torch.float32, places[:DEPTH]))  # made in the pass, as on a server
        cache.bind(Slabs(SHAPE, arena, torch.float32, places[DEPTH:]))
        whole = loop.run(whole_cache, IDS[:, :tokens], 0)
        for layer in (1, 5, DEPTH):
            kept[:, :tokens].copy_(loop.run(cache, IDS[:, :tokens], 0, stop=layer).hidden)
            rest = loop.run(cache, IDS[:, :tokens], 0, start=layer, hidden=kept[:, :tokens])
            assert torch.equal(rest.logits, whole.logits)


def test_a_difference_is_found_and_named():
    loop = Loop(build(), rows=4, max_tokens=ROOM)
    loop.layers[5].down.add_(0)  # nothing
    assert differs(loop) is None
    object.__setattr__(loop.layers[5], "down", loop.layers[5].down * 1.01)
    assert "layer 6 in prefill" in differs(loop)


@pytest.mark.parametrize(("without", "shared"), [((), 4), (("batching",), 1)])
def test_a_cpu_is_driven_by_re_entry(without, shared):
    driven, rows = drive(model(), 4, ROOM, ROOM, frozenset(without))
    assert isinstance(driven, Executor)
    assert rows == shared
