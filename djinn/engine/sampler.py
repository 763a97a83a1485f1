"""Choose tokens: greedily, or drawn from a random stream that belongs to one session."""

from __future__ import annotations

import math

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from djinn.errors import BadRequest, NotFinite
from djinn.sampling import GREEDY, Sampling

LEAST_TEMPERATURE = 1e-3  # below it, dividing logits leaves float32's range


def check(sampling: Sampling) -> None:
    """Raise BadRequest unless `sampling` can be carried out."""
    t = sampling.temperature
    if not math.isfinite(t) or (t != 0 and t < LEAST_TEMPERATURE):
        raise BadRequest(f"temperature is {t}: give 0 (the likeliest token) or a number from {LEAST_TEMPERATURE} up")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise BadRequest(f"top_k is {sampling.top_k}: give 1 or more, or None to keep every token")
    if not 0 < sampling.top_p <= 1:  # NaN too
        raise BadRequest(f"top_p is {sampling.top_p}: give a number in (0, 1]")
    if sampling.seed < 0:
        raise BadRequest(f"seed is {sampling.seed}: give 0 or more")


class Sampler:
    """One session's Sampling and where its random stream stands. Drawn from by one session alone, on the CPU.

    Logits are on the host when a token is chosen, so the stream is a CPU generator on every device.
    """

    def __init__(self, sampling: Sampling = GREEDY, stream: torch.Generator | None = None) -> None:
        self.sampling = sampling
        self.stream = stream
        if sampling.temperature and stream is None:  # greedy sessions carry no generator (5 kB each)
            self.stream = torch.Generator().manual_seed(sampling.seed)
        self._warpers = LogitsProcessorList(_warpers(sampling)) if sampling.temperature else None

    @property
    def greedy(self) -> bool:
        """Whether it always takes the likeliest token."""
        return self._warpers is None

    def copy(self) -> Sampler:
        """A sampler that will choose what this one will, and leaves it as it is."""
        return Sampler(self.sampling, self.stream and self.stream.clone_state())

    def choose(self, logits: torch.Tensor, best: tuple[int, float] | None = None) -> int:
        """The next token from float32 logits `(vocabulary,)`. Raises NotFinite where they hold NaN or +infinity.

        best: the first of the largest, or a NaN, and its logit, where that is known.
        """
        if best is None:
            first = int(logits.numpy().argmax())
            best = first, float(logits[first])
        likeliest, largest = best
        if not math.isfinite(largest):
            raise NotFinite(
                "the model's numbers overflowed, so no token can be chosen: rewind to a checkpoint and edit less, or close()"
            )
        if self._warpers is None:
            return likeliest
        probabilities = torch.softmax(self._warpers(None, logits[None]), dim=-1)
        return int(torch.multinomial(probabilities, num_samples=1, generator=self.stream))


def _warpers(sampling: Sampling) -> list:
    """Those of transformers, in the order of generate()."""
    warpers: list = []
    if sampling.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers
