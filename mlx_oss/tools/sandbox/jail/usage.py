"""How many processes a program has and how much memory they use together, read from /proc. Linux only."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from .cgroup import Cgroup
from .processes import Program, live_thread


class Usage(NamedTuple):
    """The number of processes, and the bytes of memory that they use together."""

    processes: int
    memory: int


class UsageInProc:
    """Counts it at once.

    Attributes:
        descriptors: File descriptors that become readable when the answer does: none.
    """

    descriptors: tuple[int, ...] = ()

    def __init__(self, program: Program, limit: int, group: Cgroup | None, in_memory: Sequence[str] | None) -> None:
        """
        Args:
            program: The program.
            limit: Bytes of memory that it may use. Up to that the memory is counted roughly.
            group: The cgroup that holds the memory. It is not counted then: more than the limit if a process was killed
                for it, otherwise 0.
            in_memory: In namespaces, the folders in memory: files count where they lie. None: where they are mapped.
        """
        self._program, self._limit, self._group, self._in_memory = program, limit, group, in_memory
        self._socket_bytes = buffer_of_a_socket()

    def start(self) -> None:
        """Begins to count anew."""

    def stop(self) -> None:
        """Ends counting."""

    def answer(self) -> Usage | None:
        """The usage."""
        processes = self._program.descendants()
        if self._group:
            return Usage(len(processes), self._limit + 1 if self._group.has_killed() else 0)
        mapped = self._in_memory is None
        used = self._in_kernel() + sum(memory_of(pid, mapped) for pid in processes)
        if used > self._limit:  # this sum counts shared pages more than once, so measure precisely
            with self._program.stopped() as processes:
                used = self._in_kernel() + sum(proportional_memory_of(pid, mapped) for pid in processes)
        return Usage(len(processes), used)

    def _in_kernel(self) -> int:
        """Bytes of the folders in memory, also in deleted files that are open, and what all sockets can hold."""
        if self._in_memory is None:
            return 0
        with open("/proc/self/net/sockstat") as file:  # the first line is "sockets: used N"
            used = int(file.readline().split()[2]) * self._socket_bytes
        for path in self._in_memory:
            status = os.statvfs(path)
            used += (status.f_blocks - status.f_bfree) * status.f_frsize
        return used


def buffer_of_a_socket() -> int:
    """Bytes that wait at most in a socket to be read. The filter lets no program enlarge its buffers."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def memory_of(pid: int, mapped: bool) -> int:
    """Bytes of a process's memory, in RAM or swapped out, that are not backed by a file on disk; 0 if it has ended.

    `mapped` is whether mapped files in memory count.
    """
    sizes = _sizes(f"/proc/{pid}/status") or _sizes(f"/proc/{pid}/task/{live_thread(pid)}/status")
    return sizes.get("RssAnon", 0) + sizes.get("VmSwap", 0) + mapped * sizes.get("RssShmem", 0)


def proportional_memory_of(pid: int, mapped: bool) -> int:
    """Like `memory_of`, but a page that n processes share counts as 1/n of a page. Slow.

    Where the kernel does not permit reading this, and if the first thread has ended, shared pages count in full.
    """
    try:
        sizes = _sizes(f"/proc/{pid}/smaps_rollup")
    except PermissionError:
        sizes = {}
    if not sizes:  # it has ended, or only its first thread
        return memory_of(pid, mapped)
    files = sizes.get("Pss_File", 0) + (0 if mapped else sizes.get("Pss_Shmem", 0))
    return sizes.get("Pss", 0) - files + sizes.get("SwapPss", 0)


def _sizes(path: str) -> dict[str, int]:
    """Reads the "name: number kB" lines of a file in /proc as bytes by name; empty if the process has ended.

    Raises PermissionError.
    """
    try:
        with open(path) as file:
            lines = [line.split() for line in file if line.endswith(" kB\n")]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in lines}
