"""The pager on a device that is late: exact with every wait in its place, and wrong without any one of them."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from late import LateDevice, poison_what_is_free

from djinn.errors import IllegalMove, OutOfMemory, ServerFault
from djinn.paging.decisions import Grant, Step
from djinn.paging.mover import Mover
from djinn.paging.pager import Pager
from djinn.paging.residence import Request, Residence
from djinn.sizes import KVShape
from djinn.states import Machine, State
from djinn.tiers.disk import Disk
from djinn.tiers.pools import HostMemory, HostPool, Pool
from djinn.tiers.streams import Wait

SHAPE = KVShape(layers=3, kv_heads=1, head_dim=8, hidden_size=8, dtype="float32")
UNIT = SHAPE.unit_bytes
ROWS = 4  # of a kept hidden state


class Wrong(AssertionError):
    pass


class Rig:
    """A pager with a little memory, and a compute thread's work done by hand: numbers written, and found again."""

    def __init__(self, dropped: Wait | None = None, host_units: int = 40) -> None:
        self.device = LateDevice(dropped)
        arena = Pool(30 * UNIT, self.device.place, UNIT)
        host = HostPool(HostMemory(host_units * UNIT, pinned=False), UNIT)
        poison_what_is_free(arena)
        poison_what_is_free(host)
        disk = Disk(self.device.timeline)
        self.pager = Pager(SHAPE, arena, host, self.device, disk, 60 * UNIT)
        self.truth: dict[str, dict] = {}
        self.serial = 0

    def open(self) -> Residence:
        self.serial += 1
        residence = Residence(f"session-{self.serial}", Machine())
        self.pager.open(residence)
        self.truth[residence.key] = {layer: torch.empty(0, 2, 1, 8) for layer in range(3)}
        return residence

    def run(self, residence: Residence, tokens: int) -> None:
        """One run: admitted, everything it held compared as soon as its gates let it, `tokens` more written, paused."""
        truth = self.truth[residence.key]
        total = len(truth[0]) + tokens
        self.serial += 1
        name, old = f"pause-{self.serial}", next((k for k in truth if isinstance(k, str)), None)
        fresh = not len(truth[0])
        if fresh and residence.machine.state is State.IDLE:
            residence.machine.move(State.QUEUED)
        need = dict.fromkeys(range(3), SHAPE.layer_token_bytes * total) | {name: SHAPE.hidden_bytes(ROWS)}
        first = frozenset([old] if old else [])
        order = (*first, 0, 1, 2)
        admitted, refusal = threading.Event(), []

        def then(error) -> None:
            refusal.append(error)
            admitted.set()

        self.pager.admit(Request(residence, need, 0, not fresh, order=order, first=first, then=then))
        if not admitted.wait(20):
            raise Wrong("never admitted")
        if refusal[0]:
            if residence.machine.state is State.QUEUED:
                residence.machine.move(State.IDLE)
            raise refusal[0]
        residence.machine.move(State.RUNNING)
        if old:
            self._same(self.pager.layout.hidden(residence, old, ROWS)[0], truth.pop(old))
        slabs = self.pager.layout.slabs(residence)
        for layer in range(3):
            if layer in residence.gates:
                residence.gates[layer].hold()
            held = truth[layer]
            self._same(slabs[layer][: len(held)], held)
            more = torch.randn(tokens, 2, 1, 8)
            truth[layer] = torch.cat([held, more])
            self.device.write(slabs[layer][len(held) : total], more)
            self.pager.written(residence, layer, SHAPE.layer_token_bytes * total)
        truth[name] = torch.randn(ROWS, 8)
        self.device.write(self.pager.layout.hidden(residence, name, ROWS)[0], truth[name])
        self.device.synchronize()
        residence.resident.wait(20)
        self.pager.set_live(residence, dict.fromkeys(range(3), SHAPE.layer_token_bytes * total))
        self.pager.set_live(residence, {name: SHAPE.hidden_bytes(ROWS)})
        if old:
            self.pager.drop(residence, old)
        with self.pager.lock:
            residence.machine.move(State.PAUSED)
            self.pager.stopped(residence)

    @staticmethod
    def _same(found: torch.Tensor, expected: torch.Tensor) -> None:
        if not torch.equal(found, expected):
            raise Wrong("not what was written")

    def close(self) -> None:
        self.pager.shut_down()


