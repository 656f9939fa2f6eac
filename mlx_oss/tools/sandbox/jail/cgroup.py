"""A memory cgroup: the kernel itself limits what the processes in it use together. Linux only.

It is made below this process's own cgroup or beside it, where that is permitted: for root, also in many containers, and
for users whose systemd has delegated the memory controller to them. Knows nothing of what runs in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple


class Cgroup(NamedTuple):
    """A cgroup with a limit of memory. The file descriptors can be used by other processes, and below another root.

    Attributes:
        name: The name of its folder.
        parent: Descriptor of the folder that holds it, to remove it with.
        entrance: Descriptor of the file that a process writes "0" to in order to enter.
        events: Descriptor of the file that says how many processes the kernel has killed at the limit.
    """

    name: str
    parent: int
    entrance: int
    events: int

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """All file descriptors."""
        return self.parent, self.entrance, self.events

    def enter(self) -> None:
        """Moves this process into it."""
        os.write(self.entrance, b"0")

    def can_be_entered(self) -> bool:
        """Tries it in a child process. Only for processes without threads."""
        child = os.fork()
        if child == 0:
            try:
                self.enter()
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0

    def has_killed(self) -> bool:
        """Whether the kernel has killed a process as there was no more memory."""
        words = os.pread(self.events, 4096, 0).split()
        return b"oom_kill" in words and words[words.index(b"oom_kill") + 1] != b"0"

    def remove(self, seconds: float = 0) -> None:
        """Removes the folder as soon as the kernel has let go of its processes, which are dead; waits at most so long.

        Does nothing if it is not there any more.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return os.rmdir(self.name, dir_fd=self.parent)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                    return
            time.sleep(0.005)

    def close(self) -> None:
        """Closes the file descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def make(memory_bytes: int) -> Cgroup | None:
    """Makes a cgroup that may use so much memory, swap included; None where that is not possible."""
    for folder, version in _folders():
        with contextlib.suppress(OSError, ValueError):
            return _make(folder, version, memory_bytes)
    return None


def _make(folder: str, version: int, memory_bytes: int) -> Cgroup:
    """Raises OSError or ValueError if it cannot be made here."""
    if version == 2:
        with open(f"{folder}/cgroup.subtree_control") as file:
            if "memory" not in file.read().split():
                raise ValueError("the memory controller is not passed on")
    name = f"mlx-oss-{os.getpid()}-{os.urandom(4).hex()}"
    own = f"{folder}/{name}"
    opened: list[int] = []
    os.mkdir(own)
    try:
        if version == 2:
            _write(f"{own}/memory.max", memory_bytes)
            _write_if_there(f"{own}/memory.swap.max", 0)
            _write_if_there(f"{own}/memory.oom.group", 1)
        else:
            _write(f"{own}/memory.limit_in_bytes", memory_bytes)
            _write_if_there(f"{own}/memory.swappiness", 0)
            _write_if_there(f"{own}/memory.memsw.limit_in_bytes", memory_bytes)
        events = f"{own}/{'memory.events' if version == 2 else 'memory.oom_control'}"
        for path, flags in ((folder, os.O_RDONLY), (f"{own}/cgroup.procs", os.O_WRONLY), (events, os.O_RDONLY)):
            opened.append(os.open(path, flags))
        if b"oom_kill " not in os.read(opened[2], 4096):
            raise ValueError("this kernel does not count what it kills")
        return Cgroup(name, *opened)
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        os.rmdir(own)
        raise


def _folders() -> Iterator[tuple[str, int]]:
    """Folders in which a cgroup may be possible, each with its version of cgroups."""
    try:
        with open("/proc/self/cgroup") as own, open("/proc/self/mountinfo") as mounted:
            lines, mounts = own.read().splitlines(), mounted.read().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            root, point = map(_unescaped, before.split()[3:5])
            kind, _, options = after.split()[:3]
            fits = kind == "cgroup2" if version == 2 else kind == "cgroup" and "memory" in options.split(",")
            inside = os.path.relpath(path, root) if fits and path.startswith("/") else ".."
            if inside.split("/")[0] != "..":
                folder = os.path.normpath(f"{point}/{inside}")
                yield folder, version
                if version == 2 and inside != ".":  # with processes in it, a cgroup passes no controller on
                    yield os.path.dirname(folder), version
                break


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def _write_if_there(path: str, value: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        _write(path, value)
