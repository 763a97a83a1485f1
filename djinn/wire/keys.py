"""Key files: who a server is, who may come to it, and what a client needs. Made with `djinn keys DIR [NAME ...]`.

    DIR/server.key_secret, DIR/server.key    the server's own
    DIR/clients/NAME.key                     public keys of those who may come; take one away and its holder is shut out
    DIR/NAME/                                to be given to NAME: client.key_secret and the server's public server.key

A file with a secret is for its owner alone (0600), and is refused when others can read it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq.auth

from djinn.errors import BadRequest

log = logging.getLogger(__name__)
CLIENTS = "clients"
HOW = "djinn keys {} makes them"


@dataclass(frozen=True)
class KeyPair:
    """CURVE keys in ZeroMQ's text form (Z85, 40 bytes each)."""

    public: bytes
    secret: bytes = field(repr=False)


def make_keys(folder: Path, names: Sequence[str]) -> list[Path]:
    """Make the server's keys in `folder` unless they are there, and one client's for each name; returns what to hand out.

    Raises BadRequest for a name that is taken or cannot be a file's, and where nothing can be written.
    """
    for at, name in enumerate(names):
        if name in names[:at]:
            raise BadRequest(f"{name!r} is given twice: each client has a name of its own")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) or name == CLIENTS:
            raise BadRequest(f"{name!r} cannot be a client's name: use letters, digits, - and _ (not {CLIENTS!r})")
        if (folder / CLIENTS / f"{name}.key").exists() or (folder / name).exists():
            raise BadRequest(f"{folder} has keys for {name!r} already: choose another name")
    try:
        _make_all(folder, names)
    except OSError as error:
        raise BadRequest(f"no keys can be made in {folder}: {error.filename}: {error.strerror}") from error
    return [folder / name for name in names]


def _make_all(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / CLIENTS).mkdir(mode=0o700, exist_ok=True)
    if not (folder / "server.key_secret").exists():
        _make("server", folder / "server.key", folder / "server.key_secret")
    for name in names:
        (folder / name).mkdir(mode=0o700)
        try:
            shutil.copyfile(folder / "server.key", folder / name / "server.key")
            _make("client", folder / CLIENTS / f"{name}.key", folder / name / "client.key_secret")
        except BaseException:  # no server.key there, or Ctrl-C: the name is not taken by half of what belongs to it
            shutil.rmtree(folder / name, ignore_errors=True)
            raise


def _make(what: str, public: Path, secret: Path) -> None:
    """Write both files. ZeroMQ makes them readable to all, so they are made where nobody else can look."""
    with tempfile.TemporaryDirectory(dir=public.parent) as closed:
        made_public, made_secret = zmq.auth.create_certificates(closed, what)
        Path(made_secret).chmod(0o600)
        Path(made_secret).rename(secret)
        Path(made_public).rename(public)


def server_keys(folder: Path) -> KeyPair:
    """The server's own. Raises BadRequest where they are missing, broken or open to others."""
    return _secret(folder / "server.key_secret", folder)


def client_keys(folder: Path) -> tuple[KeyPair, bytes]:
    """A client's own, and the public key of the server that it trusts. Raises BadRequest as above."""
    return _secret(folder / "client.key_secret", folder), _load(folder / "server.key", folder)[0]


def _secret(path: Path, folder: Path) -> KeyPair:
    public, secret = _load(path, folder)
    if secret is None:
        raise BadRequest(f"{path} holds no secret key: {HOW.format(folder)}")
    if path.stat().st_mode & 0o077:
        raise BadRequest(f"{path} is open to others, so it is no secret: chmod 600 {path}")
    return KeyPair(public, secret)


def _load(path: Path, folder: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror or error}): {HOW.format(folder)}") from error
    except ValueError as error:
        raise BadRequest(f"{path} is not a key file: {HOW.format(folder)}") from error


class Keyring:
    """The public keys in `folder`/clients, read again whenever a file was added, taken away or written anew. Fails closed."""

    def __init__(self, folder: Path) -> None:
        """Raises BadRequest where there is nobody who could come."""
        self.own = server_keys(folder)
        self._folder, self._changed_ns = folder / CLIENTS, 0
        self._files: dict[str, tuple[int, ...]] = {}  # by name: how they stood when they were read
        self._names: dict[bytes, str] = {}
        self.name_of(self.own.public)  # reads the folder
        if not self._names:
            raise BadRequest(f"{self._folder} holds no client's key: djinn keys {folder} NAME makes one")

    def name_of(self, public: bytes) -> str | None:
        """Whose key it is, or None: not to be let in. A message of one who is known costs a look at that one's file, and not at
        everybody's; a stranger's may stand in any."""
        try:
            changed = self._folder.stat().st_mtime_ns != self._changed_ns
            if changed or not self._stands(self._names.get(public)):
                self._look()
        except OSError as error:
            log.error("nobody is let in: %s cannot be read (%s)", self._folder, error.strerror)
            return None
        return self._names.get(public)

    def _stands(self, name: str | None) -> bool:
        """Whether the file is as it was read: the folder's time tells nothing of one that is written over in its place."""
        return name is not None and self._files.get(f"{name}.key") == _marks(self._folder / f"{name}.key")

    def _look(self) -> None:
        changed_ns = self._folder.stat().st_mtime_ns
        with os.scandir(self._folder) as entries:
            files = {entry.name: _marks(entry) for entry in entries if entry.name.endswith(".key")}
        if files != self._files:
            self._names = dict(filter(None, map(self._read, sorted(self._folder.glob("*.key")))))
        self._files, self._changed_ns = files, changed_ns

    @staticmethod
    def _read(path: Path) -> tuple[bytes, str] | None:
        try:
            return _load(path, path.parent.parent)[0], path.stem
        except BadRequest as error:
            log.error("left out: %s", error)
            return None


def _marks(file: Path | os.DirEntry) -> tuple[int, ...]:
    """Other ones as soon as the file is another."""
    try:
        found = file.stat()
    except OSError:  # gone meanwhile, or a link to nothing
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
