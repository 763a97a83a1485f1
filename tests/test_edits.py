import msgspec
import numpy as np
import pytest
import torch

import djinn
from djinn.edits import AnyEdit
from djinn.engine.edit import apply, check, edited
from djinn.errors import BadRequest

HIDDEN = torch.arange(12, dtype=torch.float32).reshape(1, 3, 4) + 1


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (djinn.Scale(2.0), HIDDEN * 2),
        (djinn.Add([1, 2, 3, 4]), HIDDEN + torch.tensor([1.0, 2, 3, 4])),
        (djinn.Set(np.ones(4)), torch.ones(1, 3, 4)),
        (djinn.Ablate(), torch.zeros(1, 3, 4)),
        (djinn.ProjectOut([0, 3.0, 0, 0]), HIDDEN * torch.tensor([1.0, 0, 1, 1])),
    ],
)
def test_an_edit_does_what_its_name_says_and_leaves_the_original(edit, expected):
    before = HIDDEN.clone()
    check(edit, 3, 4)
    assert torch.allclose(apply(edit, HIDDEN), expected)
    assert torch.equal(HIDDEN, before)


@pytest.mark.parametrize("length", [2.0**-1000, 2.0**-80, 2.0**80, 2.0**1000])
def test_a_direction_counts_whatever_its_length(length):
    """In float32 its square was 0 or infinite, and the edit did nothing or gave NaN."""
    direction = np.array([0.5, 3.0, -1.0, 0.25])
    expected = apply(djinn.ProjectOut(direction), HIDDEN)
    assert not torch.allclose(expected, HIDDEN)
    assert torch.equal(apply(djinn.ProjectOut(direction * length), HIDDEN), expected)


def test_positions_confine_an_edit():
    out = apply(djinn.Scale(0.0, positions=(-1,)), HIDDEN)
    assert torch.equal(out[:, :2], HIDDEN[:, :2])
    assert not out[:, 2].any()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (djinn.Scale(1.0, positions=(3,)), "position 3 is outside"),
        (djinn.Add([1, 2]), "hidden size is 4"),
        (djinn.Scale(float("nan")), "finite"),
        (djinn.ProjectOut([0, 0, 0, 0]), "zero length"),
    ],
)
def test_a_wrong_edit_is_refused_with_its_reason(edit, says):
    with pytest.raises(BadRequest, match=says):
        check(edit, 3, 4)


def test_positions_named_a_million_times_take_the_room_of_one(monkeypatch):
    seen = []
    monkeypatch.setattr("djinn.engine.edit._changed", lambda given, rows: seen.append(rows.shape) or rows * 0)
    out = apply(djinn.Scale(0.0, positions=[0, -3] * 500_000), HIDDEN)
    assert seen == [(1, 1, 4)] and out[0, 0].eq(0).all() and out[0, 1:].equal(HIDDEN[0, 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("edit", [djinn.Scale(1e39), djinn.Add([1e39] * 4), djinn.Set([-1e39] * 4)])
def test_what_leaves_the_range_of_the_models_dtype_is_refused(dtype, edit):
    check(edit, 3, 4)
    with pytest.raises(BadRequest, match=str(dtype).removeprefix("torch.")):
        edited(HIDDEN.to(dtype), [edit])
    assert edited(HIDDEN.to(dtype), [djinn.Scale(2.0), djinn.Scale(0.5)]).equal(HIDDEN.to(dtype))


@pytest.mark.parametrize(
    "vector",
    [1.0, ["a"], [[1.0, 2.0]], None, [10**400], "12", b"12", {0: 1.0}, {1.0, 2.0}, torch.ones(1, 2)],
    ids=lambda vector: str(vector)[:20],
)
def test_what_is_no_vector_is_refused_where_it_is_made(vector):
    with pytest.raises(BadRequest, match="vector"):
        djinn.Add(vector)


def test_a_tensor_that_has_no_numbers_is_refused_where_it_is_given():
    for edit in (lambda: djinn.Add(torch.ones(4, device="meta")), lambda: djinn.Scale(torch.ones((), device="meta"))):
        with pytest.raises(BadRequest, match="cannot be read"):
            edit()


def test_a_tensor_of_any_kind_is_a_vector():
    for vector in (torch.ones(4, requires_grad=True), torch.ones(4, dtype=torch.bfloat16), np.ones(4, np.float16)):
        assert djinn.Add(vector) == djinn.Add([1.0] * 4)


def test_edits_cross_the_wire_unchanged():
    edits = [djinn.Scale(0.9), djinn.Add([1, 2]), djinn.Set([1]), djinn.Ablate((0,)), djinn.ProjectOut([1])]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(edits), type=list[AnyEdit]) == edits
