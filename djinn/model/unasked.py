"""A package that an import would take in though nobody asks for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unasked(package: str) -> Iterator[None]:
    """Inside, `package` counts as not installed, unless it has been imported already."""
    hidden = package not in sys.modules
    if hidden:
        sys.modules[package] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[package]
