"""`--write-reliability DIR`: what the tests of a suite of docs/reliability.md tried and how often they failed, as its file.

A promise is a test's name. A test that tries many cases says how many: `record_property("tried", n)`, and of what: "unit".
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from evaluation.reliability import SUITES, write_suite


class ReliabilityRecord:
    """A plugin of pytest, registered where the option is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: Counter[str] = Counter()  # by file
        self.tried: dict[str, Counter[str]] = {}  # file -> test -> cases
        self.failed: Counter[tuple[str, str]] = Counter()
        self.units: dict[tuple[str, str], str] = {}
        self.skipped: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file, _, name = report.nodeid.partition("::")
        test = name.partition("[")[0]
        self.seconds[file] += report.duration
        if report.skipped:
            self.skipped.setdefault(file, []).append(name)
            return
        if report.when != "call" and not report.failed:
            return
        said = dict(report.user_properties)
        self.tried.setdefault(file, Counter())[test] += int(said.get("tried", 1)) if report.when == "call" else 1
        self.failed[file, test] += report.failed
        self.units[file, test] = said.get("unit", "cases")

    def pytest_sessionfinish(self) -> None:
        for suite in SUITES:
            if suite.file in self.tried:
                self._write(suite.name, suite.file, suite.command)

    def _write(self, suite: str, file: str, command: str) -> None:
        promises = [
            {
                "promise": test.removeprefix("test_").replace("_", " ").capitalize(),
                "test": f"{file}::{test}",
                "tried": tried,
                "failed": self.failed[file, test],
                "unit": self.units[file, test],
            }
            for test, tried in self.tried[file].items()
        ]
        facts = {"not run": self.skipped.get(file, [])}
        write_suite(self.folder / f"{suite}.json", suite, command, promises, facts, self.seconds[file])
