"""What is queued together, on the way back to the device."""

from __future__ import annotations

import pytest

from djinn.paging.transfers import TOGETHER, Piece, groups


@pytest.mark.parametrize("alone", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 41, 200])
def test_groups_are_the_moves_in_order_and_small_where_somebody_waits(count, alone):
    moves = [(layer, [Piece(layer, layer, 1)]) for layer in range(count)]
    found = list(groups(moves, alone))
    assert [move for group in found for move in group] == moves
    sizes = [len(group) for group in found]
    assert sizes[:alone] == [1] * min(alone, count)
    assert all(0 < size <= TOGETHER for size in sizes)
    if count:
        assert sizes[-1] == 1
        behind = sizes[alone:]
        assert behind == sorted(behind, reverse=True)


def test_a_session_of_forty_layers_is_a_handful_of_groups():
    assert [len(group) for group in groups([(layer, []) for layer in range(41)], 1)] == [1, 8, 8, 8, 8, 4, 2, 1, 1]
