"""How many processes a program has and how much memory they use together, as the ps command says.

For systems without /proc.

The command runs beside the supervisor, which does not wait for it: a ps that hangs may not even end when it is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import time

from .usage import Usage

_END_SECONDS = 0.5


class UsageByPs:
    """Asks ps for the processes of a process group."""

    def __init__(self, command: str, group: int, seconds: float) -> None:
        """ps gets so many seconds to answer."""
        self._command, self._group, self._seconds = command, group, seconds
        self._ps: subprocess.Popen[bytes] | None = None
        self._listed, self._deadline = b"", 0.0

    def start(self) -> None:
        """Asks anew. Raises OSError if ps cannot be run."""
        self.stop()
        # An option for each column: after "=", ps may take the rest of an option for the title of the column.
        command = [self._command, "-A", "-o", "pgid=", "-o", "rss="]
        self._ps = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        os.set_blocking(self.descriptors[0], False)
        self._listed, self._deadline = b"", time.monotonic() + self._seconds

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors that become readable when the answer does."""
        return () if self._ps is None or self._ps.stdout is None else (self._ps.stdout.fileno(),)

    def answer(self) -> Usage | None:
        """The usage; None if ps has not answered so far.

        Raises:
            OSError: If it does not answer in time, or lists no process of the group.
        """
        try:
            while part := os.read(self.descriptors[0], 1 << 16):
                self._listed += part
        except BlockingIOError:
            if time.monotonic() < self._deadline:
                return None
            self.stop()
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self._command) from None
        self.stop()
        lines = [line.split() for line in self._listed.splitlines()]
        sizes = [words[1:2] for words in lines if words[:1] == [str(self._group).encode()]]
        if not sizes:
            raise OSError(errno.ESRCH, "the process was not listed", self._command)
        return Usage(len(sizes), sum(int(size[0]) * 1024 for size in sizes if size and size[0].isdigit()))

    def wait(self) -> Usage:
        """Asks, and waits for the answer. Raises OSError as `answer`."""
        self.start()
        while (usage := self.answer()) is None:
            select.select(self.descriptors, [], [], max(self._deadline - time.monotonic(), 0))
        return usage

    def stop(self) -> None:
        """Kills ps if it runs, and waits for its end only as long as that usually takes."""
        if self._ps is not None and self._ps.stdout is not None:
            self._ps.stdout.close()
            self._ps.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ps.wait(_END_SECONDS)
        self._ps = None
