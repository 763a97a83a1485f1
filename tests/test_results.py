"""What calls give can be compared, put into a set, and read when it is printed."""

from __future__ import annotations

import numpy as np

import djinn


def pause(session: djinn.Session, name: str = "pause-1", rows: int = 3) -> djinn.Pause:
    return djinn.Pause(session, name, 5, rows, np.arange(rows), {"done": 123_456_789})


def test_a_session_is_its_id_whoever_holds_it():
    one, again, other = (djinn.Session(None, key * 16) for key in ("ab", "ab", "cd"))
    assert one == again != other and len({one, again, other}) == 2
    assert one != "ab" * 16
    assert repr(one) == f"Session('{'ab' * 16}')"


def test_a_pause_is_its_session_and_its_name():
    one, again, other = (djinn.Session(None, key) for key in ("a", "a", "b"))
    assert pause(one) == pause(one) == pause(again, rows=1) != pause(other)
    assert pause(one) != pause(one, "pause-2") and pause(one) != djinn.Checkpoint(one, "pause-1", 5)
    assert len({pause(one), pause(again), pause(other)}) == 2
    assert djinn.Checkpoint(one, "c", 3) == djinn.Checkpoint(again, "c", 3)
    assert repr(pause(one)) == "Pause(session=Session('a'), name='pause-1', layer=5, rows=3, tokens=array([0, 1, 2]))"


def test_an_out_is_itself_alone():
    """Arrays have no one answer to whether they are equal."""
    one, other = (djinn.Out(np.arange(2), np.zeros(512, np.float32), {"done": 123_456_789}) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2
    assert repr(one) == "Out(tokens=array([0, 1]), logits=float32 (512,))"
    assert repr(djinn.Out(np.arange(2), None)) == "Out(tokens=array([0, 1]), logits=None)"
