"""What tests of sessions share."""

from __future__ import annotations

import time

import djinn


def wait_for(session: djinn.Session, state: str) -> None:
    for _ in range(500):
        if session.state == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"still {session.state}, expected {state}")


def alone(client: djinn.Client, prompt: list[int], new: int) -> djinn.Out:
    session = client.open()
    out = session.prefill(prompt, max_new_tokens=new)
    session.close()
    return out
