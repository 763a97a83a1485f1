"""The hand-written swap with `.to("cpu")` and `.to(device)`: memory is taken anew at each move."""

from evaluation.contenders.handswap import HandSwap


class Pageable(HandSwap):
    pinned = False


SYSTEM = Pageable
