"""Who gets a row, while the passes of others are under way and while others wait for memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from djinn.engine.turns import FEWEST, TURN, Turns


class Fake(SimpleNamespace):
    launched, over, on_its_way = False, False, False

    @property
    def waits(self) -> bool:
        return not self.launched


def task(rank: int, left: int, served: int = 0) -> Fake:
    step = SimpleNamespace(span=(0, None), stop=None, left=left, ends=not left, taps={}, followed=left > 0)
    return Fake(rank=rank, served=served, step=step)


def turns_of(tasks: list[Fake], wanted: bool = False, rows: int = 32, **named: Any) -> Turns:
    turns = Turns(None, rows, deterministic=True, memory_wanted=lambda: wanted, **named)
    for one in tasks:
        turns.add(one)
    return turns


def ranks(turns: Turns) -> list[int]:
    return [one.rank for one in turns.sharing(turns.tokens_here(), to_the_end=True)]


@pytest.mark.parametrize(
    ("here", "left", "wanted", "rows"),
    [
        (38, TURN - 1, True, 19),
        (38, TURN - 1, False, 32),
        (38, 2 * TURN - 1, True, 32),  # nobody would end in this turn: half as many rows would only be slower
        (20, TURN - 1, True, FEWEST),
        (FEWEST, TURN - 1, True, FEWEST),
        (70, TURN - 1, True, 32),
    ],
)
def test_rows_of_a_pass_while_memory_is_wanted(here, left, wanted, rows):
    turns = turns_of([task(rank, left) for rank in range(here)], wanted)
    share = turns.sharing(turns.tokens_here(), to_the_end=True)
    assert [one.rank for one in share] == list(range(rows))
    for one in share:
        one.launched = True
    assert turns.going_on(share) == list(range(rows)), "they keep their rows, and nobody else gets one before them"


@pytest.mark.parametrize("tokens", [TURN, TURN + 1, 2 * TURN - 1])
def test_who_began_first_ends_first_where_less_than_a_turn_is_left(tokens):
    """Else all would stand before their last token, with all their memory, before anybody ends."""
    turns, ended = turns_of([task(rank, tokens - 1) for rank in range(38)], wanted=True), []
    while len(ended) < 19:
        run(turns, ended)
    assert ended == list(range(19)) and all(one.served == 0 for one in turns.tasks)
    while turns.tasks:
        run(turns, ended)
    assert ended == list(range(38))


def run(turns: Turns, ended: list[int]) -> None:
    """One pass, and what follows it."""
    for one in turns.sharing(turns.tokens_here(), to_the_end=True):
        one.served += 1
        if one.step.ends:
            ended.append(one.rank)
            turns.tasks.remove(one)
        one.step.left -= 1
        one.step.ends = not one.step.left


def test_a_long_request_gives_its_row_away_after_a_turn():
    turns = turns_of([task(0, left=100, served=TURN), task(1, left=100, served=TURN - 1)], rows=1)
    assert ranks(turns) == [1]
    turns = turns_of([task(0, left=100, served=3 * TURN), task(1, left=5, served=3 * TURN)], rows=1)
    assert ranks(turns) == [1], "it ends in the turn that it has had"


def test_who_wants_a_token_is_not_waited_for_by_those_who_do_not_share_its_last():
    turns = turns_of([task(rank, left) for rank, left in enumerate((0, 0, 5))], rows=2)
    first = turns.sharing(turns.tokens_here(), to_the_end=True)
    for one in first:
        one.launched = True
    assert [one.rank for one in first] == [0, 1]
    assert ranks(turns) == [2]
    first[0].step.ends = False
    assert ranks(turns) == [], "it would miss the next one"


def test_nobody_is_held_back_while_those_who_give_memory_back_end():
    turns = turns_of([task(rank, left) for rank, left in enumerate([0] * 19 + [15] * 19)], wanted=True)
    ending = turns.sharing(turns.tokens_here(), to_the_end=True)
    for one in ending:
        one.launched = True
    assert len(ending) == 19 and ranks(turns) == list(range(19, 38))


def test_who_has_had_its_first_pass_waits_a_moment_for_those_who_come_with_it():
    now = [5.0]
    turns = turns_of([task(0, left=5, served=1)], rows=2, clock=lambda: now[0])
    now[0] += 0.25
    assert turns.gathering(1.0) == 0.75 and turns.gathering(0.0) == 0.0
    turns.tasks[0].launched = True
    assert turns.gathering(1.0) == 0, "its pass is under way: whoever comes shares the next"
    turns.tasks[0].launched = False
    turns.add(task(1, left=5, served=1))
    assert turns.gathering(1.0) == 0, "there is no row for more"
    turns = turns_of([task(0, left=5, served=0)], rows=2)
    assert turns.gathering(1.0) == 0, "nobody waits for its first pass"


def test_who_stands_at_a_layer_joins_those_who_begin_and_who_stops_does_not():
    whole, late, other, stops = (task(rank, left=5) for rank in range(4))
    late.step.span, other.step.span = (20, None), (7, None)
    stops.step.span, stops.step.stop = (0, 20), 20
    turns = turns_of([whole, late, other, stops])
    assert ranks(turns) == [0, 1, 2]
    assert turns.sharing(turns.tokens_here(), to_the_end=False) == [stops]
