"""Sessions until every budget is full: the one too many is refused by name, and nobody else is harmed."""

from __future__ import annotations

import pytest

import djinn
from benchmarks.fill import NeverFull, fill, first_with


@pytest.fixture(scope="module")
def client():
    budgets = {"device_budget": "30MB", "host_budget": "4MB", "disk_budget": "3MB"}
    with (
        djinn.serve("tiny-llama", device="cpu", threads=1, max_tokens=96, **budgets) as server,
        djinn.connect(server.endpoint, timeout=60) as connected,
    ):
        yield connected


def test_all_tiers_are_filled_and_everybody_goes_on_to_their_own_bits(client):
    found = fill(client, tokens=48, new_tokens=4, most=300)
    steps = found["steps"]
    assert found["bit_equal"] == found["sessions"] == len(steps) > 3
    assert 1 == first_with(steps, "device") < first_with(steps, "host") < first_with(steps, "disk")
    assert len(found["refused"]) == 2 and all("no room for" in words for words in found["refused"])


def test_a_hole_on_the_device_brings_back_who_lies_on_the_disk_behind_a_full_host_pool():
    budgets = {"device_budget": "40800KB", "host_budget": "11600KB", "disk_budget": "8700KB"}
    with (
        djinn.serve("tiny-llama", device="cpu", threads=1, max_tokens=300, **budgets) as server,
        djinn.connect(server.endpoint, timeout=60) as client,
    ):
        found = fill(client, tokens=200, new_tokens=8, most=300)
    assert found["bit_equal"] == found["sessions"] > 3


def test_budgets_that_are_never_full_are_told(client):
    with pytest.raises(NeverFull, match="none was refused"):
        fill(client, tokens=8, new_tokens=1, most=2)
