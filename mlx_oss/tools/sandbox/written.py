"""Reads what code has written to its working directory, from outside of the sandbox.

The directory may hold anything: links to files of the user, pipes, a hundred thousand files, names that are no text.
Folders and files are opened one by one below a directory that is open, without following links, and only regular files
without a second name are read: macOS may let the code give a file that it cannot read a second name there. Knows
nothing of what the files are for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping

_MOST_ENTRIES, _MOST_FILES, _MOST_DEPTH = 10_000, 200, 8
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class WorkFolder:
    """A working directory that code writes to."""

    def __init__(self) -> None:
        self._folder: int | None = None
        self._seen: dict[str, tuple[int, ...]] = {}  # by path: what the system knew of the file when it was read

    def open(self, descriptor: int) -> None:
        """Takes the file descriptor of the directory. It can be read until `close`, also if everything else is gone."""
        self.close()
        os.set_inheritable(descriptor, False)
        self._folder = descriptor

    def close(self) -> None:
        """Closes the directory."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def new_files(self, came_in: Mapping[str, bytes], most_bytes: int) -> tuple[dict[str, bytes], list[str]]:
        """Reads the files that are new, or have changed since the last time.

        Files and folders whose name begins with a dot, and folders named `__pycache__`, are passed over.

        Args:
            came_in: SHA-256 digests of files that were put there, by name. Unchanged, they are not new.
            most_bytes: That are read in all.

        Returns:
            The contents by path, with / between folders, and the paths of files that were left out: those for which no
            room is left, that cannot be read, or that have a second name.
        """
        contents: dict[str, bytes] = {}
        left_out: list[str] = []
        for path, folder, status in self._entries():
            known = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            if self._seen.get(path) == known:
                continue
            self._seen[path] = known
            room = most_bytes - sum(map(len, contents.values()))
            content = _read(folder, os.path.basename(path), room) if len(contents) < _MOST_FILES else None
            if content is None:
                left_out.append(path)
            elif came_in.get(path) != hashlib.sha256(content).digest():
                contents[path] = content
        return contents, left_out

    def _entries(self) -> Iterator[tuple[str, int, os.stat_result]]:
        """The path of each regular file, the folder that holds it, open for the moment, and its status."""
        waiting, seen = [""], 0
        while waiting:
            path = waiting.pop(0)
            with contextlib.suppress(OSError), self._opened(path) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_ENTRIES:
                        return
                    if entry.name.startswith(".") or entry.name == "__pycache__":
                        continue
                    inner = f"{path}/{entry.name}".lstrip("/")
                    status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield inner, folder, status
                    elif stat.S_ISDIR(status.st_mode) and inner.count("/") < _MOST_DEPTH:
                        waiting.append(inner)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Opens a folder in the directory, one step after another. Raises OSError, also if a step is a link."""
        if self._folder is None:
            raise FileNotFoundError(path)
        at = os.open(".", _FOLDER, dir_fd=self._folder)
        try:
            for name in filter(None, path.split("/")):
                inner = os.open(name, _FOLDER, dir_fd=at)
                os.close(at)
                at = inner
            yield at
        finally:
            os.close(at)


def _read(folder: int, name: str, most: int) -> bytes | None:
    """The content of a regular file without a second name, if it has at most so many bytes; otherwise None."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > most:
            return None
        with contextlib.suppress(OSError):
            content = file.read(most + 1)  # it may still grow
            return content if len(content) <= most else None
    return None
