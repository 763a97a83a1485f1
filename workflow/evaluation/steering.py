"""Steering: what an edit of one layer's activation changes, against a plain forward hook, and what editing costs.

Every prompt is run once with a checkpoint at the steering layer and resumed from there with each factor of the sweep; factor
1.0 is the control. The time of an edited resume is taken in turn with that of an unedited one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import djinn
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

if TYPE_CHECKING:
    import numpy as np
    import torch

PROMPTS = 3  # of resume.prompt_tokens each; all-position logits of each cross the wire once a factor
SWEEP = (0.0, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
WARM_UP = 2  # pairs
COST_PAIRS = 50  # at least: for a bound of 1 % (MEASURES)
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    wanted = settings.activation_steering
    if not wanted.enabled:
        progress("steering: off (activation_steering.enabled is false)")
        return {"enabled": False}
    length, layer = settings.resume.prompt_tokens, wanted.steering_layer
    prompts = load_prompts(settings.model, PROMPTS, length)
    factors = sorted({*SWEEP, wanted.modification_factor})
    rows: dict[float, list[dict[str, float]]] = {factor: [] for factor in factors}
    with ThreadPoolExecutor(1, "hooked") as pool:
        loading = pool.submit(Hooked, settings, layer)  # while the server starts
        with (
            server_for(settings, length, budget_for(settings.weights, 2, length, length), held=2) as server,
            djinn.connect(server.endpoint) as client,
        ):
            hooked = loading.result()
            for number, prompt in enumerate(prompts, 1):
                session = client.open()
                checkpoints, out = session.prefill(prompt, checkpoint_at=[layer], logits="all")
                plain = hooked.beside(out.logits)
                for factor, steered in zip(factors, one_ahead(session, checkpoints[layer], factors), strict=True):
                    rows[factor].append(difference(plain, hooked.beside(steered), hooked.logits(prompt, factor)))
                session.close()
                progress(f"steering: prompt {number} of {len(prompts)}, {len(factors)} factors at layer {layer}")
            times = in_turn(
                client, prompts[0], layer, wanted.modification_factor, max(COST_PAIRS, settings.resume.samples)
            )
    return {
        "enabled": True,
        "layer": layer,
        "modification_type": wanted.modification_type,
        "factor": wanted.modification_factor,
        "positions": sum(map(len, prompts)),
        "sweep": [{"factor": factor, "by_prompt": found} for factor, found in rows.items()],
        "resume_ms": times,
    }


def one_ahead(session: djinn.Session, checkpoint: djinn.Checkpoint, factors: Sequence[float]) -> Iterator[np.ndarray]:
    """The logits of every position with each factor; those of the next are under way while the caller has one's."""

    def ask(factor: float) -> Any:
        return session.resume(checkpoint, edit=djinn.Scale(factor), logits="all", wait=False)

    pending = ask(factors[0])
    for factor in factors[1:]:
        logits = pending.result().logits
        pending = ask(factor)
        yield logits
    yield pending.result().logits


def difference(p: torch.Tensor, q: torch.Tensor, h: torch.Tensor) -> dict[str, float]:
    """What one edit changed in one prompt; p plain, q steered, h by the hook: logits float32 `(positions, vocabulary)`.

    changed_argmax, changed_logits: shares of positions, and of all logits, that differ. relative_l2: ‖steered − plain‖ /
    ‖plain‖, mean over positions. kl: KL(plain ‖ steered), nats, mean. hook_max_abs: max |Δlogit| to the forward hook, and
    hook_top1 the share of positions where both have the same best token.
    """
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return {
        "changed_argmax": float((p.argmax(-1) != q.argmax(-1)).float().mean()),
        "changed_logits": float((p != q).float().mean()),
        "relative_l2": float(((q - p).norm(dim=-1) / p.norm(dim=-1)).mean()),
        "kl": float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        "hook_max_abs": float((q - h).abs().max()),
        "hook_top1": float((q.argmax(-1) == h.argmax(-1)).float().mean()),
    }


def in_turn(client: djinn.Client, prompt: list[int], layer: int, factor: float, pairs: int) -> dict[str, list[float]]:
    """Accepted → logits (ms) of a resume from one checkpoint, as it is and edited, A B A B."""
    session = client.open()
    checkpoints, _ = session.prefill(prompt, checkpoint_at=[layer])
    times: dict[str, list[float]] = {"unedited": [], "edited": []}
    for _ in range(WARM_UP + pairs):
        for name, edit in (("unedited", ()), ("edited", djinn.Scale(factor))):
            stamps = session.resume(checkpoints[layer], edit=edit).stamps
            times[name].append((stamps["logits"] - stamps["accepted"]) / 1e6)
    session.close()
    return {name: listed[WARM_UP:] for name, listed in times.items()}


class Hooked:
    """The same edit by the plain means: a forward hook on the layer of a transformers model."""

    def __init__(self, settings: Any, layer: int) -> None:
        import torch

        from djinn.model.layers import find_layers
        from djinn.model.load import load_model

        torch.set_num_threads(settings.threads)
        self.model, self.factor = load_model(**vars(settings.model), device=settings.device).model, 1.0
        find_layers(self.model)[layer - 1].register_forward_hook(lambda module, inputs, output: output * self.factor)

    def logits(self, prompt: list[int], factor: float) -> torch.Tensor:
        """float32 `(positions, vocabulary)`, on the model's device."""
        import torch

        self.factor = factor
        with torch.inference_mode():
            ids = torch.tensor([prompt], device=self.model.device)
            return self.model(ids, use_cache=True).logits[0].float()

    def beside(self, logits: np.ndarray) -> torch.Tensor:
        """The same numbers on the model's device."""
        import torch

        return torch.tensor(logits, device=self.model.device)
