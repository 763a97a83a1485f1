"""A server process with the low bounds of `fuzz.house`: `python -m fuzz.forgetful` takes the options of `djinn serve`."""

from __future__ import annotations

import sys

from djinn.server.server_main import main
from fuzz.house import LOW

if __name__ == "__main__":
    for module, name, value in LOW:
        setattr(module, name, value)
    sys.exit(main())
