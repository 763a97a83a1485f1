"""The other end: start a contender in its Python, ask, and tell how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from typing import Any

from evaluation.contenders.contender import Job, Unable
from evaluation.lifeline import PARENT
from evaluation.records import ROOT


def environment() -> dict[str, str]:
    """Of a contender's Python, which has its system and need not have this package."""
    places = [os.environ.get("PYTHONPATH"), str(ROOT), str(ROOT / "workflow")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), PARENT: str(os.getpid())}


class Broken(RuntimeError):
    """A contender ended by a mistake, of ours or of its own: the rule fails."""


class Asked:
    """One contender's process; it ends with the block. It imports its system at once, and whoever needs what it tells then
    waits for it: several import side by side, or beside another's load. Until it has a job it holds nothing of the device.

    choice: which of the system's settings; None takes the job's own. Without a job nothing is loaded.
    Raises Unable when it cannot be run here, Broken when it breaks.
    """

    def __init__(self, module: str, job: Job | None, python: str = sys.executable, choice: int | None = 0) -> None:
        self.module = module
        self._told: dict[str, Any] | None = None
        self._begun = False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process lives
        try:
            self._process = subprocess.Popen(
                [python, "-m", "evaluation.contenders.answer", module],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise Unable(f"{type(error).__name__}: {error}") from error
        if job is not None:
            self.begin(job, choice)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self) -> dict[str, Any]:
        """What it tells of its system, once it has imported it."""
        if self._told is None:
            try:
                self._told = self._answer()
            except BaseException:
                self.close()
                raise
        return self._told

    @property
    def tuned(self) -> list[dict[str, Any]]:
        """The settings that this system can be tried with."""
        return self.hear()["tuned"]

    @property
    def whole(self) -> bool:
        """Whether they are tried with all sessions of the workload."""
        return self.hear()["whole"]

    @property
    def workload(self) -> bool:
        """Whether it has one of many sessions."""
        return self.hear()["workload"]

    @property
    def in_turn(self) -> list[str]:
        """The probes that its first process is asked, in this order."""
        return self.hear()["in_turn"]

    def begin(self, job: Job, choice: int | None = 0) -> None:
        """Load the job, once; it was started without one to tell its settings first."""
        self.hear()
        self._begun = True
        try:
            self._put(asdict(job if choice is None else replace(job, setting=self.tuned[choice])))
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, question: str, **more: Any) -> Any:
        """The answer. Raises Unable (it has no such thing) or Broken."""
        self._put({"ask": question, **more})
        return self._answer()

    def kill(self) -> None:
        """As `kill -9`: what a session must outlive."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if not self._begun:
            self.kill()  # it has nothing to give back, and may be importing for ten seconds more
        elif self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process.stdout.close()
        self._errors.close()

    def _put(self, content: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        said = json.loads(line)
        if "unable" in said:
            raise Unable(said["unable"])
        if "broken" in said:
            raise Broken(f"{self.module}: {said['traceback']}")
        return said["answer"]

    def _ended(self) -> Broken:
        code = self._process.wait()
        self._errors.seek(0)
        words = " | ".join(self._errors.read().strip().splitlines()[-3:])
        return Broken(f"{self.module} ended with exit code {code}: {words or 'no words'}")
