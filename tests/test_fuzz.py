"""Bad input, in short: thousands of exchanges without a socket, some with one, and bugs put in on purpose.

The long form: `PYTHONPATH=tests python -m fuzz --exchanges 100000 --seed 1`.
"""

from __future__ import annotations

import pytest
from fuzz import lines, seeded
from fuzz.house import inside
from fuzz.outside import outside
from fuzz.run import Fuzzer


@pytest.fixture(scope="module")
def house():
    with inside() as made:
        yield made


def test_whatever_comes_is_answered_once_with_a_typed_error_and_nobody_is_harmed(house):
    report = Fuzzer(house, seed=1).run(3000)
    assert report.found == []
    assert report.exchanges >= 3000 and report.meant_wrong >= 0.3 * report.exchanges
    assert {"bad_request", "illegal_move", "no_such_session", "protocol", "reply_gone", "limit_reached"} <= set(
        report.codes
    )


def test_over_a_socket_too_down_to_bytes_that_are_no_messages():
    with outside() as there:
        fuzzer = Fuzzer(there, seed=1)
        assert fuzzer.run(400).found == []
        assert sum(lines.play(there.endpoint, 1, 200, fuzzer.alive).values()) == 200
        fuzzer.block(400, 200)  # raises what it finds


@pytest.mark.parametrize("bug", seeded.BUGS, ids=lambda bug: bug.about)
def test_a_bug_that_was_put_in_is_found_by_the_check_that_is_there_for_it(bug):
    report = seeded.hunt(bug, seed=1)
    assert len(report.found) == 1 and report.found[0][0] in bug.by, report.found
