"""Every step of a session's life with every fault: a typed error for the one concerned, all others to the bit, no byte astray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from asking import quiet, resume, until
from fault_steps import PROMPT, STEPS, Step, on_host, paused, spilled
from fault_table import FaultRecord
from faults import FAULTS, Fault

from djinn.engine.engine import Engine
from djinn.engine.session import Outcome, Session
from djinn.errors import DjinnError, ServerFault, StateRefused
from djinn.server.build import build_service
from djinn.server.server_main import parser
from djinn.states import END

# What a session may be lost of: the only copy of its bytes is gone, or a copy broke under a pass that ran already.
MAY_BE_LOST = {
    ("resume from the durable file", "durable: a bit flipped"): StateRefused,
    ("park durably from its own file", "durable: a bit flipped"): StateRefused,
    ("grow on the device", "copy in fails"): ServerFault,
    ("grow on the device", "copy in not queued"): ServerFault,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    """An arena of about thirteen sessions, a host pool of ten."""
    state = str(tmp_path_factory.mktemp("state"))
    args = ["--model=tiny-llama", "--port=0", "--max-tokens=256", "--threads=1", f"--state-dir={state}"]
    service, _, shut_down = build_service(parser().parse_args(args), "cpu", 36 * 10**6, 8 * 10**6, 60 * 10**6)
    yield service.engine
    shut_down()


@pytest.fixture(scope="module")
def expected(engine) -> dict[str, Outcome]:
    """How each step's session goes on, and a bystander, where there is no fault."""
    found = {}
    for step in STEPS:
        session = step.prepare(engine)
        with bystanders(engine):
            step.act(engine, session)
            found[step.name] = step.finish(engine, session)
        engine.close(session.key)
    balance(engine)
    return found


@contextlib.contextmanager
def bystanders(engine: Engine, expected: Outcome | None = None) -> Iterator[None]:
    """Sessions on the device, in the host pool and on the disk; in the end they must go on as if nothing had been."""
    others = [paused(engine), on_host(engine, paused(engine)), spilled(engine)]
    yield
    for other in others:
        out = resume(engine, other)
        if expected:
            same(out, expected)
        engine.close(other.key)


def same(found: Outcome, expected: Outcome) -> None:
    assert found.tokens == expected.tokens
    assert torch.equal(found.logits, expected.logits)


def balance(engine: Engine) -> None:
    """Everything is closed, and every byte of every tier is free."""
    quiet(engine)
    book = engine.pager.book
    assert not engine.sessions and not book.residences
    assert book.device.free_bytes == book.device.capacity, "device bytes were lost"
    assert book.host.free_bytes == book.host.capacity, "host bytes were lost"
    assert book.disk_free == book.disk_capacity, "disk bytes were lost"
    folder = engine.keeper.store.folder.path
    until(lambda: not list(folder.glob("*.safetensors")) and not list(folder.glob("*.partial")))


def attempt(engine: Engine, step: Step, session: Session) -> DjinnError | None:
    try:
        step.act(engine, session)
    except DjinnError as error:
        return error
    return None


def case(engine: Engine, step: Step, fault: Fault, expected: dict[str, Outcome]) -> str:
    """What came of it: done, the error's name, or lost."""
    session = step.prepare(engine)
    with bystanders(engine, expected["park: device to host"]):
        with fault.there(engine, session):
            refused = attempt(engine, step, session)
            quiet(engine)
        lost = session.machine.state in END
        if lost:
            assert isinstance(refused, MAY_BE_LOST[step.name, fault.name])
        else:
            if refused:
                assert not isinstance(refused, ServerFault), refused
                assert attempt(engine, step, session) is None, "the fault is over, and what was asked still fails"
            same(step.finish(engine, session), expected[step.name])
    engine.close(session.key)
    balance(engine)
    if lost:
        return f"lost: {type(refused).__name__}"
    return type(refused).__name__ if refused else "done"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_fault_harms_the_one_concerned_at_most(engine, expected, fault_record: FaultRecord, step, record_property):
    record_property("tried", len(FAULTS))
    for fault in FAULTS:
        try:
            fault_record.cases[step.name, fault.name] = case(engine, step, fault, expected)
        except BaseException as error:
            error.add_note(f"the fault was: {fault.name}")
            for key in list(engine.sessions):
                engine.close(key)
            raise


def test_faults_were_met(fault_record: FaultRecord, request):
    """A fault that nobody meets shows nothing: each refuses something, somewhere."""
    if len(fault_record.cases) < len(STEPS) * len(FAULTS):
        pytest.skip("only a part of the cases was run")
    for fault in FAULTS:
        met = [step.name for step in STEPS if fault_record.cases[step.name, fault.name] != "done"]
        assert met or fault.name in fault_record.absorbed, f"{fault.name} was never met"


def test_the_prompt_is_long_enough_to_be_written_through():
    from djinn.engine.runner import WRITE_THROUGH

    assert len(PROMPT) > WRITE_THROUGH
