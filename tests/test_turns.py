"""Who gets a row: as many as there are, and half of those who would end where somebody waits for what they hold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from djinn.engine.turns import FEWEST, TURN, WHOLE, Turns


class Fake(SimpleNamespace):
    served, launched, over, on_its_way = 1, False, False, False

    @property
    def waits(self) -> bool:
        return not self.launched


def task(rank: int, left: int) -> Fake:
    return Fake(rank=rank, step=SimpleNamespace(span=WHOLE, left=left, taps={}, followed=left > 0))


@pytest.mark.parametrize(
    ("here", "left", "wanted", "rows"),
    [
        (38, 15, True, 19),
        (38, 15, False, 32),
        (38, TURN, True, 32),  # nobody would end: half as many rows would only be slower
        (20, 15, True, FEWEST),
        (FEWEST, 15, True, FEWEST),
        (70, 15, True, 32),
    ],
)
def test_rows_of_a_pass(here, left, wanted, rows):
    turns = Turns(None, 32, deterministic=True, memory_wanted=lambda: wanted)
    for rank in range(here):
        turns.add(task(rank, left))
    share = turns.sharing(turns.tokens_here(), whole=True)
    assert [one.rank for one in share] == list(range(rows))
    for one in share:
        one.launched = True
    assert turns.going_on(share) == list(range(rows)), "they keep their rows, and nobody else gets one before them"


def test_who_wants_a_token_is_not_waited_for_by_those_who_do_not_share_its_last():
    turns = Turns(None, 2, deterministic=True, memory_wanted=lambda: False)
    for rank, left in enumerate((0, 0, 5)):
        turns.add(task(rank, left))
    first = turns.sharing(turns.tokens_here(), whole=True)
    for one in first:
        one.launched = True
    assert [one.rank for one in first] == [0, 1]
    assert [one.rank for one in turns.sharing(turns.tokens_here(), whole=True)] == [2]
    first[0].step.left = 3
    assert turns.sharing(turns.tokens_here(), whole=True) == [], "it would miss the next one"
