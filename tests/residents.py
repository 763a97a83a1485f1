"""Sessions in the accounts, where a test wants them."""

from __future__ import annotations

from trace_memory import UNIT

from djinn.paging import decisions, policy
from djinn.paging.ledger import Ledger
from djinn.paging.residence import Part, Residence
from djinn.paging.transfers import Transfer
from djinn.states import Machine, State


def there(book: Ledger, name: str, state: State, size: int) -> Residence:
    """One that the device holds, in one part."""
    residence = Residence(name, Machine(state))
    book.open(residence)
    part = residence.body.parts[0] = Part(live=size)
    residence.body.put(part, book.device.take(size)[0])
    residence.body.here = True
    return residence


def coming_back(book: Ledger) -> tuple[Residence, Transfer]:
    """Somebody looks at one in the host pool, of two parts of two units each: it is on its way."""
    residence = Residence("looked at", Machine(State.HOST))
    book.open(residence)
    size = 2 * UNIT
    for key in range(2):
        residence.body.parts[key] = Part(live=size, clean=size, issued=size, host=book.host.take_scattered(size))
    residence.intended = True
    step = policy.next_step(book)
    assert isinstance(step, decisions.Move) and residence.machine.state is State.RESTORING
    return residence, step.transfer


def in_the_host_pool(book: Ledger, name: str, size: int) -> Residence:
    residence = Residence(name, Machine(State.HOST))
    book.open(residence)
    residence.body.parts[0] = Part(live=size, clean=size, issued=size, host=book.host.take_scattered(size))
    return residence
