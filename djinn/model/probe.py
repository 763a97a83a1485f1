"""At load: is this model, stopped and gone on with at each layer, still the model? Refuse it here, not in a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from djinn.errors import UnsupportedModel
from djinn.model.executor import Executor
from djinn.model.layers import kv_shape, plain_ids, refusing, text_config, windows
from djinn.model.slabs import SlabCache

# The largest relative L2 difference of one token's hidden state behind one layer. Both sides start from the same bits,
# so what differs is one layer's rounding: other kernels for another number of tokens. That is some 10 units in the last
# place (1.2e-7, 9.8e-4, 7.8e-3 for 1.0); a wrong mask, position or table moves a state by its own size. fp32 has room
# to spare because a state may be the small difference of large terms.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
# A mixture of experts may choose another expert where two are all but tied, and that token then differs by more than
# rounding. So a token over the tolerance gets other ids, and is refused only when its place differs every time.
TRIES = 3
TOKENS = 16
PHASES = ("prefill", "decode")


class Place(NamedTuple):
    """Where a pass is compared; sorts in the order in which a reader looks for a fault."""

    phase: int  # index into PHASES
    layer: int  # from 1; depth + 1 is what lies behind the layers

    def __str__(self) -> str:
        return f"layer {self.layer} in {PHASES[self.phase]}"


@dataclass
class _Plain:
    """What the model's own forward computes without a cache: hidden states behind each layer, and logits."""

    logits: torch.Tensor
    states: list[torch.Tensor]


def probe(executor: Executor, seed: int = 0) -> None:
    """Compare every layer, stopped at and gone on from, with the model's own forward. Called once, right after load.

    Raises UnsupportedModel naming the model, the first layer that differs, prefill or decode, and by how much.

    Over n+1 random tokens (17, or a little more than a sliding window of up to 64): the plain forward without a cache
    gives each layer's hidden state. Then the executor prefills n tokens and decodes one, a layer at a time, each layer
    starting from the plain state below it, so that a difference names its own layer. The layers run from the last to
    the first, behind a forward over other tokens, so that what a layer passes to the next beside the hidden state is
    missing or somebody else's. Which layers wrote their keys and values is checked after each. Needs no session, no
    pager and no tokenizer; allocates a few slabs of its own.

    Cost: two plain forwards, one of a single token, and 2 x depth + 1 passes that each run one layer at most, the
    embedding and the masks: about five forwards of 17 tokens in all, and up to three times that before a refusal.
    """
    kv_heads, head_dim = kv_shape(executor.model)
    worst: dict[Place, torch.Tensor] = {}
    for attempt in range(TRIES):
        ids = _random_ids(executor, seed + attempt)
        plain = _plain_forward(executor, ids)
        found, broken = _compare(executor, ids, plain, kv_heads, head_dim)
        worst = {place: torch.minimum(value, worst.get(place, value)) for place, value in found.items()}
        wrong = _first_wrong(worst, TOLERANCE[executor.model.dtype])
        if wrong is None:
            return
    _check_weights(executor)
    _check_causal(executor, ids, plain)
    raise UnsupportedModel(broken[wrong] if wrong in broken else _says(executor, wrong, worst[wrong]))


def _first_wrong(worst: dict[Place, torch.Tensor], tolerance: float) -> Place | None:
    """`not all within` rather than `any above`, so that NaN is wrong too."""
    return min((place for place, value in worst.items() if not bool((value <= tolerance).all())), default=None)


def _says(executor: Executor, place: Place, difference: torch.Tensor) -> str:
    where = f"layer {place.layer} of {executor.depth} differs in {PHASES[place.phase]}"
    if place.layer > executor.depth:
        where = "the logits differ"
    return (
        f"{_name(executor)} cannot be stopped inside its forward pass: going on from a saved hidden state, {where} from "
        f"the plain forward by {difference.nan_to_num(torch.inf).max().item():.2g} (relative L2; "
        f"{TOLERANCE[executor.model.dtype]:g} is allowed in {_dtype(executor)}). "
        "Its layers need more than the hidden state below them, or do not repeat"
    )


def _random_ids(executor: Executor, seed: int) -> torch.Tensor:
    config = text_config(executor.model)
    longer = [window + 8 for window in windows(config) if window <= 64]
    usable = torch.tensor(plain_ids(config))
    chosen = torch.randint(len(usable), (1, max([TOKENS, *longer]) + 1), generator=torch.Generator().manual_seed(seed))
    return usable[chosen].to(executor.model.device)


