"""A folder that the Python tool shares with its user: the code gets copies of its files, and what it writes comes back.

Only regular files directly in the folder go in, no links, no hidden ones. What comes back never replaces a file that
the code did not get from there, that has changed since, or that is read-only; it gets a free name then. Files appear
whole or not at all, and no link is followed on the way. Knows nothing of sandboxes.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.files import expanded
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder, AnchoredPath
from mlx_oss.tools.python_files import MOST_FILES

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_MOST_NUMBERS = 1000  # that are tried to find a free name


class SharedFolder:
    """Reads what goes in, and writes what comes out.

    Attributes:
        passed_over: Names of files that did not go in the last time, as they are too many, too large or not readable.
    """

    writable = True

    def __init__(self, folder: str | Path, most_bytes: int) -> None:
        """Raises OptionError if it is not a folder."""
        self.path = expanded(folder).resolve()
        if not os.path.isdir(self.path):
            raise OptionError(f"{self.path} is not a folder: create it, or give one that is there")
        self._most_bytes, self.passed_over = most_bytes, list[str]()
        self._known: dict[str, tuple[int, ...]] = {}  # files that the code has, or has written, as they were then
        self._passed: set[str] = set()  # names that this interpreter has
        self._names: dict[str, str] = {}  # by name in the sandbox: the name here

    def read(self, anew: bool) -> dict[str, bytes]:
        """See `python_files.Source`."""
        if anew:
            self._passed.clear()
        found: dict[str, bytes] = {}
        self.passed_over = []
        room = self._most_bytes
        try:
            with AnchoredFolder(self.path) as folder:
                for name in sorted(folder.names()):
                    file = folder.resolve(name)
                    status = file.status
                    if name.startswith(".") or status is None or not stat.S_ISREG(status.st_mode):
                        continue
                    if name in self._passed and self._known.get(name) == _identity(status):
                        room -= status.st_size
                        continue
                    try:
                        if len(found) >= MOST_FILES or status.st_size > room:
                            raise OSError
                        found[name] = file.read(room)
                    except OSError:
                        self.passed_over.append(name)
                        continue
                    room -= len(found[name])
                    self._known[name] = _identity(status)
                    self._passed.add(name)
        except OSError as error:
            raise ToolError(f"the folder {self.path} cannot be read: {error.strerror}") from None
        return found

    def save(self, name: str, content: bytes) -> str:
        """Writes a file.

        Args:
            name: Its harmless name.
            content: Its content.

        Returns:
            The name under which it is there, or "" if it could not be written.
        """
        try:
            with AnchoredFolder(self.path) as folder:
                part = folder.resolve(name, create=True).sibling(f".mlx-oss-{secrets.token_hex(8)}.part")
                try:
                    part.write(content, None)
                    return self._put(folder, part, name)
                finally:
                    part.unlink()
        except OSError:
            return ""

    def _put(self, folder: AnchoredFolder, part: AnchoredPath, name: str) -> str:
        """Gives a file that is complete its name, or that of the file it replaces, or a free one."""
        for candidate in _candidates(self._names.get(name, name)):
            target, known = folder.resolve(candidate), self._known.get(candidate)
            status = target.status
            if status is None:
                try:
                    part.rename_new(target)
                except FileExistsError:
                    continue
            elif not _may_be_replaced(status, known) or not self._replaced(part, target, _identity(status)):
                continue
            status = target.status
            if status is not None:
                self._known[candidate] = _identity(status)
            self._passed.add(candidate)
            self._names[name] = candidate
            return candidate
        return ""

    def _replaced(self, part: AnchoredPath, target: AnchoredPath, known: tuple[int, ...]) -> bool:
        """Puts a file in the place of the one that is known, if that is still there."""
        if not part.exchange(target):
            return False
        status = part.status
        if status is not None and _identity(status) == known:
            _keep_mode(target, status.st_mode)
            return True
        part.exchange(target)  # another program has just written there
        return False


def _may_be_replaced(status: os.stat_result, known: tuple[int, ...] | None) -> bool:
    return bool(status.st_mode & _WRITABLE) and known == _identity(status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _keep_mode(file: AnchoredPath, mode: int) -> None:
    descriptor = file.open()
    try:
        os.fchmod(descriptor, stat.S_IMODE(mode))
    finally:
        os.close(descriptor)


def _candidates(name: str) -> Iterator[str]:
    yield name
    path = PurePosixPath(name)
    for number in range(1, _MOST_NUMBERS):
        yield str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
