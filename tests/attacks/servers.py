"""Servers on 127.0.0.1 that answer as an attacker's would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answering = Callable[[socket.socket, bytes], None]  # given the connection, and the request as far as it has come


class Server:
    """Answers every connection with one function, each on a thread.

    Attributes:
        port: Its port on 127.0.0.1.
        asked: The requests.
        begun: Set when the first request has come.
        left: Set when a client has closed its connection, or shut it down.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.asked: list[bytes] = []
        self.begun, self.left = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = connection.recv(65536)
            self.asked.append(request)
            self.begun.set()
            try:
                self._answering(connection, request)
            finally:
                connection.settimeout(30)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                self.left.set()


@contextlib.contextmanager
def serving(answering: Answering | bytes) -> Iterator[Server]:
    """A server that answers with a function, or always with the same bytes."""
    if isinstance(answering, bytes):
        content = answering
        server = Server(lambda connection, _: connection.sendall(content))
    else:
        server = Server(answering)
    try:
        yield server
    finally:
        server.close()


def response(body: bytes = b"", kind: str = "text/plain", status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP response, after which the connection is closed."""
    fields = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n".encode() + body
