"""Plain transformers as the measure of fidelity: what its own `generate` and its own forward say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from djinn.model.load import load_model


class Plain:
    """A model loaded here, untouched. facts: as `load_model` gives them."""

    def __init__(self, model: dict[str, Any], device: str) -> None:
        loaded = load_model(**model, device=device)
        self.model, self.facts = loaded.model, loaded.facts
        self.model.generation_config.eos_token_id = None  # both sides go on to the asked length

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> np.ndarray:
        """int64 `(prompts, new_tokens)`, greedy; the prompts are of one length, so that nothing is padded."""
        ids = torch.tensor(prompts, device=self.model.device)
        made = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        return made[:, ids.shape[1] :].cpu().numpy()

    @torch.inference_mode()
    def compare(self, prompt: list[int], tokens: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
        """One forward over the prompt and `tokens`, position by position against a session's `logits` of the same.

        So a token that differs does not make all after it differ. control: the plain model against itself with another of
        its attentions, which computes the same and rounds otherwise: how much of a difference is nobody's.
        """
        ids = torch.tensor([[*prompt, *tokens[:-1].tolist()]], device=self.model.device)
        theirs, kept = self._logits(ids), self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            otherwise = self._logits(ids)
        finally:
            self.model.set_attn_implementation(kept)
        found = apart(torch.tensor(logits), theirs, self.facts["dtype"])
        return {"positions": len(theirs), **found, "control": apart(otherwise, theirs, self.facts["dtype"])}

    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 `(positions, vocabulary)`, on the host."""
        return self.model(ids, use_cache=False).logits[0].float().cpu()


def apart(ours: torch.Tensor, theirs: torch.Tensor, dtype: str) -> dict[str, Any]:
    """near_ties: positions where the best two of `theirs` are within one step of the dtype; different: of the other positions
    those with another best token.
    """
    top, second = theirs.topk(2).values.unbind(-1)
    tied = top - second <= step(top, dtype)
    return {
        "near_ties": int(tied.sum()),
        "different": int((~tied & (ours.argmax(-1) != theirs.argmax(-1))).sum()),
        "max_abs_logit_diff": float((ours - theirs).abs().max()),
    }


def step(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """The distance to the next larger number that `dtype` can hold, for each value."""
    return torch.finfo(getattr(torch, dtype)).eps * 2.0 ** values.abs().clamp_min(1e-30).log2().floor()
