"""The benchmark's reading of a timeline."""

from __future__ import annotations

from benchmarks.overlap import both, merged, overlap
from djinn.timeline import chrome_trace


def test_spans_are_merged_and_cut_with_each_other():
    assert merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert both([(0, 4), (5, 9)], [(1, 2), (3, 6), (8, 20)]) == [(1, 2), (3, 4), (5, 6), (8, 9)]
    assert both([(0, 1)], [(1, 2)]) == []


def test_what_ran_at_the_same_time_is_counted_once():
    ms = 1_000_000
    spans = [
        ("compute", "prefill", 0, 10 * ms, {}),
        ("copy out", "a", 8 * ms, 12 * ms, {"bytes": 5}),
        ("copy out", "b", 9 * ms, 11 * ms, {"bytes": 6}),
        ("copy in", "c", 11 * ms, 14 * ms, {"bytes": 7}),
        ("states", "parked", 0, 99 * ms, {}),
    ]
    found = overlap(chrome_trace(spans))
    assert found["busy_ms"] == {"compute": 10, "copy out": 4, "copy in": 3}
    assert found["bytes"] == {"copy out": 11, "copy in": 7}
    assert found["both_ms"] == {"compute & copy out": 2, "compute & copy in": 0, "copy out & copy in": 1}
    assert found["seconds"] == 0.014
