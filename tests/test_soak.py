"""The short forms of the soak and of the load; the long ones are `make reliability`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import djinn
from benchmarks.soak import recovery
from benchmarks.soak.faults import FAULTS
from benchmarks.soak.journal import Journal, Life
from benchmarks.soak.programs import Given, Look, Program, Step, same
from benchmarks.soak.report import OWN

ROOT = Path(__file__).parent.parent


def run(module: str, out: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", module, "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return json.loads(out.read_text())


def test_a_short_soak_meets_every_fault_and_loses_nothing(tmp_path):
    found = run("benchmarks.soak", tmp_path / "soak.json", "--minutes=0.1", "--clients=2", "--sessions=6")
    assert {one["failed"] for one in found["promises"]} == {0} and found["facts"]["wrong"] == []
    met = found["facts"]["faults_by_kind"]
    assert set(met) >= {*FAULTS, *OWN} and all(met.values())
    assert found["facts"]["faults_per_100_calls"] >= 1
    tried = {one["unit"]: one["tried"] for one in found["promises"]}
    assert tried["comparisons"] > 20 and tried["sessions brought back"] and tried["files"]


def test_many_clients_at_once_are_all_served(tmp_path):
    found = run("benchmarks.soak.load", tmp_path / "load.json", "--clients=40", "--sessions=1")
    assert {one["failed"] for one in found["promises"]} == {0}
    assert found["facts"]["clients"] == found["facts"]["sessions"] == 40


# -- what a session may have become ------------------------------------------------------------------------


PROGRAM = Program(
    steps=(Step("prefill", break_at=3), Step("resume", new=2)),
    looks=(Look(), Look((1, 2), 3), Look((1, 2, 7, 8))),
    given=(Given((), None, {}), Given((7, 8), None, {})),
)


def life(place=(1, 0), doing="", durable=(None,)) -> Life:
    return Life("s", "p", 0, place, doing, durable=set(durable))


@pytest.mark.parametrize(
    ("one", "ended", "places", "gone", "promised"),
    [
        (life(), [], {(1, 0)}, False, False),
        (life(doing="step"), [], {(1, 0), (1, 1), (1, 2), (2, 0)}, False, False),
        (life(doing="close"), [], {(1, 0)}, True, False),
        (life(), ["killed"], set(), True, False),
        (life((2, 0), durable=[(1, 0)]), ["killed"], {(1, 0)}, False, True),
        (life((2, 0), "durable", [(1, 0)]), ["killed"], {(1, 0), (2, 0)}, False, True),
        (life((1, 0), "durable"), ["killed"], {(1, 0)}, True, False),
        (life((2, 0), durable=[(1, 0)]), ["drained", "killed"], {(2, 0)}, False, True),
        (life((0, 0)), ["drained"], {(0, 0)}, True, False),
    ],
)
def test_where_a_session_may_stand(one, ended, places, gone, promised):
    allowed = recovery.expected(one, PROGRAM, ended)
    assert (set(allowed.places), allowed.may_be_gone, allowed.promised) == (places, gone, promised)


def test_the_rest_of_a_step_may_be_one_token_and_no_pass():
    """Cut off by a drain before its last token, which only had to be chosen: there are no rows to compare."""
    given = Given((1, 2, 3), np.arange(8.0).reshape(2, 4), {})
    rest, last = np.array([3]), given.logits[-1:]
    assert same(djinn.Out(rest, np.empty((0, 4))), given, done=3)
    assert same(djinn.Out(rest, last), given, done=3)
    assert not same(djinn.Out(rest, last + 1), given, done=3)
    assert not same(djinn.Out(np.array([4]), last), given, done=3)
    assert not same(djinn.Out(np.array([2, 3]), np.empty((0, 4))), given, done=2), "a pass ran for the last of two"


def test_a_session_is_found_between_two_tokens():
    places = [(1, 0), *PROGRAM.half_way(1), (2, 0)]
    assert PROGRAM.find(Look((1, 2)), places) == (1, 1)
    assert PROGRAM.find(Look((1, 2, 7)), places) == (1, 2)
    assert PROGRAM.find(Look((1, 2, 9)), places) is None, "another token is no place of it"


def test_who_takes_over_knows_what_was_asked_and_not_answered(tmp_path):
    first = Journal(tmp_path / "owner-0.journal")
    first.say("opening")
    first.say("opened", id="s", program="p", server=3, place=(0, 0))
    first.say("stands", id="s", place=(1, 0), server=3)
    first.say("doing", id="s", call="durable")
    first.say("opened", id="f", program="p", server=3, place=(1, 0))
    found, forked = Journal(tmp_path / "owner-0.journal").lives.values()
    assert (forked.place, forked.durable) == ((1, 0), {None}), (
        "a fork stands where its parent did, and no file is its own"
    )
    assert (found.place, found.doing, found.server, found.durable) == ((1, 0), "durable", 3, {None})
    assert recovery.files_behind(found, (1, 0), []) == {None, (1, 0)}


def test_a_copy_that_broke_behind_a_step_is_blamed_whoever_found_what_the_step_came_to(tmp_path):
    """A successor finds it: what its file may hold is said first, and then where it stands."""
    journal = Journal(tmp_path / "owner-0.journal")
    journal.say("opened", id="s", program="p", server=3, place=(0, 0))
    journal.say("doing", id="s", call="step")
    asked = journal.lives["s"].since_ns
    journal.say("durable", id="s", places=[None])
    journal.say("stands", id="s", place=(1, 0), server=3)
    journal.say("doing", id="s", call="step")
    assert journal.lives["s"].ran_ns == asked > 0
