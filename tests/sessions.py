"""What tests of sessions share."""

from __future__ import annotations

import time

import numpy as np

import djinn

NEW = 6  # tokens of a session that nothing disturbs


def small_server() -> djinn.LocalServer:
    """A real server process: tiny-llama (8 layers), an arena of about six sessions of 128 tokens."""
    return djinn.serve(
        "tiny-llama", dtype="float32", threads=1, device_budget="40MB", host_budget="60MB", max_tokens=256
    )


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


def edited_alone(client: djinn.Client, prompt: list[int], layer: int, edit: object, new: int) -> djinn.Out:
    session = client.open()
    session.prefill(prompt, break_at=layer)
    out = session.resume(edit=edit, max_new_tokens=new)
    session.close()
    return out


def same(tokens: list[int], out: djinn.Out, undisturbed: djinn.Out) -> bool:
    return tokens == undisturbed.tokens.tolist() and np.array_equal(out.logits, undisturbed.logits)


def check_nothing_is_left(client: djinn.Client) -> None:
    """No byte of any tier, once all sessions are closed and their last copies have ended."""
    left = client.stats()["bytes"]
    assert left["device_bytes"] == left["host_bytes"] == 0, left
    until = time.monotonic() + 60
    while left["arena_free_bytes"] != left["arena_bytes"] // 256 * 256:  # a copy under way still reads what was freed
        assert time.monotonic() < until, left
        time.sleep(0.01)
        left = client.stats()["bytes"]
