"""Supervises the program: says when a call has ended, and kills everything when it has to end.

The program stops itself with SIGSTOP when it is ready for a call, and when a call has ended. The supervisor, its
parent, then says so on a socket that the program does not have, and continues it when the next call begins. On Linux,
if anything else continues it, it is killed: between calls nothing of it runs. In namespaces, what it started is killed
when a call ends.

Unless a cgroup holds the memory, the supervisor reads what is used, more often the closer it comes to the limit. It
does so while something can run, and once when a call ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from . import linux
from .cgroup import Cgroup
from .config import CGROUP, DONE, TOO_MANY_PROCESSES, TOO_MUCH_MEMORY, UNWATCHED, WATCHED, Config
from .processes import Program, has_ended
from .ps import UsageByPs
from .usage import Usage, UsageInProc

_SHORTEST_INTERVAL = 0.002  # seconds between two checks when little room is left
_BYTES_PER_SECOND = 2e9  # that one core may take from the system


def supervise(config: Config, pid: int, group: Cgroup | None, work: int, in_memory: list[str] | None) -> NoReturn:
    """Waits until the program ends or has to be killed, then exits with the status.

    Args:
        config: How the program runs.
        pid: Its process id.
        group: The cgroup that holds its memory, if there is one.
        work: Descriptor of its working directory, which the starting process gets.
        in_memory: In namespaces, the folders in memory that it can write; otherwise None.
    """
    os.close(config["requests"])
    if sys.platform == "linux":
        linux.prctl(linux.DUMPABLE, 0)  # otherwise the program could open this process's files in /proc as its user
    woken, wake = os.pipe()  # a signal that a child has stopped or ended makes `woken` readable
    for descriptor in (woken, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which process 1 of a namespace does not even notice
    if not config["namespaces"]:  # process 1 of a namespace gets no signals from inside that it does not handle
        signal.signal(signal.SIGTERM, _end)
    status, program = 0, Program(pid, known=not config["ps"])
    usage = (
        UsageByPs(config["ps"], pid, config["ps_seconds"])
        if config["ps"]
        else UsageInProc(program, config["memory_bytes"], group, in_memory)
    )
    try:
        status = Supervisor(config, program, usage, work, CGROUP if group else WATCHED).run(woken)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        usage.stop()
        if group and group.has_killed():
            status = TOO_MUCH_MEMORY
        if not config["namespaces"]:
            program.kill_all()
            if group:
                group.remove(seconds=2)
        os._exit(status)  # in a PID namespace this is process 1, so the kernel kills all others with it


def _end(*_: object) -> NoReturn:
    """Handles SIGTERM. A second one must not interrupt the killing of the program."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


class Supervisor:
    """Watches the program until it has ended or has to end."""

    def __init__(
        self, config: Config, program: Program, usage: UsageByPs | UsageInProc, work: int, ready: bytes
    ) -> None:
        """`ready` is the line to say when the program stops for the first time."""
        self._config, self._program, self._usage = config, program, usage
        self._status, self._work, self._line = socket.socket(fileno=config["status"]), work, ready
        self._running = True  # whether a call runs, or the start
        self._ending = False  # whether the program has stopped, and what it uses has to be counted once more
        self._counting, self._began, self._next = False, 0.0, 0.0

    def run(self, woken: int) -> int:
        """Returns the status to exit with. `woken` becomes readable when a child has stopped or ended."""
        while not self._starter_is_gone():
            ready = self._wait(woken)
            self._program.reap_orphans()
            change = self._program.change()
            if change is not None:
                if has_ended(change):
                    return os.waitstatus_to_exitcode(change) % 256
                if not self._running:  # something other than a call has continued it
                    return 0
                if os.WIFSTOPPED(change):
                    if self._config["namespaces"] and not self._program.kill_all_others():
                        return 0
                    self._ending, self._counting = True, False
            if status := self._check():
                change = self._program.change()  # if ps did not list the program, it may just have ended
                ended = change is not None and has_ended(change)
                return os.waitstatus_to_exitcode(change) % 256 if change is not None and ended else status
            if self._config["calls"] in ready:
                if not os.read(self._config["calls"], 100):  # the other end is closed
                    return 0
                self._running, self._next = (
                    True,
                    time.monotonic() + (self._config["interval"] if self._config["ps"] else 0),
                )
                os.kill(self._program.pid, signal.SIGCONT)
        return 0

    def _wait(self, woken: int) -> set[int]:
        """Waits until there is something to do. Returns the descriptors that are readable."""
        events = select.poll()
        for descriptor in (self._config["calls"], woken, *(self._usage.descriptors if self._counting else ())):
            events.register(descriptor, select.POLLIN)
        if self._counting:  # ps may be late
            pause: float | None = self._config["interval"]
        elif self._is_watched():
            pause = max(self._next - time.monotonic(), 0)
        else:  # without namespaces, look whether the starting process is gone
            pause = None if self._config["namespaces"] else self._config["interval"]
        ready = {descriptor for descriptor, _ in events.poll(None if pause is None else pause * 1000)}
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        return ready

    def _is_watched(self) -> bool:
        """Whether anything can run now, as far as this can be known without starting ps for it."""
        return self._running or not (self._config["ps"] or self._config["namespaces"])

    def _check(self) -> int:
        """Counts what is used, if it is time, and returns the exit status for the limit that is exceeded, or 0.

        If a call has ended within the limits, says so.
        """
        try:
            if not self._counting and (self._ending or (self._is_watched() and time.monotonic() >= self._next)):
                self._counting, self._began = True, time.monotonic()
                self._usage.start()
            usage = self._usage.answer() if self._counting else None
        except OSError:
            return UNWATCHED
        if usage is None:
            return 0
        self._counting = False
        if status := self._excess(usage):
            return status
        self._next = time.monotonic() + self._interval(usage)
        if self._ending:
            self._ending = self._running = False
            self._say()
        return 0

    def _excess(self, usage: Usage) -> int:
        if usage.processes > self._config["processes"] + 1:
            return TOO_MANY_PROCESSES
        return TOO_MUCH_MEMORY if usage.memory > self._config["memory_bytes"] else 0

    def _interval(self, usage: Usage) -> float:
        """Seconds until the next check: no more than the program needs to take what is left."""
        room = self._config["memory_bytes"] - usage.memory
        took = time.monotonic() - self._began
        shortest = max(_SHORTEST_INTERVAL, took, room / (_BYTES_PER_SECOND * (os.cpu_count() or 1)))
        return min(self._config["interval"], shortest)

    def _say(self) -> None:
        """Tells the starting process that the program has stopped, and the first time passes the working directory."""
        if self._line == DONE:
            self._status.send(self._line)
        else:
            socket.send_fds(self._status, [self._line], [self._work])
            os.close(self._work)
            self._line = DONE

    def _starter_is_gone(self) -> bool:
        """Whether the starting process has ended, although another process may hold its end of a pipe open.

        Not used in namespaces: the parent's process id is not visible there.
        """
        return not self._config["namespaces"] and os.getppid() != self._config["starter"]
