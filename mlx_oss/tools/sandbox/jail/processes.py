"""Finds, stops and kills the processes of the program: all descendants of this process.

Where there is no /proc, descendants are not known, and only the program's process group can be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

_STOPPED, _ENDED = "Tt", "ZX"  # states


class Process(NamedTuple):
    """A process in /proc: its parent, and its state as a letter."""

    parent: int
    state: str


class Program:
    """The program and what it has started.

    Attributes:
        pid: Its process id, which is also that of its process group.
    """

    def __init__(self, pid: int, known: bool) -> None:
        """`known` is whether /proc shows its descendants."""
        self.pid, self._known = pid, known

    def change(self) -> int | None:
        """The wait status if it has ended, stopped or been continued since the last time; otherwise None.

        On Linux, stopping cancels the message that it was continued before. Elsewhere that is not known, so whether it
        was continued is not asked.
        """
        continued = os.WCONTINUED if self._known else 0
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | continued)
        return status if pid else None

    def descendants(self) -> dict[int, Process]:
        """All of them, the program too, by their process ids. In a PID namespace these are all other processes."""
        found: dict[int, Process] = {}
        for name in filter(str.isdigit, os.listdir("/proc")) if self._known else ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(name)] = _process(int(name))
        pids: set[int] = set()
        new = {os.getpid()}
        while new:
            new = {pid for pid, process in found.items() if process.parent in new} - pids
            pids |= new
        return {pid: found[pid] for pid in pids}

    def reap_orphans(self) -> None:
        """Collects the exit status of orphaned processes, but not that of the program."""
        for pid, process in self.descendants().items():
            if pid != self.pid and process.parent == os.getpid():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[dict[int, Process]]:
        """Stops all of them, and lets those go on that ran before."""
        own: set[int] = set()
        try:
            while True:
                found = self.descendants()
                new = {pid for pid, process in found.items() if process.state not in _STOPPED + _ENDED} - own
                if not new:
                    break
                own |= new
                self._stop(new)
            yield found
        finally:
            for pid in own:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)

    def kill_all_others(self) -> bool:
        """Kills all but the program, and stops that, in case one of them has continued it.

        Returns False if this does not succeed within 5 seconds.
        """
        deadline = time.monotonic() + 5
        while others := {pid for pid, each in self.descendants().items() if each.state not in _ENDED} - {self.pid}:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        self.reap_orphans()
        if self._state() != "T":
            return self._stop({self.pid})
        change = self.change()
        return change is None or not has_ended(change)

    def kill_all(self) -> None:
        """Kills the process group and all descendants until none is left, for at most 5 seconds."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for kill, pid in [(os.killpg, self.pid), *((os.kill, pid) for pid in self.descendants())]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)

    def _state(self) -> str:
        return self.descendants().get(self.pid, Process(0, "Z")).state

    def _stop(self, pids: set[int]) -> bool:
        """Stops processes and waits until they have stopped, at most a second. Returns whether they have."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 1
        while any(each.state not in _STOPPED + _ENDED for pid, each in self.descendants().items() if pid in pids):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        if self.pid in pids and self._state() == "T":
            self.change()  # this stop is not the end of a call
        return True


def has_ended(status: int) -> bool:
    """Whether a wait status is that of a process that has ended."""
    return not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status)


def live_thread(pid: int) -> int:
    """The last thread of a process: the first may have ended, and /proc shows the process like an ended one then."""
    try:
        return max(map(int, os.listdir(f"/proc/{pid}/task")))
    except (OSError, ValueError):
        return pid


def _process(pid: int) -> Process:
    """Raises OSError, ValueError or IndexError if it has ended."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    state, parent, threads = fields[0], int(fields[1]), int(fields[17])
    if state == "Z" and threads > 1:  # only the first thread has ended
        with open(f"/proc/{pid}/task/{live_thread(pid)}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
    return Process(parent, state)
