"""Each check of the machine, in order and with its fault put in."""

from __future__ import annotations

import fcntl
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from djinn.doctor import command, machine
from djinn.doctor.finding import Finding, report
from evaluation import lifeline

CARDLESS = SimpleNamespace(
    __version__="2.13.0+cpu", cuda=SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
)
ONE_CARD = SimpleNamespace(
    __version__="2.13.0",
    cuda=SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda device: "a card"),
)


def test_python():
    assert machine.python().ok
    old = machine.python((3, 9, 1))
    assert old.ok is False and old.seen == "3.9.1" and "3.11" in old.advice


def test_torch_is_there_or_its_absence_or_a_missing_library_is_said():
    found, torch = machine.torch()
    assert found.ok and torch.__version__ in found.seen
    for error in (ModuleNotFoundError("No module named 'torch'"), OSError("libcudart.so.13: cannot open")):

        def broken(name: str, error: Exception = error) -> None:
            raise error

        found, torch = machine.torch(broken)
        assert found.ok is False and str(error) in found.seen and torch is None


def test_device(tmp_path: Path):
    (tmp_path / "0000:01:00.0").mkdir()
    none = tmp_path / "no driver"
    found, chosen = machine.device(None, CARDLESS, none)
    assert found.ok and chosen == "cpu"
    assert machine.device(None, ONE_CARD, tmp_path) == (Finding("device", True, "cuda:0, a card"), "cuda:0")
    assert machine.device("cpu", CARDLESS, tmp_path)[0].ok
    unseen, _ = machine.device(None, CARDLESS, tmp_path)
    assert unseen.ok is False and "knows 1 card(s), torch 2.13.0+cpu can use none" in unseen.seen
    missing, _ = machine.device("cuda:1", ONE_CARD, tmp_path)
    assert missing.ok is False and "cuda:1 was asked for, torch can use 1" in missing.seen
    assert machine.device("cuda:0", CARDLESS, none)[0].ok is False


def test_memory(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000000 kB\nMemAvailable:   1000000 kB\n")
    assert machine.memory(10**9, meminfo).ok
    short = machine.memory(2 * 10**9, meminfo)
    assert short.ok is False and "1.02 GB available" in short.seen and "--host-budget" in short.advice
    assert machine.memory(0).ok  # this machine's own file is read


def test_pinned_memory():
    def torch_that(pins) -> SimpleNamespace:
        return SimpleNamespace(uint8=None, empty=lambda size, dtype: SimpleNamespace(pin_memory=pins))

    def refuses() -> None:
        raise RuntimeError("CUDA error: out of memory\nand more")

    assert machine.pinned(torch_that(refuses), "cpu").ok
    assert machine.pinned(torch_that(lambda: None), "cuda:0").ok
    refused = machine.pinned(torch_that(refuses), "cuda:0")
    assert refused.ok is False and "ulimit -l" in refused.seen and refused.seen.endswith("CUDA error: out of memory")


def test_disk(tmp_path: Path):
    assert machine.disk([tmp_path / "not" / "yet"], needed_bytes=1).ok
    full = machine.disk([tmp_path], needed_bytes=2**62)
    assert full.ok is False and str(tmp_path) in full.advice


def test_port(server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        number = other.getsockname()[1]
        other.listen()
        held = machine.port(number)
        assert held.ok is False and "no Djinn server" in held.seen and str(number) in held.advice
    assert machine.port(number).ok
    ours = machine.port(int(server.endpoint.rpartition(":")[2]))
    assert ours.ok and "tiny-llama" in ours.seen


def test_a_stale_lock_is_told_from_a_living_runs(tmp_path: Path):
    assert machine.snakemake_lock(tmp_path).ok
    (tmp_path / ".snakemake").mkdir()
    alive = lifeline.register_run(tmp_path)  # what the Snakefile does
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir()
    (locks / "0.output.lock").write_text("results/smoke/campaign.json\n")
    assert machine.snakemake_lock(tmp_path) == Finding("snakemake lock", True, "held by a run that lives")
    fcntl.flock(alive, fcntl.LOCK_UN)  # it died
    stale = machine.snakemake_lock(tmp_path)
    assert stale.ok is False and "1 left by a run that is dead" in stale.seen and str(locks) in stale.advice
    alive.close()
    (tmp_path / ".snakemake" / "djinn_alive").unlink()
    assert machine.snakemake_lock(tmp_path).ok is False


def test_the_report_shows_advice_only_where_something_is_wrong():
    text = report(
        [
            Finding("one", True, "fine", "unseen"),
            Finding("two", False, "bad", "do this"),
            Finding("three", None, "no torch"),
        ]
    )
    assert "unseen" not in text and "→ do this" in text
    assert text.splitlines()[-1] == "1 ok, 1 WRONG, 1 not checked"


@pytest.mark.parametrize("count", [0, 3])
def test_a_card_is_counted_where_the_driver_lists_it(tmp_path: Path, count: int):
    for number in range(count):
        (tmp_path / str(number)).mkdir()
    assert machine.device(None, CARDLESS, tmp_path)[0].ok is (count == 0)


@pytest.mark.parametrize("port", ["70000", "-1", "one"])
def test_a_port_is_one(port, capsys):
    with pytest.raises(SystemExit):
        command.main(["--port", port])
    assert "is no port" in capsys.readouterr().err
