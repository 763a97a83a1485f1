"""Server processes that start fast: forked from one that has imported everything. Real processes, killed for real.

The module is both ends: `python nursery.py` is the process that forks, `Nursery` talks to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import djinn
from djinn.launch import READY
from djinn.lifeline import die_with_parent

TINY = ("--model=tiny-llama", "--dtype=float32", "--threads=1", "--max-tokens=256", "--port=0")
TOKEN = "whoever comes has all the sessions"  # a server is left and come back to
SMALL = ("--device-budget=40MB", "--host-budget=60MB")


class Child:
    """A server. endpoint; log(): what it said on stderr so far."""

    def __init__(self, nursery: Nursery, arguments: list[str], out: Path) -> None:
        self._nursery, self._out = nursery, out
        self.pid = nursery.ask({"start": arguments, "out": str(out)})
        self.endpoint, self.code = "", None
        while not self.endpoint:
            for line in out.read_text().splitlines():
                if line.startswith(READY):
                    self.endpoint = line.removeprefix(READY)
            if not self.endpoint and (code := nursery.ask({"poll": self.pid})) is not None:
                raise AssertionError(f"the server ended with {code}: {self.log()}")
            time.sleep(0.01)

    def log(self) -> str:
        return self._out.with_suffix(".err").read_text()

    def connect(self) -> djinn.Client:
        return djinn.connect(self.endpoint, timeout=120, token=TOKEN)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it the signal and wait; its exit code (-9: killed)."""
        if self.code is None:
            os.kill(self.pid, number)
            self.code = self._nursery.ask({"wait": self.pid})
        return self.code


class Nursery:
    def __init__(self, folder: Path) -> None:
        self.folder, self._count, self.children = folder, 0, []
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question: dict) -> int | None:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments: str) -> Child:
        """A server of tiny-llama; a later argument wins over an earlier one."""
        self._count += 1
        out = self.folder / f"server-{self._count}.out"
        child = Child(self, [*TINY, *SMALL, *arguments], out)
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.end(signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(arguments: list[str], out: str) -> None:
    """In the child: never returns."""
    die_with_parent(os.getppid())
    for number, path in ((1, out), (2, Path(out).with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 1
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    import djinn.server.build
    from djinn.server.server_main import main

    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer = None
        if "start" in asked:
            Path(asked["out"]).touch()
            answer = os.fork()
            if answer == 0:
                serve(asked["start"], asked["out"])
        else:
            pid = asked.get("wait") or asked["poll"]
            if pid not in ended:
                found, status = os.waitpid(pid, 0 if "wait" in asked else os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        print(json.dumps(answer), flush=True)
