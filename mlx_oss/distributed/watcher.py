"""The process that watches the other machines while another one cannot, because MLX holds its interpreter.

    python -m mlx_oss.distributed.watcher SPEC

It reads the connections, gives signs of life, and hands on what the others say: a line of JSON each, to stdout. When
one of them is gone, or something takes longer than its parent has allowed, it says so here and, on the first machine,
to the others, and ends its parent. It ends when its stdin does, and hands on what it has read of incomplete messages.

Knows nothing of what the messages mean, but for `end`, which ends all. Does not import MLX.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mlx_oss.distributed.channel import ALIVE, PULSE, SILENCE, drain, line_of, lost_by
from mlx_oss.terminal import one_line, say

_MOMENT = 0.5  # seconds that the parent gets to end, and the others to read why
_LONGEST = 1 << 20  # bytes of a message at this time


@dataclass
class _Other:
    """Another machine."""

    rank: int
    name: str
    stream: socket.socket
    pending: bytes = b""
    heard: float = field(default_factory=time.monotonic)
    words: set[str] = field(default_factory=set)  # the first word of each message


class _Watcher:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._parent, self._rank, self._name = spec["parent"], spec["rank"], spec["name"]
        self._others = [_Other(rank, name, socket.socket(fileno=number)) for rank, number, name in spec["others"]]
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        for other in self._others:
            self._selector.register(other.stream, selectors.EVENT_READ, other)
        self._orders = b""
        self._end, self._word, self._text = float("inf"), "", ""

    def watch(self) -> None:
        """Watches until the parent has had enough, or has to end."""
        pulse = time.monotonic()
        while True:
            ready = [key.data for key, _ in self._selector.select(PULSE / 4)]
            if None in ready and not self._obey():
                return
            for other in filter(None, ready):
                if reason := self._hear(other):
                    self._end_all(reason, other)
                    return
            now = time.monotonic()
            if now >= pulse + PULSE:
                pulse = now
                for other in self._others:
                    self._send(other, ALIVE)
            silent = [other for other in self._others if now > other.heard + SILENCE]
            if silent:
                self._end_all(f"{silent[0].name} has been silent for {SILENCE:g} s", silent[0])
                return
            if now > self._end:
                late = [other.name for other in self._others if self._word not in other.words]
                self._end_all(f"{', '.join(late) or self._name} {self._text}", None)
                return

    def _obey(self) -> bool:
        """Reads what the parent says; false if that is over."""
        data = os.read(0, 1 << 16)
        if not data:
            left = {other.rank: base64.b64encode(other.pending).decode() for other in self._others}
            self._hand_on({"left": left})
            return False
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            seconds, self._word, self._text = json.loads(line)
            self._end = time.monotonic() + seconds
        return True

    def _hear(self, other: _Other) -> str:
        """Reads what another machine says. Returns why it is gone, if it is."""
        try:
            data = other.stream.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ""
        except OSError as error:
            return lost_by(error, other.name)
        if not data:
            return f"{other.name} has ended"
        other.heard = time.monotonic()
        *lines, other.pending = (other.pending + data).split(b"\n")
        if len(other.pending) > _LONGEST:
            return f"{other.name} sent a message of more than {_LONGEST >> 20} MiB"
        for line in filter(None, lines):
            try:
                message = json.loads(line)
                word = str(message[0])
                if word == "end":
                    return str(message[1]) if len(message) > 1 else f"{other.name} has ended"
            except (ValueError, RecursionError, LookupError, TypeError):
                return f"{other.name} sent something that is no message"
            other.words.add(word)
            self._hand_on({"from": other.rank, "message": message})
        return ""

    def _send(self, other: _Other, data: bytes) -> None:
        with suppress(OSError):  # reading tells that it is gone
            other.stream.send(data, socket.MSG_DONTWAIT)

    def _hand_on(self, line: dict[str, Any]) -> None:
        with suppress(OSError):  # the parent has ended, and stdin says so
            os.write(1, json.dumps(line).encode() + b"\n")

    def _end_all(self, reason: str, source: _Other | None) -> None:
        if os.getppid() != self._parent:
            return  # it has ended itself
        with suppress(Exception):
            say(one_line(f"error: {reason}"))
        for other in self._others:
            if other is not source and self._rank == 0:
                self._send(other, line_of(["end", reason]))
        # SIGHUP is set to end the parent with the status 1, also while it holds its interpreter.
        for number in (signal.SIGHUP, signal.SIGKILL):
            with suppress(OSError):
                os.kill(self._parent, number)
            end = time.monotonic() + _MOMENT
            while os.getppid() == self._parent and time.monotonic() < end:
                time.sleep(0.01)
        for other in self._others:
            with suppress(OSError):
                other.stream.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _MOMENT
        for other in self._others:
            drain(other.stream, end)


def main() -> None:
    """Watches what the arguments name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Ctrl-C means is left to the parent, which ends this
    watcher = _Watcher(json.loads(sys.argv[1]))
    watcher.watch()


if __name__ == "__main__":
    main()
