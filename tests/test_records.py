"""The envelope of a raw result."""

from __future__ import annotations

import json
import subprocess

import pytest

from evaluation.combine import ENVELOPE
from evaluation.records import (
    COPIED_FROM,
    ROOT,
    Stopwatch,
    commit_of,
    device_facts,
    read_raw,
    sources_digest,
    to_copy,
    write_json,
    write_raw,
)

CAMPAIGN = {"id": "20000101-abc", "scale": "smoke"}


def written(path, result, **more):
    write_raw(
        path,
        "eager",
        result,
        stopwatch=Stopwatch(),
        campaign=CAMPAIGN,
        weights={"name": "tiny"},
        device=device_facts("cpu"),
        settings={"device": "cpu"},
        config_digest="0" * 16,
        **more,
    )
    return read_raw(path)


def test_what_is_written_is_read_back(tmp_path):
    raw = written(tmp_path / "eager.json", {"sessions": 3})
    assert (raw["rule"], raw["scale"], raw["campaign"], raw["result"]) == (
        "eager",
        "smoke",
        "20000101-abc",
        {"sessions": 3},
    )
    assert raw["seconds"] >= 0 and raw["started"].endswith("+00:00") and raw["versions"]["torch"]


def test_a_server_that_was_not_the_rules_own_is_named(tmp_path):
    there = {"address": "tcp://127.0.0.1:5556", "plan": {"device_budget_bytes": 1}}
    assert written(tmp_path / "eager.json", {}, served_by=there)["served_by"] == there
    assert written(tmp_path / "eager.json", {})["served_by"] is None


def test_it_has_all_that_the_analysis_asks_for(tmp_path):
    assert set(ENVELOPE) <= written(tmp_path / "eager.json", {}).keys()


def test_a_number_that_is_not_finite_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        written(tmp_path / "eager.json", {"ms": float("nan")})
    assert not (tmp_path / "eager.json").exists()


def test_another_schema_is_refused_by_name(tmp_path):
    write_json(tmp_path / "old.json", {"schema": 0})
    with pytest.raises(ValueError, match=r"old\.json: schema 0"):
        read_raw(tmp_path / "old.json")


def test_the_device_is_described():
    facts = device_facts("cpu")
    assert facts["kind"] == "cpu" and facts["name"] and facts["total_bytes"] > 0 and facts["cores"] > 0
    json.dumps(facts)


def commit_all(root, *paths):
    for words in (["init"], ["add", *paths], ["commit", "-m", "one"]):
        named = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(root), *named, *words], check=True, capture_output=True)


def test_the_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    assert commit_of(tmp_path) == ("unknown", False)
    monkeypatch.setenv("DJINN_COMMIT", "0123abc")  # what a copied tree is told
    assert commit_of(tmp_path) == ("0123abc", False)
    monkeypatch.delenv("DJINN_COMMIT")
    (tmp_path / "a").write_text("1")
    commit_all(tmp_path, "a")
    commit, dirty = commit_of(tmp_path)
    assert len(commit) == 40 and not dirty
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "kills.json").write_text("{}")  # of the suite before
    assert commit_of(tmp_path) == (commit, False)
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == (commit, True)
    (tmp_path / "inside").mkdir()
    assert commit_of(tmp_path / "inside") == ("unknown", False)  # a copy inside somebody else's checkout


def copied(tmp_path, dirty=False):
    """A tree without git, as it came from a checkout: one source and the file that the bundle puts beside it."""
    (tmp_path / "djinn").mkdir()
    (tmp_path / "djinn" / "one.py").write_text("x = 1\n")
    said = {"commit": "c" * 40, "dirty": dirty, "sources": sources_digest(tmp_path)}
    (tmp_path / COPIED_FROM).parent.mkdir()
    write_json(tmp_path / COPIED_FROM, said)
    return tmp_path


@pytest.mark.parametrize("dirty", [False, True])
def test_a_copied_tree_names_the_commit_that_was_copied(tmp_path, monkeypatch, dirty):
    monkeypatch.delenv("DJINN_COMMIT", raising=False)
    assert commit_of(copied(tmp_path, dirty)) == ("c" * 40, dirty)


def test_a_copied_tree_that_was_changed_is_no_longer_that_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("DJINN_COMMIT", raising=False)
    root = copied(tmp_path)
    (root / "djinn" / "one.py").write_text("x = 2\n")
    assert commit_of(root) == ("c" * 40, True)


def test_a_tree_that_was_copied_over_a_checkout_of_another_commit_names_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("DJINN_COMMIT", raising=False)
    root = copied(tmp_path)
    (root / ".gitignore").write_text(".bundle/\n")
    commit_all(root, "djinn", ".gitignore")
    (root / "djinn" / "one.py").write_text("x = 2\n")  # git's folder stays behind, and the bundle is made of this
    head, dirty = commit_of(root)
    assert head != "c" * 40 and dirty, "changes that the bundle does not speak of"
    said = {"commit": "d" * 40, "dirty": False, "sources": sources_digest(root)}
    write_json(root / COPIED_FROM, said)
    assert commit_of(root) == ("d" * 40, False)
    write_json(root / COPIED_FROM, {**said, "dirty": True})
    assert commit_of(root) == (head, True)
    (root / "djinn" / "one.py").write_text("x = 1\n")
    assert commit_of(root) == (head, False), "what git finds unchanged is git's, whatever the bundle says"


def test_what_is_written_for_a_copy_is_what_this_checkout_says():
    assert (to_copy(ROOT)["commit"], to_copy(ROOT)["dirty"]) == commit_of(ROOT)
