"""A session's slabs: where they lie is known without making one, and each is made where it lies."""

from __future__ import annotations

import pytest
import torch

from djinn.model.slabs import SlabCache
from djinn.paging.layout import Slabs
from djinn.sizes import KVShape
from djinn.tiers.pools import Pool

SHAPE = KVShape(3, 2, 4, 8, "float32")  # layers, kv_heads, head_dim, hidden_size


@pytest.fixture
def slabs():
    arena = Pool(1 << 16, torch.device("cpu"), SHAPE.unit_bytes)
    extents = arena.extents.take(*[SHAPE.layer_token_bytes * 40] * 3)
    return Slabs(SHAPE, arena, torch.float32, extents[::-1])  # not in the order of their addresses


def test_addresses_are_those_of_the_tensors(slabs):
    assert slabs.addresses.tolist() == [slab.data_ptr() for slab in slabs]
    assert all(slab.shape[1:] == (2, 2, 4) and slab.shape[0] >= 40 for slab in slabs)


def test_a_cache_makes_a_slab_when_its_layer_is_asked(slabs):
    made = []

    class Noting(Slabs):
        def __getitem__(self, layer):
            made.append(layer)
            return super().__getitem__(layer)

    cache = SlabCache(3)
    noting = Noting(slabs._shape, slabs._arena, slabs._dtype, slabs._extents)
    cache.bind(noting, addresses=noting.addresses)
    assert cache.addresses.tolist() == slabs.addresses.tolist() and made == []
    cache.begin(0)
    cache.layers[1].claim(2).fill_(1.0)
    cache.layers[1].claim(2)
    assert made == [1] and bool((slabs[1][:2] == 1).all())


def test_a_slab_made_in_a_pass_is_of_the_same_kind_as_one_made_before(slabs):
    """torch compiles anew for the other kind, and a pass that would need another form fails."""
    with torch.inference_mode():
        room = slabs[0][:2]
    assert not room.is_inference()


def test_too_few_slabs_are_refused():
    with pytest.raises(ValueError, match="2 slabs for 3 layers"):
        SlabCache(3).bind(torch.zeros(2, 8, 2, 2, 4))
