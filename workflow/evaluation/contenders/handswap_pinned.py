"""The hand-written swap with host buffers allocated before the work (pinned, where there is a card)."""

from evaluation.contenders.handswap import HandSwap


class Pinned(HandSwap):
    pinned = True


SYSTEM = Pinned
