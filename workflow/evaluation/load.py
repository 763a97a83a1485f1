"""A busy server, as MEASURES defines *loaded*: a prefill always in flight and eight sessions decoding, by a client of its own."""

from __future__ import annotations

import threading
from typing import Any

import djinn

DECODING = 8


class Load:
    """Keeps the server of `endpoint` busy for the time of a `with`. prompts: of the sessions that decode, DECODING of them."""

    NEW_TOKENS = 32  # of one request to decode; then the session starts again from its prompt

    def __init__(self, endpoint: str, prompts: list[list[int]]) -> None:
        self.endpoint, self.prompts = endpoint, prompts[:DECODING]
        self.prefills = self.tokens = 0
        self._error: Exception | None = None
        self._busy, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._busy.wait()
        self.done()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def done(self) -> dict[str, int]:
        """prefills, tokens: what the server has done for this load so far. Raises what ended the load early: what was
        measured without it is not what was asked for."""
        if self._error:
            raise self._error
        return {"prefills": self.prefills, "tokens": self.tokens}

    def _run(self) -> None:
        try:
            with djinn.connect(self.endpoint) as client:
                self._keep_busy(client)
        except Exception as error:  # noqa: BLE001  raised again by done(), in the thread that measures
            self._error = error
        finally:
            self._busy.set()

    def _keep_busy(self, client: djinn.Client) -> None:
        starts = []
        for prompt in self.prompts:
            session = client.open()
            kept, _ = session.prefill(prompt, checkpoint_at=[client.server.depth])
            starts.append(kept[client.server.depth])
        asked: dict[Any, Any] = {self._decode(start): start for start in starts}
        prefills = [self._prefill(client, self.prompts[0]) for _ in range(2)]  # one runs, one is there when it ends
        asked |= {pending: None for pending, _ in prefills}
        opened = dict(prefills)
        self._busy.set()
        while not self._over.is_set():
            pending = next(djinn.as_completed(asked))
            start = asked.pop(pending)
            out = pending.result()
            if start is not None:
                self.tokens += len(out.tokens)
                asked[self._decode(start)] = start
                continue
            self.prefills += 1
            opened.pop(pending).close()
            again, session = self._prefill(client, self.prompts[0])
            asked[again], opened[again] = None, session
        for pending in asked:
            pending.result()
        for session in [*opened.values(), *(start.session for start in starts)]:
            session.close()

    def _decode(self, start: djinn.Checkpoint) -> Any:
        return start.session.resume(start, max_new_tokens=self.NEW_TOKENS, logits="none", wait=False)

    def _prefill(self, client: djinn.Client, prompt: list[int]) -> tuple[Any, djinn.Session]:
        session = client.open()
        return session.prefill(prompt, logits="none", wait=False), session
