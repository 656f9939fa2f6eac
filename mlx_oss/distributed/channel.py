"""The connections over which the first machine tells the others what to compute next, and all notice who is gone.

A message is a line of JSON. The machines also send a sign of life each second, because a machine that sleeps or has
lost its network says nothing. Knows nothing of models.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlx_oss.errors import EngineError

SILENCE = 8.0  # seconds without a sign of life after which a machine counts as gone
_PULSE = 1.0  # seconds between two of them
_GOODBYE = 2.0  # seconds that the other machine gets to close the connection too
_MEETING = 60.0  # seconds in which all machines have to have connected
_LONGEST = 64 << 20  # bytes of a message
_ALIVE = b"\n"


class Connection:
    """A connection to another machine. A thread reads it; whatever ends it is told once.

    Args:
        stream: The socket.
        name: What the other machine is called in messages.
        lost: Called with a reason when the connection ends.
        received: Called with each message.
    """

    def __init__(
        self, stream: socket.socket, name: str, lost: Callable[[str], None], received: Callable[[Any], None]
    ) -> None:
        self.name = name
        self._stream, self._lost, self._received = stream, lost, received
        self._sending = threading.Lock()
        self._is_closed = False
        stream.settimeout(SILENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = threading.Thread(target=self._read, name="mlx-oss machines", daemon=True)

    def start(self) -> None:
        """Begins to read, and to give signs of life."""
        self._reader.start()
        threading.Thread(target=self._beat, name="mlx-oss pulse", daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends a message. A connection that is lost is told to `lost`."""
        self._send(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Ends the connection without telling that it is lost, when the other machine has read what was sent."""
        self._is_closed = True
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)
        if self._reader is not threading.current_thread():
            self._reader.join(_GOODBYE)
        self._stream.close()

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._stream.sendall(data)
        except OSError as error:
            self._end(f"{self.name} cannot be reached ({error.strerror or error})")

    def _beat(self) -> None:
        while not self._is_closed:
            time.sleep(_PULSE)
            self._send(_ALIVE)

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                piece = self._stream.recv(1 << 16)
            except TimeoutError:
                self._end(f"{self.name} has been silent for {SILENCE:g} s")
                return
            except OSError as error:
                self._end(f"{self.name} cannot be reached ({error.strerror or error})")
                return
            if not piece:
                self._end(f"{self.name} has ended")
                return
            *lines, pending = (pending + piece).split(b"\n")
            if len(pending) > _LONGEST:
                self._end(f"{self.name} sent a message of more than {_LONGEST >> 20} MiB")
                return
            try:
                for line in filter(None, lines):
                    self._received(json.loads(line))
            except (ValueError, RecursionError):
                self._end(f"{self.name} sent something that is no message")
                return

    def _end(self, reason: str) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._lost(reason)


def listen(address: str) -> tuple[socket.socket, int, str]:
    """Waits at an address of this machine for the others. Returns the socket, its port, and a word that they say."""
    server = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.settimeout(_MEETING)
    return server, server.getsockname()[1], secrets.token_hex(16)


def accept(server: socket.socket, word: str, size: int) -> dict[int, tuple[socket.socket, dict[str, Any]]]:
    """Takes the connections of all other machines: each with what it says of itself, by its number.

    Raises:
        EngineError: If one of them has not come within a minute.
    """
    found: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
    end = time.monotonic() + _MEETING
    while len(found) < size - 1:
        server.settimeout(max(0.1, end - time.monotonic()))
        try:
            stream, _ = server.accept()
            stream.settimeout(SILENCE)
            hello = json.loads(read_line(stream))
            good = hmac.compare_digest(str(hello["word"]), word) and 0 < hello["rank"] < size
            good = good and isinstance(hello["about"], dict) and isinstance(hello["host"], str)
        except TimeoutError:
            missing = ", ".join(str(n) for n in range(1, size) if n not in found)
            raise EngineError(
                f"machine {missing} has not connected within {_MEETING:g} s: `mlx-oss hosts check` says why"
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if good and hello["rank"] not in found:
            found[hello["rank"]] = stream, hello
    return found


def connect(address: str, port: int, hello: dict[str, Any]) -> socket.socket:
    """Connects to the first machine. Raises EngineError if that is not possible."""
    try:
        stream = socket.create_connection((address, port), timeout=_MEETING)
        stream.sendall(json.dumps(hello).encode() + b"\n")
    except OSError as error:
        raise EngineError(
            f"the first machine cannot be reached at {address}, port {port} ({error.strerror or error}): is a firewall "
            "between the machines?"
        ) from None
    return stream


def read_line(stream: socket.socket) -> bytes:
    """A line of at most 10,000 bytes, which may be cut off by the end of the connection."""
    data = b""
    while not data.endswith(b"\n") and len(data) < 10_000:
        if not (piece := stream.recv(1)):
            break
        data += piece
    return data


def end_process(reason: str, say: Callable[[str], None], status: int = 1) -> None:
    """Ends the process at once, whatever its other threads wait for: a machine that is gone never answers."""
    with suppress(Exception):
        say(reason)
    os._exit(status)
