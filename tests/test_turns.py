"""Who gets a row, while the passes of others are under way."""

from __future__ import annotations

from types import SimpleNamespace

from djinn.engine.turns import WHOLE, Turns


class Fake(SimpleNamespace):
    served, launched, over, on_its_way = 1, False, False, False

    @property
    def waits(self) -> bool:
        return not self.launched


def task(rank: int, ends: bool) -> Fake:
    return Fake(rank=rank, step=SimpleNamespace(span=WHOLE, ends=ends, taps={}, followed=not ends))


def test_who_wants_a_token_is_not_waited_for_by_those_who_do_not_share_its_last():
    turns = Turns(None, 2, deterministic=True)
    for rank, ends in enumerate((True, True, False)):
        turns.add(task(rank, ends))
    first = turns.sharing(turns.tokens_here(), whole=True)
    for one in first:
        one.launched = True
    assert [one.rank for one in first] == [0, 1]
    assert [one.rank for one in turns.sharing(turns.tokens_here(), whole=True)] == [2]
    first[0].step.ends = False
    assert turns.sharing(turns.tokens_here(), whole=True) == [], "it would miss the next one"
