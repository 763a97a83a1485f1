"""Steering: what scaling one layer's activation changes, with controls.

Every prompt is paused at the steering layer and resumed three times over: unedited, edited, and edited by factor 1.0; the
same edit is done by a plain forward hook on the model loaded here. Cost: all-position logits of each cross the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import djinn
from evaluation.prompts import load_prompts
from evaluation.servers import budget_for, server_for

PROMPTS = 8
Progress = Callable[[str], None]


def measure(settings: Any, progress: Progress) -> dict[str, Any]:
    import torch

    from djinn.model.load import load_model

    wanted, model = settings.activation_steering, settings.model
    if not wanted.enabled:
        return {"enabled": False}
    torch.set_num_threads(settings.threads)
    length = settings.resume.prompt_tokens
    prompts = load_prompts(model, PROMPTS, length)
    loaded = load_model(**vars(model), device=settings.device)
    hooked = Hooked(loaded.model, wanted.steering_layer, wanted.modification_factor)
    layer, factor = wanted.steering_layer, wanted.modification_factor
    changed, kl, control, differences, edited_ms, plain_ms = [], [], [], [], [], []
    with (
        server_for(settings, length, budget_for(settings.weights, 2, length, length)) as server,
        djinn.connect(server.endpoint) as client,
    ):
        for number, prompt in enumerate(prompts, 1):
            session = client.open()
            checkpoints, _ = session.prefill(prompt, checkpoint_at=[layer])
            plain = session.resume(checkpoints[layer], logits="all")
            edited = session.resume(checkpoints[layer], edit=djinn.Scale(factor), logits="all")
            unity = session.resume(checkpoints[layer], edit=djinn.Scale(1.0), logits="all")
            session.close()
            changed.append(float(np.mean(plain.logits.argmax(-1) != edited.logits.argmax(-1))))
            kl.append(mean_kl(plain.logits, edited.logits))
            control.append(float(np.mean(plain.logits != unity.logits)))
            differences.append(float(np.abs(edited.logits - hooked.logits(prompt)).max()))
            edited_ms.append((edited.stamps["logits"] - edited.stamps["accepted"]) / 1e6)
            plain_ms.append((plain.stamps["logits"] - plain.stamps["accepted"]) / 1e6)
            progress(f"steering: prompt {number} of {len(prompts)}, {changed[-1]:.2%} of argmax positions changed")
    share = float(np.mean(changed))
    return {
        "enabled": True,
        "layer": layer,
        "factor": factor,
        "changed_argmax_share": share,
        "changed_by_prompt": changed,
        "top1_agreement": 1.0 - share,
        "kl_mean": float(np.mean(kl)),
        "positions": sum(map(len, prompts)),
        "control_factor_1_changed_share": max(control),
        "hook_max_abs_diff": max(differences),
        "resume_ms_edited": edited_ms,
        "resume_ms_plain": plain_ms,
    }


def mean_kl(plain: np.ndarray, edited: np.ndarray) -> float:
    """KL(plain || edited) in nats, mean over positions; logits float32 `(positions, vocabulary)`."""
    p, q = _log_softmax(plain), _log_softmax(edited)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Hooked:
    """The same edit by the plain means: a forward hook on the layer of a transformers model."""

    def __init__(self, model: Any, layer: int, factor: float) -> None:
        self.model = model
        model.model.layers[layer - 1].register_forward_hook(lambda module, inputs, output: output * factor)

    def logits(self, prompt: list[int]) -> np.ndarray:
        """float32 `(positions, vocabulary)`."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([prompt], device=self.model.device)
            return self.model(ids, use_cache=True).logits[0].float().cpu().numpy()
