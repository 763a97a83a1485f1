from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from djinn.tiers.extents import ALIGNMENT, Extent, Extents

# How long an example takes, or to draw one, says how busy the machine is.
BESIDE_OTHERS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_all_or_nothing():
    extents = Extents(10 * ALIGNMENT)
    assert extents.take(4 * ALIGNMENT, 8 * ALIGNMENT) is None
    assert extents.free_bytes == 10 * ALIGNMENT


def test_giving_twice_is_an_account_that_does_not_balance():
    extents = Extents(10 * ALIGNMENT)
    (extent,) = extents.take(3 * ALIGNMENT)
    extents.give(extent)
    with pytest.raises(ValueError, match="free already"):
        extents.give(extent)


@settings(BESIDE_OTHERS, max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20 * ALIGNMENT)), max_size=60))
def test_extents_never_overlap_and_bytes_are_neither_made_nor_lost(steps):
    extents, held = Extents(100 * ALIGNMENT), []
    for give, size in steps:
        if give and held:
            extents.give(held.pop(size % len(held)))
        elif taken := extents.take(size):
            held += taken
            assert taken[0].size == extents.rounded(size)
        ordered = sorted(held)
        assert all(a.end <= b.start for a, b in pairwise(ordered))
        assert extents.free_bytes + sum(e.size for e in held) == extents.capacity
    for extent in held:
        extents.give(extent)
    assert extents.take(extents.capacity), "a drained range is whole again"


def holey(held: list[int]) -> Extents:
    """40 units, of which these are taken."""
    extents = Extents(40 * ALIGNMENT)
    places = extents.take(*[ALIGNMENT] * 40)
    extents.give(*[place for at, place in enumerate(places) if at not in held])
    return extents


def holes(extents: Extents) -> list[Extent]:
    return extents.take_scattered(extents.free_bytes)


@settings(BESIDE_OTHERS, max_examples=300)
@given(st.lists(st.integers(0, 39), max_size=12), st.lists(st.integers(1, 6 * ALIGNMENT), min_size=1, max_size=12))
def test_many_lie_side_by_side_or_where_one_after_the_other_would(held, sizes):
    at_once, singly = holey(held), holey(held)
    whole = at_once.lowest(at_once.room(sizes)) < at_once.capacity
    places, one_by_one = at_once.take(*sizes), [singly.take(size) for size in sizes]
    if whole:
        assert all(a.end == b.start for a, b in pairwise(places))
    else:
        assert places == (None if None in one_by_one else [place for (place,) in one_by_one])
    at_once.give(*reversed(places or ()))
    assert holes(at_once) == holes(holey(held)), "given back at once they are whole again"


def test_scattered_takes_holes_together_where_none_is_large_enough():
    extents = Extents(6 * ALIGNMENT)
    held = extents.take(*[ALIGNMENT] * 6)
    for extent in (held[1], held[3], held[4]):
        extents.give(extent)
    assert extents.take(3 * ALIGNMENT) is None
    assert sum(e.size for e in extents.take_scattered(3 * ALIGNMENT)) == 3 * ALIGNMENT
    assert extents.take_scattered(1) is None


def test_an_extent_grows_in_place_only_into_free_bytes():
    extents = Extents(4 * ALIGNMENT)
    first, second = extents.take(ALIGNMENT, ALIGNMENT)
    assert extents.extend(first, 2 * ALIGNMENT) is None
    grown = extents.extend(second, 3 * ALIGNMENT)
    assert grown == Extent(ALIGNMENT, 3 * ALIGNMENT)
    assert extents.free_bytes == 0
    extents.give(Extent(grown.start + ALIGNMENT, 2 * ALIGNMENT))
    assert extents.free_bytes == 2 * ALIGNMENT


def test_the_hole_under_an_extent_is_taken_whole_or_not():
    extents = Extents(6 * ALIGNMENT)
    held = extents.take(*[ALIGNMENT] * 6)
    for extent in (held[0], held[2], held[3]):
        extents.give(extent)
    assert extents.take_hole_under(held[5]) is None
    assert extents.take_hole_under(held[4], 3 * ALIGNMENT) is None
    assert extents.take_hole_under(held[4], 2 * ALIGNMENT) == Extent(2 * ALIGNMENT, 2 * ALIGNMENT)
    assert extents.free_bytes == ALIGNMENT
