"""Djinn: LLM sessions that can be stopped inside the forward pass, looked into, edited, parked and resumed exactly.

The client side imports numpy and ZeroMQ alone; torch is needed only where a server runs.
"""

from djinn.client.client import Checkpoint, Client, Out, Pause, Session, connect
from djinn.edits import Ablate, Add, ProjectOut, Scale, Set
from djinn.launch import LocalServer, serve

__version__ = "0.1.0"
__all__ = [
    "Ablate",
    "Add",
    "Checkpoint",
    "Client",
    "LocalServer",
    "Out",
    "Pause",
    "ProjectOut",
    "Scale",
    "Session",
    "Set",
    "connect",
    "serve",
]
