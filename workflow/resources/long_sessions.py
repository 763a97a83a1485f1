"""A user's script: many conversations about different texts, all kept open, each gone on with in turn.

    python long_sessions.py ENDPOINT NEW_TOKENS < prompts.json

It knows nothing of memory: no budget, no park, no copy to the host. What it prints are its results.
"""

import hashlib
import json
import sys

import djinn

endpoint, new_tokens = sys.argv[1], int(sys.argv[2])
with djinn.connect(endpoint) as client:
    middle = client.server.depth // 2
    sessions = []
    for prompt in json.load(sys.stdin):
        session = client.open()
        pause = session.prefill(prompt, break_at=middle)
        sessions.append((session, pause))
    for session, pause in sessions:
        seen = float(abs(pause.activation()).mean())
        out = session.resume(edit=djinn.Scale(0.9), max_new_tokens=new_tokens)
        print(f"{seen:.6f}", *out.tokens, hashlib.sha256(out.logits.tobytes()).hexdigest())
    for session, _ in sessions:
        again = session.generate(max_new_tokens=new_tokens)
        print(*again.tokens, hashlib.sha256(again.logits.tobytes()).hexdigest())
        session.close()
