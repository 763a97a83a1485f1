"""Djinn, asked what the others are asked: a server of its own on the same budget, through its client."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import djinn
from djinn.sizes import UNIT_TOKENS
from evaluation.contenders.contender import FACTOR, Contender, Evidence, half_again
from evaluation.contenders.reference import Plain
from evaluation.parking import put_aside

# Scales the edited state of the capability probe: Djinn's kernels round otherwise than transformers', and on Llama-2-13B's shape
# in bf16 the logits of the two differ by nearly as much (0.35) as an edit by 0.9 changes them (0.47). Made larger, not smaller:
# by 0.25 they changed by 5.7, but what the layers above round then weighs four times as much (0.80).
PLAIN_TO_SEE = 4.0
ID = "session.txt"  # beside the state directory's own files: which session was left there

TOKEN = "one that comes back for its session"


class DjinnPeer(Contender):
    """Its server starts with the first question: `survive` has one of its own."""

    IN_TURN = ("exact", "stop", "park", "edit")  # `edit` ends the server, and `survive` starts another anyway

    server: djinn.LocalServer | None = None

    @property
    def client(self) -> djinn.Client:
        if self.server is None:
            self._start()
        return self._client

    def _start(self, state_dir: Path | None = None) -> None:
        """Its host pool is for the sessions of the job and half as much again: a few are asked one question, 50 have a workload."""
        job, model = self.job, self.job.model
        longest = max(map(len, job.prompts)) + job.new_tokens + 64
        self.server = djinn.serve(
            model["name"],
            weights=model["source"],
            **{key: model[key] for key in ("dtype", "seed", "path", "hub_id", "revision")},
            device=job.device,
            threads=job.threads,
            device_budget=job.given_out,
            host_budget=min(job.host_budget, half_again(job, len(job.prompts), UNIT_TOKENS, longest)),
            state_dir=None if state_dir is None else str(state_dir),
            max_tokens=longest,
            prefill_tokens=2 * max(map(len, job.prompts)),
        )
        self._client = djinn.connect(self.server.endpoint, token=TOKEN)

    def close(self) -> None:
        if self.server is not None:
            self._client.close()
            self.server.stop()
            self.server = None

    def versions(self) -> dict[str, str]:
        return {"djinn": djinn.__version__, **{name: version(name) for name in ("torch", "transformers")}}

    def workload(self, sessions: int) -> dict[str, Any]:
        """All are asked for at once by one client; each stands in the middle of its first new token's pass at the barrier."""
        opened = [self.client.open() for _ in range(sessions)]
        began = time.perf_counter()
        pauses = [
            session.prefill(prompt, break_at=self.job.layer, break_token=1, max_new_tokens=1, wait=False)
            for session, prompt in zip(opened, self.job.prompts, strict=False)
        ]
        first = [pause.result().tokens for pause in pauses]
        barrier = time.perf_counter()
        lives = self.client.stats()["bytes"]
        outs = [session.resume(max_new_tokens=self.job.new_tokens, wait=False) for session in opened]
        rest = [out.result().tokens for out in outs]
        ended = time.perf_counter()
        for session in opened:
            session.close()
        return {
            "seconds": ended - began,
            "tokens": [[*a.tolist(), *b.tolist()] for a, b in zip(first, rest, strict=True)],
            "paused": True,
            "parts": {"to the barrier": barrier - began, "from the barrier": ended - barrier},
            "off_device_bytes": lives["host_bytes"] + lives["disk_bytes"],
        }

    def continued(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """As the client sees it. offloaded: parked, its bytes on the host only; resident: still on the device."""
        times: dict[str, list[float]] = {"offloaded": [], "resident": []}
        for number in range(warmup + samples):
            session = self._one_token(number)
            for place in ("resident", "offloaded"):
                if place == "offloaded":
                    put_aside([session])
                began = time.perf_counter()
                session.resume(max_new_tokens=1)
                times[place].append(1000 * (time.perf_counter() - began))
            session.close()
        return {place: listed[warmup:] for place, listed in times.items()}

    def edited(self, warmup: int, samples: int) -> dict[str, list[float]]:
        """Each from the client's call to the logits at the client; own: stopped behind the layer, edited, gone on."""
        times: dict[str, list[float]] = {"plain": [], "own": []}
        for number in range(warmup + samples):
            prompt = self._prompt(number)
            for way in times:
                session = self.client.open()
                began = time.perf_counter()
                if way == "plain":
                    session.prefill(prompt)
                else:
                    session.prefill(prompt, break_at=self.job.layer)
                    session.resume(edit=djinn.Scale(FACTOR))
                times[way].append(1000 * (time.perf_counter() - began))
                session.close()
        return {way: listed[warmup:] for way, listed in times.items()}

    def stop(self) -> Evidence:
        whole = self._whole()
        session, layer, depth = self.client.open(), self.job.layer, self.client.server.depth
        session.prefill(self.job.prompts[0], break_at=layer)
        below = self._layers_run(session)
        other = self.client.open()
        other.prefill(self.job.prompts[1])
        between = self._layers_run(other)
        out = session.resume()
        after = self._layers_run(session)
        other.close()
        session.close()
        same = bool(np.array_equal(out.logits, whole))
        if (below, between, after) != (layer, depth, depth) or not same:
            return Evidence(
                "no", f"layers run: {below} to the stop, {between} of another prompt, {after} at the end; {same=}"
            )
        return Evidence(
            "yes",
            f"stopped after {layer} of {depth} layers, {between} layers of another prompt ran, then the other "
            f"{after - below}; logits bit-equal to the uninterrupted pass",
        )

    def edit(self) -> Evidence:
        prompt = self.job.prompts[0]
        session = self.client.open()
        checkpoints, out = session.prefill(prompt, checkpoint_at=[self.job.layer])
        ours = session.resume(checkpoints[self.job.layer], edit=djinn.Scale(PLAIN_TO_SEE)).logits
        self.close()  # its server has the whole budget: a card has no room for the plain model beside it
        with Plain(self.job) as plain:
            hooked, unedited, step = plain.scaled(prompt, PLAIN_TO_SEE), plain.logits(prompt), plain.step
        changed = float(np.abs(ours - out.logits).max())
        difference = float(np.abs(ours - hooked).max())
        # its kernels round otherwise than transformers': the edited passes may differ by that much on either side
        apart = float(np.abs(out.logits - unedited).max())
        allowed = max(step(hooked), 2 * apart)
        same = difference <= allowed < changed
        seen = (
            f"scaled by {PLAIN_TO_SEE:g}: max |Δlogit| {difference:.3g} to a forward hook ({allowed:.3g} allowed: {apart:.3g} lie "
            f"between both unedited), {changed:.3g} to the unedited pass"
        )
        return Evidence("yes" if same else "no", seen)

    def park(self) -> Evidence:
        session, layer, depth = self.client.open(), self.job.layer, self.client.server.depth
        session.prefill(self.job.prompts[0], break_at=layer)
        before = self.client.stats()["bytes"]["device_bytes"]
        put_aside([session])
        held = self.client.stats()["bytes"]["device_bytes"]
        session.resume()
        ran = self._layers_run(session)
        session.close()
        seen = f"{before} bytes on the device before, {held} while parked; {ran} of {depth} layers run in all"
        return Evidence("yes" if before > 0 and held == 0 and ran == depth else "no", seen)

    def exact(self) -> Evidence:
        prompt, new = self.job.prompts[0], self.job.new_tokens
        session = self.client.open()
        whole = session.prefill(prompt, max_new_tokens=1 + new)
        session.close()
        session = self.client.open()
        session.prefill(prompt, break_at=self.job.layer)
        put_aside([session])
        pause = session.resume(max_new_tokens=1, break_at=self.job.layer, break_token=1)
        put_aside([session])
        rest = session.resume(max_new_tokens=new)
        session.close()
        tokens = [*pause.tokens.tolist(), *rest.tokens.tolist()] == whole.tokens.tolist()
        logits = bool(np.array_equal(rest.logits, whole.logits))
        seen = f"parked in prefill and in decode: tokens {'equal' if tokens else 'differ'}, logits bit-equal: {logits}"
        return Evidence("yes" if tokens and logits else "no", seen)

    def leave(self, folder: Path) -> None:
        """Parked durably by a server with a state directory, in the place of the one that answered so far."""
        self.close()
        self._start(folder)
        session = self.client.open()
        session.prefill(self.job.prompts[0], break_at=self.job.layer)
        session.park(durable=True)
        (folder / ID).write_text(session.id)

    def come_back(self, folder: Path) -> Evidence:
        self.close()
        self._start(folder)
        session = self.client.attach((folder / ID).read_text())
        before = session.state
        logits = session.resume().logits
        ran, depth = self._layers_run(session), self.client.server.depth
        session.close()
        same = bool(np.array_equal(logits, self._whole()))
        seen = (
            f"parked durably after {self.job.layer} of {depth} layers; after kill -9 a new server has it on its {before}, runs "
            f"the other {ran}; logits bit-equal: {same}"
        )
        return Evidence("yes" if same and ran == depth - self.job.layer else "no", seen)

    def _prompt(self, number: int) -> list[int]:
        return self.job.prompts[number % len(self.job.prompts)]

    def _whole(self) -> np.ndarray:
        session = self.client.open()
        logits = session.prefill(self.job.prompts[0]).logits
        session.close()
        return logits

    def _one_token(self, number: int) -> djinn.Session:
        session = self.client.open()
        session.prefill(self._prompt(number), max_new_tokens=1)
        return session

    def _layers_run(self, session: djinn.Session) -> int:
        """Layers of its prefill that the server's timeline shows as run."""
        ran = 0
        for event in self.client.timeline()["traceEvents"]:
            if event["name"] == f"prefill {session.id[:8]}":
                first, last = event["args"]["layers"].split("..")
                ran += int(last) - int(first)
        return ran


SYSTEM = DjinnPeer
