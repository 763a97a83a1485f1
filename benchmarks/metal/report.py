"""Raw results as they come: a file a group, written again whenever a row is done, so that what was measured is kept."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.metal.setting import Setting
from evaluation import records

BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


class Report:
    """One group's raw file: samples by name, and what failed."""

    def __init__(self, folder: Path, group: str, setting: Setting) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{group}{'-' + setting.variant if setting.variant else ''}.json"
        commit, dirty = records.commit_of(records.ROOT)
        self.watch = records.Stopwatch()
        self.raw: dict[str, Any] = {
            "benchmark": "metal",
            "group": group,
            "started": self.watch.started,
            "commit": commit,
            "dirty": dirty,
            "device": records.device_facts(setting.device),
            "versions": records.versions(),
            "settings": setting.as_dict(),
            "samples": {},
            "facts": {},
            "failed": {},
        }

    def samples(self, name: str, values: list[float], unit: str, **about: Any) -> None:
        """Keep every sample of one quantity; about: what else there is to know of it."""
        self.raw["samples"][name] = {"unit": unit, "values": values, **about}
        self.save()
        middle = sorted(values)[len(values) // 2]
        say(f"{name}: {middle:.4g} {unit} (median of {len(values)})")

    def fact(self, name: str, value: Any) -> None:
        """What is no sample: a memory plan, a count, whether bits were equal."""
        self.raw["facts"][name] = value
        self.save()

    def attempt(self, row: str, work: Callable[[], Any]) -> bool:
        """Run the measurement of one row; False when it failed, with its error in the file and its traceback on stderr."""
        say(f"{self.raw['group']}: {row}")
        try:
            work()
        except Exception as error:  # noqa: BLE001  one row that fails must not lose the others; it is told, kept, and exits with 1
            self.raw["failed"][row] = f"{type(error).__name__}: {error}"
            say(f"{row} FAILED: {self.raw['failed'][row]}")
            traceback.print_exc()
            self.save()
            return False
        return True

    def save(self) -> None:
        self.raw["seconds"] = self.watch.seconds
        records.write_json(self.path, self.raw)