@torch.inference_mode()
def _compare(
    executor: Executor, ids: torch.Tensor, plain: _Plain, kv_heads: int, head_dim: int
) -> tuple[dict[Place, torch.Tensor], dict[Place, str]]:
    """(difference of each token at each place, why a place has none)"""
    model, depth, n = executor.model, executor.depth, ids.shape[1] - 1
    _plain_forward(executor, ids.flip(1))  # somebody else's pass lies between
    cache = SlabCache(depth)
    cache.bind(torch.zeros((depth, n + 1, 2, kv_heads, head_dim), dtype=model.dtype, device=model.device))
    found: dict[Place, torch.Tensor] = {}
    broken: dict[Place, str] = {}
    for phase, past, end in ((0, 0, n), (1, n, n + 1)):
        for layer in [depth + 1] * phase + list(range(depth, 0, -1)):  # depth + 1: the norm and the head
            place = Place(phase, layer)
            below = plain.states[layer - 2][:, past:end].clone() if layer > 1 else None
            stop = layer if layer <= depth else None
            expected = (plain.states[layer - 1] if stop else plain.logits)[:, past:end]
            found[place] = torch.full((end - past,), torch.inf)
            try:
                with refusing(f"{_name(executor)} {place} fails when its pass goes on from a saved hidden state"):
                    out = executor.run(cache, ids[:, past:end], past, start=layer - 1, hidden=below, stop=stop)
            except UnsupportedModel as reason:
                broken[place] = str(reason)
                continue
            wanted = [past] * (layer - 1) + [end] * (depth + 1 - layer)
            if stop and not broken and cache.lengths != wanted:
                broken[place] = (
                    f"{_name(executor)} {place}, run alone over tokens {past} to {end - 1}, leaves {cache.lengths} tokens "
                    f"in the layers' caches instead of {wanted}: a layer must write its own keys and values and no other's"
                )
                continue
            found[place] = apart(out.hidden if stop else out.logits, expected)
    return found, broken


@torch.inference_mode()
def _plain_forward(executor: Executor, ids: torch.Tensor) -> _Plain:
    """Refuses what cannot serve as a reference: one finite state a token must leave each layer."""
    states: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        states.append((out[0] if isinstance(out, tuple) else out).clone())

    hooks = [layer.register_forward_hook(keep) for layer in executor.layers]
    try:
        executor.rotary.reset()
        with refusing(f"{_name(executor)} cannot run its plain forward"):
            logits = executor.model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    expected = (1, ids.shape[1], text_config(executor.model).hidden_size)
    if len(states) != executor.depth or any(state.shape != expected for state in states):
        raise UnsupportedModel(
            f"{_name(executor)} does not pass one hidden state {expected} from each of its {executor.depth} layers to the "
            f"next, but {len(states)} of shapes {sorted({tuple(state.shape) for state in states})}"
        )
    for layer, state in enumerate(states, 1):
        if not bool(state.isfinite().all()):
            _check_weights(executor)
            raise UnsupportedModel(
                f"{_name(executor)} overflows in {_dtype(executor)} behind layer {layer}: "
                "load it with --dtype bfloat16 or float32"
            )
    return _Plain(logits, states)


def _check_weights(executor: Executor) -> None:
    """Say so where the reason is the checkpoint: no dtype mends it."""
    for name, weights in executor.model.named_parameters():
        if bool(weights.isnan().any()):
            raise UnsupportedModel(
                f"{_name(executor)}'s weights hold NaN, in {name}: they are damaged, fetch them again"
            )


def _check_causal(executor: Executor, ids: torch.Tensor, plain: _Plain) -> None:
    """Say so where the reason is that tokens see those behind them."""
    changed = ids.clone()
    changed[0, -1] = ids[0, ids[0] != ids[0, -1]][0]
    before = plain.states[-1][:, :-1]
    again, other = (_plain_forward(executor, each).states[-1][:, :-1] for each in (ids, changed))
    difference = apart(other, before).median().item()  # not the largest: a near tie of experts is not blindness
    if torch.equal(again, before) and difference > TOLERANCE[executor.model.dtype]:
        raise UnsupportedModel(
            f"{_name(executor)} is not causal: changing the last token changes the states of those before it by "
            f"{difference:.2g} (relative L2), so their keys and values cannot be kept"
        )


def apart(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """One relative L2 difference a token."""
    found, expected = found[0].double(), expected[0].double()
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).cpu()


def _name(executor: Executor) -> str:
    return type(executor.model).__name__


def _dtype(executor: Executor) -> str:
    return str(executor.model.dtype).removeprefix("torch.")
