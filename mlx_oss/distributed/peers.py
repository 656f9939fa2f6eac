"""The other machines, as this one sees them: what they say, who is gone and why, and how all are told.

The first machine is connected to all others, and those to it. When it loses one, it tells the others why before it
ends. Does not import MLX.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from mlx_oss.distributed.channel import GOODBYE, Connection, end_process
from mlx_oss.distributed.places import Places
from mlx_oss.distributed.watch import Watch
from mlx_oss.errors import EngineError
from mlx_oss.terminal import one_line, say

_GRACE = 2.5  # seconds in which a computation that waits for a machine that is gone may fail by itself

_MOMENT = 1.0  # seconds in which what is about to end may do so by itself


class Peers:
    """The other machines.

    Args:
        places: Where the machines are.
        found: The connections, with the names of the hosts: of the first machine to all others, of those to it.

    Attributes:
        rank: The number of this machine.
        backend: MLX's way between the machines.
        names: What all machines are called, by number; a follower knows its own and the first.
        told: What each has said and is not yet handled. `["gone", reason]` if a machine is gone.
        reason: Why a machine is gone; "" while all are there.
        gone: Set when one is gone.
        is_led: Whether this machine has all that it needs to lead the others. Then they need not know its errors.
    """

    def __init__(self, places: Places, found: dict[int, tuple[socket.socket, str]]) -> None:
        self.rank, self.backend = places.rank, places.backend
        self.names = {places.rank: places.name(places.rank, socket.gethostname())}
        self.names |= {rank: places.name(rank, host) for rank, (_, host) in found.items()}
        self.told: dict[int, SimpleQueue[Any]] = {rank: SimpleQueue() for rank in found}
        self.reason, self.gone = "", threading.Event()
        self.is_led = False
        self._noted: list[Callable[[str], None]] = []
        self._lock = threading.Lock()
        self._is_over = False
        self.connections = {
            rank: Connection(stream, self.names[rank], partial(self._lost, rank), partial(self._received, rank))
            for rank, (stream, _) in found.items()
        }
        streams = {rank: stream for rank, (stream, _) in found.items()}
        self._watch: Watch | None = Watch(streams, self.names, self.rank, self._received, self.lose)

    def limit(self, seconds: float, word: str, text: str) -> None:
        """What has to happen within a time, as for `Watch.limit`, until `listen`."""
        if self._watch is not None:
            # The others wait a little longer, so that the first one can say which of them is late.
            self._watch.limit(seconds + min(self.rank, 1), word, text)

    def listen(self) -> None:
        """From now on this process reads what the others say; until then another one does."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            left = watch.end()
            for rank, connection in self.connections.items():
                connection.start(left.get(rank, b""))

    def send(self, *message: Any) -> None:
        """Sends a message to all that this machine is connected to."""
        for connection in self.connections.values():
            connection.send(message)

    def heard(self, rank: int, word: str, *kinds: type) -> Any:
        """Waits for a message. Returns what follows its first word.

        Args:
            rank: The machine that sends it.
            word: Its first word.
            kinds: The types of what follows.

        Raises:
            EngineError: If a machine is gone, or sends something else.
        """
        if self._is_over:
            raise EngineError(self.reason or "the machines have gone apart: start all of them again")
        message = self.told[rank].get()
        if message[0] == "gone":
            raise EngineError(message[1])
        if message == ["end"] and word != "end":
            raise EngineError(f"{self.names[rank]} has ended")
        if message[0] != word or [type(each) for each in message[1:]] != list(kinds):
            reason = f"{self.names[rank]} sent something that was not expected"
            self.end_all(reason)
            raise EngineError(reason)
        return message[1:]

    def when_gone(self, note: Callable[[str], None]) -> None:
        """Calls a function with the reason when a machine is gone, or at once if one is."""
        self._noted.append(note)
        if self.reason:
            note(self.reason)

    def lose(self, reason: str, source: int | None = None) -> None:
        """A machine is gone, or says why all have to end. The first machine tells the others.

        What this one computes fails by itself, or the process is ended.
        """
        with self._lock:
            if self._is_over or self.reason:
                return
            self.reason = reason
        self.gone.set()
        if self.rank == 0:
            for rank, connection in self.connections.items():
                if rank != source:
                    connection.send(["end", reason])
        for queue in self.told.values():
            queue.put(["gone", reason])
        for note in self._noted:
            note(reason)

        def end() -> None:
            time.sleep(_GRACE)
            if not self._is_over:
                end_process(reason, lambda text: say(one_line(f"error: {text}")))

        threading.Thread(target=end, name="mlx-oss end", daemon=True).start()

    def why_it_failed(self) -> str:
        """Why a machine is gone, if one is: MLX notices that first, fails, and does not say which one it is."""
        if not (self.is_led or self._is_over):
            self.gone.wait(_GRACE if self._watch is None else _MOMENT)
        return self.reason

    def fail(self, reason: str) -> None:
        """Tells the others that something failed on this machine, unless they know why all end."""
        if not self.is_led:
            self.end_all(f"{self.names[self.rank]} has stopped: {reason}")

    def end_all(self, reason: str) -> None:
        """Tells the others why all end, unless they know, and ends the connections."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        if not self.reason:
            self.send("end", reason)
        self._close(_MOMENT if self.reason else GOODBYE)

    def close(self, *message: Any) -> None:
        """Ends the connections, because all is done. From now on, no machine counts as gone.

        Args:
            message: What is sent before.
        """
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        if message:
            self.send(*message)
        self._close(GOODBYE)

    def _close(self, seconds: float) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()
        for connection in self.connections.values():
            connection.finish()
        end = time.monotonic() + seconds
        for connection in self.connections.values():
            connection.close(end)

    def _lost(self, rank: int, reason: str) -> None:
        self.lose(reason, rank)

    def _received(self, rank: int, message: Any) -> None:
        # "gone" is what this machine tells itself.
        if not (isinstance(message, list) and message and isinstance(message[0], str) and message[0] != "gone"):
            self.lose(f"{self.names[rank]} sent something that is no message", rank)
        elif message[0] == "end" and len(message) == 2:
            self.lose(str(message[1]), rank)
        else:
            self.told[rank].put(message)
