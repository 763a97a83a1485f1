"""Random lives in a whole engine, see tests/lives.py: whatever is answered is what it would be alone, and no byte is left."""

from __future__ import annotations

import sys

import pytest
from asking import quiet, small_engine, until
from lives import Alone, Lives, compare, late

from djinn.server.build import build_service
from djinn.server.server_main import SWITCH_S, parser

SEED, STEPS = 1, 500


@pytest.fixture
def threads_take_turns_as_in_a_server():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_take_turns_as_in_a_server")
def test_whatever_sessions_are_asked_at_once_is_answered_as_if_alone(tmp_path, record_property):
    args = ["--model=tiny-llama", "--port=0", "--max-tokens=256", "--threads=1", f"--state-dir={tmp_path}"]
    service, _, shut_down = build_service(parser().parse_args(args), "cpu", 29_200_000, 4_500_000, 30_000_000)
    engine, book = service.engine, service.engine.pager.book
    lives = Lives(engine, SEED)
    try:
        with late(engine, SEED):
            lives.play(STEPS)
        quiet(engine)
        until(lambda: book.free == (book.device.capacity, book.host.capacity, book.disk_capacity))
        moved = engine.stats()
    finally:
        shut_down()
    with small_engine("--threads", "1") as undisturbed:
        compared = compare(lives.seen, Alone(undisturbed))
    record_property("tried", compared)
    record_property("unit", "answers")
    assert compared > STEPS / 10
    for what in ("evicted_bytes", "restored_bytes", "spilled_bytes", "saved_bytes"):
        assert moved[what], f"{what} was never tried"
    for call in ("resume", "rewind", "fork", "look", "park", "save"):
        assert lives.counts[call], f"{call} was never tried"