def lives(rig: Rig, rounds: int) -> None:
    draw = random.Random(1)
    sessions = [rig.open() for _ in range(7)]
    for _ in range(rounds):
        residence = draw.choice(sessions)
        if len(rig.truth[residence.key][0]) > 120:
            residence.machine.move(State.DONE)
            rig.pager.release(residence)
            sessions.remove(residence)
            sessions.append(residence := rig.open())
        rig.run(residence, draw.choice([1, 7, 33, 40]))
        other = draw.choice(sessions)
        if draw.random() < 0.5 and other.body.here:
            rig.pager.park(other)
        if draw.random() < 0.2 and other.machine.state is State.HOST:
            rig.pager.look(other)


def test_every_session_comes_back_exact_from_a_device_that_is_late():
    rig = Rig()
    lives(rig, 150)
    usage = rig.pager.usage()
    rig.close()
    for moved in ("evicted_bytes", "restored_bytes", "mirrored_bytes", "spilled_bytes"):
        assert usage[moved] > 0, f"{moved} was never tried"
    assert sum(rig.device.waited.values()) > 0


@pytest.mark.parametrize("dropped", Wait)
def test_no_wait_can_be_left_out(dropped):
    rig = Rig(dropped)
    try:
        with pytest.raises((Wrong, ValueError, OutOfMemory)):
            lives(rig, 600)
    finally:
        rig.close()


def test_a_second_park_moves_new_tokens_only():
    rig = Rig(host_units=80)
    residence = rig.open()
    rig.run(residence, 64)
    for more in (1, 5):
        rig.pager.park(residence)
        wait_for(residence, State.HOST)
        before = rig.pager.usage()["evicted_bytes"]
        rig.run(residence, more)
        rig.pager.park(residence)
        wait_for(residence, State.HOST)
        again = rig.pager.usage()["evicted_bytes"] - before
        assert again == 3 * more * SHAPE.layer_token_bytes + SHAPE.hidden_bytes(ROWS)
    rig.close()


def test_an_intent_brings_a_session_back_before_it_is_resumed():
    rig = Rig(host_units=80)
    residence = rig.open()
    rig.run(residence, 40)
    rig.pager.park(residence)
    wait_for(residence, State.HOST)
    rig.pager.look(residence)
    wait_for(residence, State.IO_WAIT)
    assert residence.body.here
    rig.run(residence, 1)
    rig.close()


def test_what_was_decided_is_begun_before_a_copy_that_ends_can_change_it(monkeypatch):
    """Between the two an eviction ended, its session could not become READY any more, and its request was never answered."""
    rig = Rig(host_units=80)
    seen = []

    def carry_out(mover: Mover, step: Step, real=Mover._carry_out) -> None:
        if isinstance(step, Grant):
            seen.append((step.request.residence.machine.state, step.request.residence.waiting))
        real(mover, step)

    monkeypatch.setattr(Mover, "_carry_out", carry_out)
    residence = rig.open()
    for tokens in (20, 40, 40):  # it grows, on the device: let in by a decision, not by a copy's end
        rig.run(residence, tokens)
    rig.close()
    assert seen
    assert set(seen) <= {(State.READY, None), (State.QUEUED, None)}


def test_a_request_that_cannot_be_let_in_is_answered(monkeypatch):
    rig = Rig(host_units=80)
    residence = rig.open()
    rig.run(residence, 20)
    monkeypatch.setattr(residence.machine, "move", refuse)
    with pytest.raises(ServerFault, match="paging failed: IllegalMove"):
        rig.run(residence, 40)
    monkeypatch.undo()
    assert not residence.granted
    rig.close()


def refuse(state: State) -> int:
    if state is State.READY:
        raise IllegalMove("not from here")
    return 0


def test_when_all_tiers_are_full_one_request_is_refused_and_nobody_is_harmed():
    rig = Rig(host_units=12)
    sessions = [rig.open() for _ in range(20)]
    refused = 0
    for residence in sessions:
        try:
            rig.run(residence, 60)
        except OutOfMemory as error:
            refused += 1
            assert "host_budget" in str(error)
    assert refused
    for residence in sessions:
        if len(rig.truth[residence.key][0]):
            rig.run(residence, 1)
    for residence in sessions:
        residence.machine.move(State.DONE)
        rig.pager.release(residence)
    rig.close()
    usage = rig.pager.usage()
    assert usage["arena_free_bytes"] == usage["arena_bytes"]
    assert usage["host_free_bytes"] == usage["host_budget_bytes"]
    assert usage["disk_free_bytes"] == usage["disk_budget_bytes"]


def wait_for(residence: Residence, state: State) -> None:
    for _ in range(2000):
        if residence.machine.state is state:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"still {residence.machine.state}, expected {state}")
