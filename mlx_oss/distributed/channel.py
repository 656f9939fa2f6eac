"""The connections over which the first machine tells the others what to compute next, and all notice who is gone.

A message is a line of JSON. The machines also send a sign of life each second, because a machine that sleeps or has
lost its network says nothing. Knows nothing of models.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SILENCE = 6.0  # seconds without a sign of life after which a machine counts as gone
PULSE = 1.0  # seconds between two of them
GOODBYE = 2.0  # seconds that the other machine gets to close the connection too
LONGEST = 64 << 20  # bytes of a message
ALIVE = b"\n"


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
        self._pending = b""
        stream.settimeout(SILENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = threading.Thread(target=self._read, name="mlx-oss machines", daemon=True)

    def start(self, pending: bytes = b"") -> None:
        """Begins to read, and to give signs of life.

        Args:
            pending: What has been read of a message that is not complete.
        """
        self._pending = pending
        self._reader.start()
        threading.Thread(target=self._beat, name="mlx-oss pulse", daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends a message. A connection that is lost is told to `lost`."""
        self._send(line_of(message))

    def finish(self) -> None:
        """Says that nothing more is sent. From now on, it is not told if the connection is lost."""
        self._is_closed = True
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)

    def close(self, end: float) -> None:
        """Ends the connection, after `finish`: when the other machine has read what was sent, and ended it too.

        Args:
            end: When to end it anyway, by `time.monotonic`.
        """
        if self._reader.ident is None:  # never started
            drain(self._stream, end)
        elif self._reader is not threading.current_thread():
            self._reader.join(max(0.0, end - time.monotonic()))
        self._stream.close()

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._stream.sendall(data)
        except OSError as error:
            self._end(lost_by(error, self.name))

    def _beat(self) -> None:
        while not self._is_closed:
            time.sleep(PULSE)
            self._send(ALIVE)

    def _read(self) -> None:
        pending = self._pending
        while True:
            try:
                piece = self._stream.recv(1 << 16)
            except TimeoutError:
                self._end(f"{self.name} has been silent for {SILENCE:g} s")
                return
            except OSError as error:
                self._end(lost_by(error, self.name))
                return
            if not piece:
                self._end(f"{self.name} has ended")
                return
            *lines, pending = (pending + piece).split(b"\n")
            if len(pending) > LONGEST:
                self._end(f"{self.name} sent a message of more than {LONGEST >> 20} MiB")
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


def line_of(message: Any) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def lost_by(error: OSError, name: str) -> str:
    """Why a machine is gone, after an error of its connection."""
    if error.errno in (errno.ECONNRESET, errno.EPIPE):  # it ended before it had read all
        return f"{name} has ended"
    return f"{name} cannot be reached ({error.strerror or error})"


def drain(stream: socket.socket, end: float) -> None:
    """Reads what nobody needs, until the other machine ends the connection: closing before could lose what was sent."""
    with suppress(OSError):
        while (left := end - time.monotonic()) > 0:
            stream.settimeout(left)
            if not stream.recv(1 << 16):
                return


def end_process(reason: str, say: Callable[[str], None], status: int = 1) -> None:
    """Ends the process at once, whatever its other threads wait for: a machine that is gone never answers."""
    with suppress(Exception):
        say(reason)
    os._exit(status)
