"""The server as a process: garbage on its socket, its death, its parent's, and why it does not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import zmq
from small_models import save_steep_llama

import djinn
from djinn.errors import BadRequest, BudgetTooSmall, NoDevice, ServerGone, WeightsUnavailable
from djinn.server.server_main import sole


def test_garbage_is_answered_with_a_typed_failure(server):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(server.endpoint)
    for frames in ([b"\x00garbage"], [b"", b"", b""]):
        socket.send_multipart(frames)
        assert socket.poll(5000), "no answer"
        assert b"protocol" in socket.recv_multipart()[0]
    socket.close()


def own_server() -> djinn.LocalServer:
    return djinn.serve("tiny-llama", threads=1, device_budget="60MB", host_budget="10MB", max_tokens=256)


def test_a_dead_server_is_noticed():
    with own_server() as server, djinn.connect(server.endpoint) as client:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerGone):
            client.stats()


def test_a_server_says_where_its_threads_are_and_goes_on():
    with own_server() as server, djinn.connect(server.endpoint) as client:
        os.kill(server.pid, signal.SIGUSR1)
        client.stats()
        for _ in range(500):
            server._log.seek(0)
            if "mover.py" in (said := server._log.read()):
                break
            time.sleep(0.01)
        assert "mover.py" in said
        assert "compute.py" in said
        client.stats()


def test_a_server_dies_with_its_parent():
    code = """
import djinn, time
server = djinn.serve("tiny-llama", device_budget="60MB", host_budget="10MB", max_tokens=256)
print(server.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    raise AssertionError("the server outlived its parent")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "0"], "--device cpu"),
        (["--model", "tiny-llama", "--device-budget", "22MB"], "--device-budget"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--host", "0.0.0.0"], "djinn keys DIR"),
        (["--host", "0.0.0.0", "--keys", "/nowhere"], "djinn keys /nowhere"),
        (["--lease", "soon"], "24h"),
        (["--max-sessions", "0"], "1 or more"),
        (["--decode-rows", "0"], "1 or more"),
        (["--port", "65536"], "0 to 65535"),
        (["--port", "-1"], "0 to 65535"),
        (["--device-budget", "lots"], "750MB"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments, says):
    done = start(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_in_use_is_found_before_the_model_is_looked_for(server, option):
    taken = server.endpoint.rpartition(":")[2]
    done = start("--model", "/nowhere", option, taken)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1, {option} {taken}: Address already in use" in done.stderr


@pytest.mark.parametrize(("seen", "left"), [(None, "2"), ("5,3, 1,0", "1"), ("GPU-a,GPU-b,GPU-c", "GPU-c")])
def test_a_card_that_is_not_the_first_becomes_the_only_one(monkeypatch, seen, left):
    """Every thread of a process begins on its first card: what the others launched went to a card that nobody had asked for."""
    monkeypatch.setattr(
        torch.cuda, "device_count", lambda: len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2").split(","))
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert (sole("cpu"), sole("cuda:0"), os.environ.get("CUDA_VISIBLE_DEVICES")) == ("cpu", "cuda:0", seen)
    with pytest.raises(NoDevice, match="cuda:7: this machine has"):
        sole("cuda:7")
    assert (sole("cuda:2"), os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda:0", left)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(NoDevice, match="start with CUDA_VISIBLE_DEVICES=1"):
        sole("cuda:1")


def start(*arguments: str) -> subprocess.CompletedProcess:
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    command = [sys.executable, "-m", "djinn.server.server_main", "--port", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_model_that_the_probe_refuses_ends_the_server(tmp_path):
    """Finite as float32 and so loaded; the probe finds that its second layer leaves the range of float16."""
    save_steep_llama(tmp_path, gain=1000.0)
    done = start("--model", str(tmp_path), "--dtype", "float16", "--max-tokens", "64")
    assert done.returncode == 2
    assert "behind layer 2" in done.stderr and "[unsupported_model]" in done.stderr
    with djinn.serve(str(tmp_path), dtype="float32", max_tokens=64) as server, djinn.connect(server.endpoint) as client:
        assert client.server.depth == 2


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"thread": 1}, BadRequest, "no option thread"),
        ({"device_budget": "lots"}, BadRequest, "750MB"),
        ({"host_budget": -1}, BadRequest, "750MB"),
        ({"model": "no-such-model"}, WeightsUnavailable, "no-such-model"),
        ({"model": "tiny-llama", "device_budget": "22MB", "max_tokens": 256}, BudgetTooSmall, "--device-budget"),
        ({"model": "tiny-llama", "dtype": "int8"}, BadRequest, "int8"),
        ({"model": "tiny-llama", "device_budget": 0}, BudgetTooSmall, "--device-budget"),
        ({"model": "tiny-llama", "threads": "many"}, BadRequest, "'many' is not a whole number"),
        *(
            ({name: -3}, BadRequest, "-3 is too few: give 1 or more")
            for name in ("threads", "decode_rows", "max_tokens")
        ),
        ({"decode_rows": 1025}, BadRequest, "1025 is too many: give 1024 or less"),
        ({"metrics_port": 70_000}, BadRequest, "70000 is no port"),
        ({"drain_timeout": -1}, BadRequest, "give 0 or more"),
        ({"drain_timeout": float("nan")}, BadRequest, "give 0 or more"),
        ({"drain_timeout": "soon"}, BadRequest, "give 0 or more"),
        ({"start_timeout": 0}, BadRequest, "start_timeout"),
        ({"start_timeout": "1"}, BadRequest, "start_timeout"),
        ({"start_timeout": 0.2}, ServerGone, "start_timeout=0.2 s"),
        ({"without": "nothing"}, BadRequest, "'nothing'"),
        ({"max_message": 0}, BadRequest, "--max-message 0 holds no request: give 4096"),
        ({"model": "tiny-llama", "device": "tpu"}, NoDevice, "tpu"),
        ({"state_dir": "/nowhere/at/all"}, BadRequest, "not a folder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_server_is_refused_by_the_error_itself(monkeypatch, options, error, says):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=says):
        djinn.serve(**{"model": "tiny-llama"} | options).stop()


def test_a_start_imports_no_package_that_nobody_asks_for():
    pytest.importorskip("sklearn")
    code = """
import sys
from djinn.model.unasked import unasked
from djinn.server.server_main import parser, run
from djinn.errors import DjinnError
try:
    run(parser().parse_args(["--model", "tiny-llama", "--device-budget", "1MB", "--device", "cpu"]))
except DjinnError as error:
    print(type(error).__name__)
print("transformers" in sys.modules, "sklearn" in sys.modules)
import sklearn
with unasked("sklearn"):
    import sklearn.metrics
print(sys.modules["sklearn"] is sklearn)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BudgetTooSmall", "True", "False", "True"]
