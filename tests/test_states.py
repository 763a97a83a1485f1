import pytest

from djinn.errors import IllegalMove
from djinn.states import END, MOVES, Machine, State


def test_a_parked_session_comes_back():
    machine = Machine()
    for state in [
        "queued",
        "running",
        "paused",
        "io_wait",
        "evicting",
        "host",
        "restoring",
        "ready",
        "running",
        "idle",
        "done",
    ]:
        machine.move(State(state))
    assert machine.state is State.DONE


def test_a_resume_while_evicting_is_legal():
    machine = Machine()
    for state in ["queued", "running", "paused", "io_wait", "evicting", "ready"]:
        machine.move(State(state))


@pytest.mark.parametrize(
    ("path", "wrong"),
    [("", "paused"), ("queued running", "host"), ("queued running paused", "running"), ("done", "idle")],
)
def test_an_illegal_move_raises_and_changes_nothing(path, wrong):
    machine = Machine()
    for state in path.split():
        machine.move(State(state))
    before = machine.state
    with pytest.raises(IllegalMove, match=wrong):
        machine.move(State(wrong))
    assert machine.state is before


def test_every_living_state_can_end_and_no_ended_one_lives():
    for state in State:
        machine = Machine()
        machine.state = state
        if state in END:
            assert MOVES[state] == set()
        else:
            machine.move(State.CANCELLED)


def test_stamps_rise_and_are_bounded():
    machine = Machine()
    for _ in range(100):
        for state in ["queued", "running", "idle"]:
            machine.move(State(state))
    stamps = [at for _, at in machine.stamps()]
    assert stamps == sorted(stamps)
    assert len(stamps) == Machine.KEPT
