"""What the tests share: one small server for all that need one, on random weights that nothing has to fetch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run two at a time, and bits depend on it

import pytest
from contending import fake  # noqa: F401  a fixture of two files
from family_table import Record
from fault_table import FaultRecord
from nursery import Nursery
from reliability_record import ReliabilityRecord
from sessions import NEW, alone, check_nothing_is_left, small_server

import djinn


@pytest.fixture(scope="session")
def server() -> Iterator[djinn.LocalServer]:
    with small_server() as running:
        yield running


@pytest.fixture
def client(server: djinn.LocalServer) -> Iterator[djinn.Client]:
    with djinn.connect(server.endpoint, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Servers that start fast and can be killed."""
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def prompt() -> list[int]:
    return [(7 * i * i + 3) % 509 for i in range(100)]


@pytest.fixture
def undisturbed(client: djinn.Client, prompt: list[int]) -> djinn.Out:
    """What the prompt gives to a session that nobody misuses."""
    return alone(client, prompt, NEW)


@pytest.fixture
def accounts_balance(client: djinn.Client) -> Iterator[None]:
    """Whatever was refused, no byte is left behind."""
    yield
    check_nothing_is_left(client)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes first: of two processes none is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-families", action="store_true", help="write docs/families.md from this run's rows")
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md from this run's cases")
    parser.addoption("--write-reliability", type=Path, metavar="DIR", help="write this run's suites there, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--write-reliability")
    if folder and not hasattr(config, "workerinput"):  # where tests run in several processes, the one that hears of all
        config.pluginmanager.register(ReliabilityRecord(folder))


@pytest.fixture(scope="session")
def family_record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """What the families' tests saw; written to the table at the end, when asked for."""
    record = Record()
    yield record
    if request.config.getoption("--write-families"):
        record.write()


@pytest.fixture(scope="session")
def fault_record(request: pytest.FixtureRequest) -> Iterator[FaultRecord]:
    """The same of the faults."""
    record = FaultRecord()
    yield record
    if request.config.getoption("--write-faults"):
        record.write()
