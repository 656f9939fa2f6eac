"""What the code may use, and what comes of it. Knows nothing of how it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ending = Literal["done", "time", "memory", "processes", "unwatched", "stopped", "died"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for the code that the Python tool runs.

    Attributes:
        seconds: Time for one call.
        memory_bytes: Memory of all processes together, in bytes; on Linux also the address space of each process, or
            three quarters of it where no cgroup holds the limit (see `PythonTool.guarantees`).
        processes: Number of processes.
        file_bytes: Size of one file, in bytes. With namespaces also the size of each folder that can be written: the
            working directory, /tmp and /dev/shm.
        output: How many bytes of a call's output are kept: half from the beginning, half from the end.
    """

    seconds: float = 120.0
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 256 << 20
    output: int = 20_000


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a call.

    Attributes:
        text: What the code printed; the middle is left out if it exceeds `Limits.output`.
        ending: "done" if the code ended, also with an exception, and the interpreter goes on. Otherwise why the
            interpreter has ended: "time", "memory" or "processes" for a limit that was exceeded, "unwatched" if
            its usage could not be read, "stopped" for `Sandbox.stop`, "died" if it exited.
    """

    text: str
    ending: Ending


class BoundedOutput:
    """Keeps the beginning and the end of the output, each up to half of the limit."""

    def __init__(self, limit: int) -> None:
        self._half, self._head, self._tail, self._size = limit // 2, bytearray(), bytearray(), 0

    def add(self, printed: bytes) -> None:
        self._size += len(printed)
        room = self._half - len(self._head)
        self._head += printed[:room]
        self._tail += printed[room:]
        del self._tail[: -self._half]

    def text(self) -> str:
        left_out = self._size - len(self._head) - len(self._tail)
        gap = f"\n[... {left_out:,} bytes left out ...]\n" if left_out else ""
        return self._head.decode("utf-8", "replace") + gap + self._tail.decode("utf-8", "replace")
