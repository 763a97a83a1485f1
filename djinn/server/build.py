"""Put a server together: weights, plan, arena, host pool, pager, engine, wire."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from djinn.durable.folder import SPILLED, StateFolder
from djinn.durable.record import Identity
from djinn.durable.store import Store
from djinn.engine.engine import Engine
from djinn.engine.keeper import Keeper
from djinn.engine.runner import Runner
from djinn.engine.scheduler import Scheduler
from djinn.engine.side import side_of
from djinn.errors import BudgetTooSmall
from djinn.model.drive import drive
from djinn.model.identity import config_sha256, weights_sha256
from djinn.model.load import LoadedModel, load_model, torch_device
from djinn.paging.pager import Pager
from djinn.server.door import Door
from djinn.server.limits import limits_of
from djinn.server.metrics import serve_metrics
from djinn.server.plan import make_plan, workspace_bytes
from djinn.server.pulse import Pulse
from djinn.server.requests import welcome
from djinn.server.service import Service
from djinn.sizes import KVShape, format_bytes
from djinn.tiers.cuda import CudaDevice
from djinn.tiers.disk import Disk
from djinn.tiers.pools import HostMemory, HostPool, Pool
from djinn.tiers.streams import HostDevice
from djinn.timeline import Timeline

log = logging.getLogger(__name__)
ROWS = {"cpu": 8, "cuda": 32}  # sessions decoded in one pass, where nothing else is asked for
# Tokens of the prompts that share a first pass, where nothing is given: short ones, which take the time of one. Of long ones
# the first would wait for the second, and both together win 3 % (1,600 tokens each, a card).
PREFILL_TOKENS = 512
CPU_BUDGET = 2 * 10**9  # bytes, where none is given
DISK_SHARE = 0.9  # of what the state directory's file system can take, where no disk budget is given


def build_service(
    args: argparse.Namespace, device: str, device_budget: int | None, host_budget: int, disk_budget: int | None
) -> tuple[Service, str, Callable[[], None]]:
    """(the service, the memory plan as a table, what ends its threads). Everything is allocated when this returns."""
    # A start that fails ends what it has begun: a thread in torch at exit would abort the process.
    with ExitStack() as begun:
        service, table = _build(args, device, device_budget, host_budget, disk_budget, begun)
        return service, table, begun.pop_all().close


def _build(
    args: argparse.Namespace,
    device: str,
    device_budget: int | None,
    host_budget: int,
    disk_budget: int | None,
    begun: ExitStack,
) -> tuple[Service, str]:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    # cuDNN's attention does not repeat its own bits: of 16 runs of 17 decode steps on an H100 (torch 2.11, Llama-2-13B
    # shape, bf16, 1,600 tokens) 10 differed from the first with it, none with flash attention.
    torch.backends.cuda.enable_cudnn_sdp(False)
    place = torch_device(device)
    state = None
    if args.state_dir:
        state = StateFolder(Path(args.state_dir))
        begun.callback(state.close)
    memory = HostMemory(host_budget, pinned=place.type == "cuda")  # made ready behind the load
    begun.callback(memory.close)
    loaded = load_model(args.model, args.weights, args.dtype, device, args.seed, args.path, args.hub_id, args.revision)
    facts = loaded.facts
    log.info("loaded %s from %s, %s", facts["name"], facts["source"], format_bytes(facts["bytes"]))
    _tell_card(place)
    max_tokens = min(args.max_tokens, facts["max_tokens"] or args.max_tokens)
    prefill_tokens = args.prefill_tokens or min(max_tokens, PREFILL_TOKENS)
    rows = args.decode_rows or ROWS[place.type]
    executor, rows = drive(loaded.model, rows, max_tokens, prefill_tokens, frozenset(args.without))
    _tell_card(place)
    shape = KVShape(facts["layers"], facts["kv_heads"], facts["head_dim"], facts["hidden_size"], facts["dtype"])
    plan = make_plan(
        shape,
        facts["bytes"],
        workspace_bytes(shape, facts["intermediate_size"], facts["vocab_size"], max(max_tokens, prefill_tokens)),
        _whole(place) if device_budget is None else device_budget,
        host_budget,
    )
    _check_card(place, plan.arena_bytes)
    timeline = Timeline()
    arena = Pool(plan.arena_bytes, place, shape.unit_bytes)
    _tell_card(place)
    host = HostPool(memory, shape.unit_bytes)
    streams = (
        CudaDevice(place, timeline, overlap="overlap" not in args.without)
        if place.type == "cuda"
        else HostDevice(timeline)
    )
    store = Store(state, timeline) if state else None
    if disk_budget is None:
        disk_budget = int(state.room() * DISK_SHARE) if state else 0
    disk = None
    if state:
        disk = Disk(timeline, state.path, SPILLED)
    elif disk_budget:
        disk = Disk(timeline)
    pager = Pager(shape, arena, host, streams, disk, disk_budget, store)
    begun.callback(pager.shut_down)
    keeper = None
    if store:
        begun.callback(store.close)
        keeper = Keeper(pager, store, _identity(loaded))
    side = side_of(place)
    deterministic, ahead = args.deterministic == "on", "ahead" not in args.without
    scheduler = Scheduler(executor, place, side, timeline, rows, deterministic, ahead, pager.wanted)
    runner = Runner(pager, place, side, write_through="write-through" not in args.without)
    engine = Engine(
        runner,
        scheduler,
        pager,
        facts["vocab_size"],
        max_tokens,
        keeper,
        parts_first="parts-first" not in args.without,
    )
    begun.callback(engine.compute.shut_down)
    limits = limits_of(args, max_tokens, facts["hidden_size"])
    door = Door(args.host, args.port, args.keys, limits.max_message_bytes)
    begun.callback(door.close)
    hello = welcome(facts, args.device or str(place), plan.numbers(), max_tokens, limits)
    service = Service(engine, hello, limits, door, args.drain_timeout)
    begun.callback(Pulse(engine).stop)
    if args.metrics_port is not None:
        begun.callback(serve_metrics(engine, args.metrics_port))
    return service, plan.table(shape)


def _identity(loaded: LoadedModel) -> Identity:
    return Identity(
        name=loaded.facts["name"],
        dtype=loaded.facts["dtype"],
        config_sha256=config_sha256(loaded.model),
        weights_sha256=weights_sha256(loaded.model),
    )


def _whole(place: torch.device) -> int:
    """The budget where none is given: 90 % of the card, 2 GB on a CPU."""
    return int(torch.cuda.mem_get_info(place)[1] * 0.9) if place.type == "cuda" else CPU_BUDGET


def _tell_card(place: torch.device) -> None:
    """Beside weights and arena a card holds CUDA's context, kernels, graphs, and what torch keeps to give out again."""
    if place.type == "cuda":
        free, total = torch.cuda.mem_get_info(place)
        tensors, kept = torch.cuda.memory_allocated(place), torch.cuda.memory_reserved(place)
        used, tensors, kept = map(format_bytes, (total - free, tensors, kept))
        log.info("%s holds %s: tensors %s, and all that torch took %s", place, used, tensors, kept)


def _check_card(place: torch.device, arena_bytes: int) -> None:
    if place.type == "cuda":
        torch.cuda.empty_cache()  # what loading, probing and compiling left behind
        free = torch.cuda.mem_get_info(place)[0]
        if arena_bytes > free:
            raise BudgetTooSmall(
                f"the arena of {format_bytes(arena_bytes)} does not fit the {format_bytes(free)} that are free on {place}: "
                "lower --device-budget"
            )
