"""Raw files as samples by run and variant, and the few statistics that the table's rows are made of. Pure."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.summary import paired

FOR_P99 = 200  # samples, below which no p99 is told


class Missing(KeyError):
    """These raw files do not have what a row is made of."""


class Run:
    """One folder of raw files, of one variant. What it lacks is taken from `others`: a rival is not measured in every run."""

    def __init__(self, name: str, raws: list[dict[str, Any]]) -> None:
        self.name, self.raws = name, raws
        self.others: list[Run] = []
        self.used_own = False  # whether the last row drew on this run's own samples

    def _find(self, kind: str, name: str) -> Any:
        for run in (self, *self.others):
            for raw in run.raws:
                if name in raw[kind]:
                    self.used_own |= run is self
                    return raw[kind][name]
        raise Missing(name)

    def values(self, name: str) -> list[float]:
        return self._find("samples", name)["values"]

    def about(self, name: str, key: str) -> Any:
        return self._find("samples", name)[key]

    def fact(self, name: str) -> Any:
        return self._find("facts", name)

    def median(self, name: str) -> float:
        return float(np.median(self.values(name)))

    def percentile(self, name: str, percent: float) -> float:
        return float(np.percentile(self.values(name), percent))

    def over(self, over: str, under: str) -> float:
        """The median of the ratios of samples taken in turn; of two counts that differ, the first ones were."""
        return self.bound(over, under)["ratio"]

    def bound(self, over: str, under: str) -> dict[str, float]:
        """ratio, and its 95 % bounds low and high."""
        a, b = self.values(over), self.values(under)
        n = min(len(a), len(b))
        return paired(a[:n], b[:n])


def load(file: Path) -> dict[str, Any]:
    """A raw file, or one that was packed to be kept (`gzip`)."""
    found = file.read_bytes()
    return json.loads(gzip.decompress(found) if file.suffix == ".gz" else found)


def files_of(run: Path) -> list[Path]:
    """A run's raw files; a timeline beside them is none."""
    packed = [file for file in run.glob("*.json.gz") if not file.name.endswith("-timeline.json.gz")]
    return sorted([*run.glob("*.json"), *packed])


def read(paths: Iterable[Path]) -> dict[str, list[Run]]:
    """variant ("": none) → its runs. A path is a raw file or a folder of them; a folder is a run."""
    folders: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in paths:
        for file in files_of(path) if path.is_dir() else [path]:
            raw = load(file)
            if raw.get("benchmark") != "metal":
                raise ValueError(f"{file} is not a raw file of benchmarks.metal")
            folders.setdefault((raw["settings"]["variant"], str(file.parent)), []).append(raw)
    runs: dict[str, list[Run]] = {}
    for (variant, folder), raws in folders.items():
        runs.setdefault(variant, []).append(Run(folder, raws))
    every = [run for variant in sorted(runs) for run in runs[variant]]  # those of no variant first
    for run in every:
        run.others = [other for other in every if other is not run]
    return runs
