"""The plain model that a contender's edit is held against: transformers' own forward, with and without a hook."""

from __future__ import annotations

import numpy as np
import torch

from djinn.model.load import load_model
from evaluation.contenders.contender import FACTOR, Job
from evaluation.plain import step


class Plain:
    """Its memory goes back where the `with` ends."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.model = load_model(**job.model, device=job.device).model
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.layer = self.model.model.layers[job.layer - 1]

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        del self.model, self.layer
        torch.cuda.empty_cache()  # nothing to do on a CPU

    def logits(self, prompt: list[int]) -> np.ndarray:
        """Last-token logits, float32 `(vocabulary,)`."""
        with torch.inference_mode():
            ids = torch.tensor([prompt], device=self.model.device)
            return self.model(ids, logits_to_keep=1).logits[0, -1].float().cpu().numpy()

    def scaled(self, prompt: list[int], factor: float = FACTOR) -> np.ndarray:
        """The same with the hidden state behind layer L scaled by `factor`, by a forward hook."""
        hook = self.layer.register_forward_hook(lambda module, inputs, output: output * factor)
        try:
            return self.logits(prompt)
        finally:
            hook.remove()

    def step(self, logits: np.ndarray) -> float:
        """The distance between neighbouring numbers of the model's dtype at the largest of `logits`."""
        return float(step(torch.tensor(float(np.abs(logits).max())), self.dtype))
