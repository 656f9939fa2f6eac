"""Has the other machines watched by a process of its own, while MLX holds this one's interpreter.

Knows nothing of what the messages mean. Does not import MLX.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlx_oss.python_process import command_of


class Watch:
    """A process that watches the connections. If a machine is gone, it ends this process with the status 1.

    Args:
        streams: The connections, by the number of the machine.
        names: What the machines are called, by number.
        rank: The number of this machine.
        received: Called with the number of a machine and what it has said.
        lost: Called with a reason if the process ends before it should.
    """

    def __init__(
        self,
        streams: dict[int, socket.socket],
        names: dict[int, str],
        rank: int,
        received: Callable[[int, Any], None],
        lost: Callable[[str], None],
    ) -> None:
        self._received, self._lost = received, lost
        self._left: dict[int, bytes] | None = None
        self._is_over = False
        others = [[number, stream.fileno(), names[number]] for number, stream in streams.items()]
        spec = {"parent": os.getpid(), "rank": rank, "name": names[rank], "others": others}
        self._restore = _end_on_hangup()
        self._process = subprocess.Popen(
            command_of("mlx_oss.distributed.watcher", json.dumps(spec)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[stream.fileno() for stream in streams.values()],
        )
        self._reader = threading.Thread(target=self._read, name="mlx-oss watch", daemon=True)
        self._reader.start()

    def limit(self, seconds: float, word: str, text: str) -> None:
        """What has to happen within a time from now on.

        Args:
            seconds: The time.
            word: The first word of a message; who has sent one is not late.
            text: What is said of those who are late.
        """
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps([seconds, word, text]).encode() + b"\n")
            self._process.stdin.flush()

    def end(self) -> dict[int, bytes]:
        """Ends it. Returns what has been read of messages that are not complete, by the number of the machine."""
        self._is_over = True
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._reader.join()
        self._process.wait()
        self._restore()
        return self._left or {}

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                found = json.loads(line)
                if "left" in found:
                    self._left = {int(rank): base64.b64decode(data) for rank, data in found["left"].items()}
                else:
                    self._received(found["from"], found["message"])
        if not self._is_over:
            self._lost("the process that watches the other machines has ended")


def _end_on_hangup() -> Callable[[], None]:
    """Lets SIGHUP end this process with the status 1, also while no Python runs in it. Returns what undoes that.

    The system's `_exit` is the handler. It gets the number of the signal, which is 1.
    """
    system = ctypes.CDLL(None)
    set_handler = system.signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    before = set_handler(signal.SIGHUP, ctypes.cast(system._exit, ctypes.c_void_p))

    def restore() -> None:
        set_handler(signal.SIGHUP, before)

    return restore
