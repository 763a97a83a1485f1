"""docs/reliability.md: every suite has its row, and every number is the suite's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evaluation import reliability
from evaluation.reliability import SUITES, block, write_suite

ROOT = Path(__file__).parent.parent
PROMISE = {"promise": "Nothing is lost", "test": "tests/test_x.py", "tried": 12345, "failed": 2, "unit": "sessions"}


def test_a_suite_without_a_file_is_said_to_be_not_run_and_one_with_a_file_says_its_numbers(tmp_path):
    (tmp_path / "reliability").mkdir()
    write_suite(tmp_path / "reliability" / "soak.json", "soak", "the command", [PROMISE], {"faults": {"a": 1}}, 61.0)
    page = block(tmp_path / "laptop")
    (row,) = (line for line in page.splitlines() if line.startswith("| soak |"))
    assert "| 12,345 sessions | 2 | 1 min 1 s | `the command` |" in row
    assert "| Nothing is lost | `tests/test_x.py` | 12,345 sessions | 2 |" in page and "- faults: a 1" in page
    assert page.count("**not run** | **not run**") == len(SUITES) - 1


def test_the_files_here_are_of_suites_and_of_their_form():
    for path in sorted((ROOT / reliability.FOLDER).glob("*.json")):
        found = json.loads(path.read_text())
        assert found["suite"] == path.stem and path.stem in {suite.name for suite in SUITES}
        for one in found["promises"]:
            assert set(one) == {"promise", "test", "tried", "failed", "unit"}, path.name
            assert (ROOT / one["test"].partition("::")[0]).exists(), one["test"]


def test_a_run_of_tests_writes_what_it_tried_and_what_failed(tmp_path):
    """One that passes with three cases, one that fails, and one that is skipped."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_keys.py").write_text(
        "import pytest\n"
        "def test_the_first_holds(record_property):\n    record_property('tried', 3)\n    record_property('unit', 'lives')\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_the_second_does_not(n):\n    assert n == 1\n"
        "@pytest.mark.skip\ndef test_the_third():\n    pass\n"
    )
    plugin = "reliability_record"
    (tmp_path / "tests" / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom pathlib import Path\n"
        f"from {plugin} import ReliabilityRecord\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(ReliabilityRecord(Path('out')))\n"
    )
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "tests/test_keys.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    found = json.loads((tmp_path / "out" / "keys.json").read_text())
    said = {one["promise"]: (one["tried"], one["failed"], one["unit"]) for one in found["promises"]}
    assert said == {"The first holds": (3, 0, "lives"), "The second does not": (2, 1, "cases")}
    assert found["facts"]["not run"] == ["test_the_third"]


def test_every_suite_of_tests_names_its_file_and_its_command():
    for suite in SUITES:
        if suite.file:
            assert (ROOT / suite.file).exists() and suite.file in suite.command
