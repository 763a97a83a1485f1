"""Djinn: LLM sessions that can be stopped inside the forward pass, looked into, edited, parked and resumed exactly.

The client side imports numpy and ZeroMQ alone; torch is needed only where a server runs. docs/api.md is the reference.
"""

from djinn.client.client import Client, connect
from djinn.client.pending import Pending, Stream, as_completed
from djinn.client.results import Checkpoint, Out, Pause
from djinn.client.session import Session
from djinn.edits import Ablate, Add, ProjectOut, Scale, Set
from djinn.launch import LocalServer, serve
from djinn.sampling import Sampling

__version__ = "0.1.0"
__all__ = [
    "Ablate",
    "Add",
    "Checkpoint",
    "Client",
    "LocalServer",
    "Out",
    "Pause",
    "Pending",
    "ProjectOut",
    "Sampling",
    "Scale",
    "Session",
    "Set",
    "Stream",
    "as_completed",
    "connect",
    "serve",
]
