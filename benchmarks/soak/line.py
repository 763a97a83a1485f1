"""A line between a client and a server that can be deafened and cut; tests use it too."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class Line:
    """Forwards what comes to `endpoint`. `deaf`: what the server says is lost. `closed`: nobody is put through."""

    def __init__(self, server: Callable[[], str]) -> None:
        """server: the address that the next connection is put through to; where nobody listens there, it is hung up on."""
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self.deaf = self.closed = False
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            host, _, port = self._server().removeprefix("tcp://").rpartition(":")
            try:
                server = None if self.closed else socket.create_connection((host, int(port)))
            except OSError:  # it is gone, or not there yet
                server = None
            if server is None:
                client.close()
                continue
            self.connections += 1
            self._open += [client, server]
            for source, sink, back in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, sink, back), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if not (back and self.deaf):
                    sink.sendall(data)
        except OSError:  # cut
            pass
        for end in (source, sink):  # who hung up is hung up on at the other end too
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:  # it was over
                continue

    def cut(self) -> None:
        """Break every connection; the next is put through whole."""
        self.deaf = False
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:  # it was over
                continue
        self._open = []

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
