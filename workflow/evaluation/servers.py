"""The server of a measuring rule: its own, or the one that the config names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import djinn
from djinn.server.plan import workspace_bytes
from djinn.sizes import UNIT_TOKENS, KVShape, parse_bytes

MARGIN_TOKENS = 64  # a server is told of prompts, new tokens and this
GROWTH_S = 120.0  # a host pool that has not grown for so long grows no more: its pages are taken before any are counted


class WrongServer(RuntimeError):
    """The server that the config names holds another model than the config."""


class PoolStuck(RuntimeError):
    """The server's host pool was never ready."""


@dataclass(frozen=True)
class Running:
    endpoint: str
    pid: int | None  # None for a server that is not ours
    start_s: float | None


@contextmanager
def server_for(
    settings: Any,
    max_tokens: int,
    device_budget: int,
    decode_rows: int | None = None,
    wait_for_pool: bool = True,
    held: int | None = None,
) -> Iterator[Running]:
    """A server for `settings`: bytes of `device_budget`, sessions of up to `max_tokens`. It ends with the block.

    Of a server of our own, decode_rows: as of `djinn.serve`. held: sessions alive at once, where they are few: its host pool
    is for so many (at most budget.host), since pinning 90 GB and giving them back takes seconds. wait_for_pool: until all of
    it is ready, since pinning holds a driver's lock that every copy wants too; how long it takes the rule `provision` tells.
    """
    if settings.server:
        settings.served_by = check_model(settings)
        yield Running(settings.server, None, None)
        return
    model, host = settings.model, parse_bytes(settings.budget.host)
    if held is not None:
        host = min(host, checkpointed_bytes(settings.weights, held + 1, max_tokens + MARGIN_TOKENS))
    server = djinn.serve(
        model.name,
        weights=model.source,
        dtype=model.dtype,
        seed=model.seed,
        path=model.path,
        hub_id=model.hub_id,
        revision=model.revision,
        device=settings.device,
        threads=settings.threads,
        device_budget=device_budget,
        host_budget=host,
        max_tokens=max_tokens + MARGIN_TOKENS,
        decode_rows=decode_rows,
    )
    with server:
        if wait_for_pool:
            with djinn.connect(server.endpoint) as client:
                await_pool(client)
        yield Running(server.endpoint, server.pid, server.start_s)


def await_pool(client: djinn.Client) -> None:
    """Return when all of the host pool of a server that nobody has used yet is ready. Raises PoolStuck."""
    best, since = -1, time.monotonic()
    while True:
        lives = client.stats()["bytes"]
        if lives["host_free_bytes"] >= lives["host_budget_bytes"]:
            return
        if lives["host_free_bytes"] > best:
            best, since = lives["host_free_bytes"], time.monotonic()
        elif time.monotonic() - since > GROWTH_S:
            raise PoolStuck(
                f"{best} of {lives['host_budget_bytes']} bytes of the host pool are ready, and no more come"
            )
        time.sleep(0.05)


def check_model(settings: Any) -> dict[str, Any]:
    """What a result says of the server in the config, whose machine and budget are its own: address, version, device, plan.

    Raises WrongServer unless it holds the model in the config: a result names its weights.
    """
    with djinn.connect(settings.server, timeout=10.0) as client:
        welcome = client.server
    theirs = welcome.model
    ours = {key: getattr(settings.model, key) for key in ("name", "source", "dtype")}
    if settings.model.source == "random":
        ours["seed"] = settings.model.seed
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise WrongServer(
                f"the server at {settings.server} has {key} {theirs.get(key)!r}, the config says model.{key} = {value!r}: "
                "change one of them"
            )
    return {
        "address": settings.server,
        "version": welcome.server_version,
        "device": welcome.device,
        "plan": welcome.plan,
    }


def shape_of(facts: dict[str, Any]) -> KVShape:
    """What a session of this model takes, from the facts of `load_model` or of a server's welcome."""
    return KVShape(facts["layers"], facts["kv_heads"], facts["head_dim"], facts["hidden_size"], facts["dtype"])


def checkpointed_bytes(facts: dict[str, Any], sessions: int, tokens: int) -> int:
    """What `sessions` of `tokens` take, each with a checkpoint of every layer."""
    shape = shape_of(facts)
    return sessions * (shape.kv_bytes(tokens) + shape.layers * shape.hidden_bytes(tokens))


def budget_for(facts: dict[str, Any], sessions: int, tokens: int, max_tokens: int) -> int:
    """A device budget (bytes) whose arena holds `sessions` paused in a prefill of `tokens`, and not one more.

    max_tokens: what `server_for` is told, which sizes the workspace.
    """
    shape = shape_of(facts)
    workspace = workspace_bytes(shape, facts["intermediate_size"], facts["vocab_size"], max_tokens + MARGIN_TOKENS)
    units = shape.layers * -(-tokens // UNIT_TOKENS) + -(-shape.hidden_bytes(tokens) // shape.unit_bytes)
    one = units * shape.unit_bytes
    return facts["bytes"] + workspace + sessions * one + one // 4
