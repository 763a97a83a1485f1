"""Typed errors. Every one says what happened and what to do; `code` is what travels on the wire."""

from __future__ import annotations


class DjinnError(Exception):
    """Base of every error that Djinn raises on purpose."""

    code = "error"


class BadRequest(DjinnError):
    """The request cannot be carried out as written; the session is unharmed."""

    code = "bad_request"


class IllegalMove(DjinnError):
    """The session is not in a state that allows this call; it is unharmed."""

    code = "illegal_move"


class NoSuchSession(DjinnError):
    """No session of that id is open here."""

    code = "no_such_session"


class NotFinite(DjinnError):
    """The model's logits overflowed, so no token can be chosen; the session stands idle behind that pass."""

    code = "not_finite"


class OutOfMemory(DjinnError):
    """No tier can hold what this one request needs; every other session is unharmed."""

    code = "out_of_memory"


class StorageError(DjinnError):
    """A file could not be written or read back; the session is where it was, and can be asked again."""

    code = "storage"


class StateRefused(DjinnError):
    """A session's durable file cannot be used: it is damaged, or of another model, dtype or weights. It is kept."""

    code = "state_refused"


class StateInUse(DjinnError):
    """Another server, which is named, has this state directory."""

    code = "state_in_use"


class Draining(DjinnError):
    """The server is shutting down: it takes no new request. Sessions go to its state directory, if it has one."""

    code = "draining"


class BudgetTooSmall(DjinnError):
    """The budget cannot hold the weights, the workspace and one session."""

    code = "budget_too_small"


class UnsupportedModel(DjinnError):
    """The model is unknown, or not one whose decoder layers can be stopped one by one."""

    code = "unsupported_model"


class WeightsUnavailable(DjinnError):
    """The weights could not be fetched, or are not the ones that were asked for."""

    code = "weights_unavailable"


class NoDevice(DjinnError):
    """The device that was asked for is not on this machine."""

    code = "no_device"


class NotInstalled(DjinnError):
    """A package that this call needs is not installed here."""

    code = "not_installed"


class ServerGone(DjinnError):
    """The server closed the connection, died, was started anew, or did not answer in time."""

    code = "server_gone"


class ClientMisused(DjinnError):
    """The client was closed, or it is another thread's or another process's: connect() one of your own."""

    code = "client_misused"


class NotAllowed(DjinnError):
    """The server's key is not the one that this client trusts, or this client's key is not one that the server lets in."""

    code = "not_allowed"


class LimitReached(DjinnError):
    """A limit of the server, whose option the message names, or of how many clients fit this process. Nothing was done."""

    code = "limit_reached"


class ReplyGone(DjinnError):
    """The request was dealt with, once, but its reply could not be kept so long: attach() says where the session stands."""

    code = "reply_gone"


class ProtocolError(DjinnError):
    """A frame that is not of the protocol; nothing was done with it."""

    code = "protocol"


class ServerFault(DjinnError):
    """A defect in the server: the message names it, the server's log has the traceback."""

    code = "server_fault"


BY_CODE: dict[str, type[DjinnError]] = {cls.code: cls for cls in (DjinnError, *DjinnError.__subclasses__())}
