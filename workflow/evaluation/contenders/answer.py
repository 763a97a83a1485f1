"""A contender's process: questions on stdin, answers on what was stdout, a JSON line each.

    python -m evaluation.contenders.answer MODULE < questions

Libraries print; what they print goes to stderr. A system that cannot be run or lacks a measurement answers with
`unable`; any other exception is a mistake, is told, and ends the process.
"""

from evaluation.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()

import importlib
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from evaluation.contenders.contender import PROBES, Contender, Job, Unable, said

MODULES = "evaluation.contenders"


def answer(contender: Contender, question: dict[str, Any]) -> Any:
    match question["ask"]:
        case "versions":
            return contender.versions()
        case "workload":
            return contender.workload(question["sessions"])
        case "continued" | "edited" as name:
            return getattr(contender, name)(question["warmup"], question["samples"])
        case name if name in ("leave", *PROBES):
            with contender.repeating():
                return _probed(contender, question)
        case other:
            raise ValueError(f"nobody answers {other!r}")


def _probed(contender: Contender, question: dict[str, Any]) -> Any:
    match question["ask"]:
        case "leave":
            return contender.leave(Path(question["folder"]))
        case "survive":
            return asdict(contender.come_back(Path(question["folder"])))
        case probe:
            return asdict(getattr(contender, probe)())


def serve(module: str, questions: TextIO, answers: TextIO) -> None:
    """Tell of the system, read the Job, load, answer until the questions end."""

    def tell(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    contender = None
    try:
        system = importlib.import_module(f"{MODULES}.{module}").SYSTEM
        has = system.workload is not Contender.workload
        tell(answer={"tuned": system.TUNED, "whole": system.TUNED_WHOLE, "workload": has, "in_turn": system.IN_TURN})
        job = questions.readline()
        if not job:
            return
        contender = system(Job(**json.loads(job)))
        tell(answer="ready")
        for line in questions:
            try:
                tell(answer=answer(contender, json.loads(line)))
            except Unable as reason:
                tell(unable=str(reason))
    except Unable as reason:  # at start
        tell(unable=str(reason))
    except Exception as error:
        tell(broken=said(error), traceback=traceback.format_exc())
        raise
    finally:
        if contender is not None:
            contender.close()


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, private)
