"""Paths of files inside a folder that symbolic links cannot redirect.

Every folder on the way to a file is opened once, without following links. Operations then use the open folder, so they
stay in it even if it is replaced by another folder or a link. Knows nothing of patches.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path, PurePosixPath

from mlx_oss.tools.patch.renames import exchange, rename_new

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a named pipe must not wait for a writer


class AnchoredFolder:
    """Resolves paths below a folder to anchored paths. A context manager: they can be used until it exits."""

    def __init__(self, root: Path) -> None:
        self._open: dict[tuple[str, ...], int] = {(): os.open(root, _FOLDER)}  # file descriptors by path below the root

    def __enter__(self) -> AnchoredFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._open.values():
            os.close(folder)

    def resolve(self, path: str, create: bool = False) -> AnchoredPath:
        """Returns the anchored path. If `create` is set, creates the folders on the way that are missing.

        Raises OSError, also if a folder on the way is a link.
        """
        *folders, name = PurePosixPath(path).parts
        for depth in range(len(folders)):
            parent, folder = self._open[tuple(folders[:depth])], tuple(folders[: depth + 1])
            if folder not in self._open:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folders[depth], dir_fd=parent)
                self._open[folder] = os.open(folders[depth], _FOLDER, dir_fd=parent)
        return AnchoredPath(self._open[tuple(folders)], name)

    def missing_folders(self, path: str) -> list[str]:
        """The folders on the way to a file that do not exist, from the top down."""
        parents = [str(parent) for parent in PurePosixPath(path).parents][-2::-1]  # without "."
        for number, folder in enumerate(parents):
            try:
                self.resolve(f"{folder}/x")
            except FileNotFoundError:
                return parents[number:]
        return []

    def names(self) -> list[str]:
        """The names of everything in the folder itself."""
        return os.listdir(self._open[()])


class AnchoredPath:
    """The name of a file, which need not exist, in an open folder."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder, self._name = folder, name

    def sibling(self, name: str) -> AnchoredPath:
        """Another path in the same folder."""
        return AnchoredPath(self._folder, name)

    @property
    def status(self) -> os.stat_result | None:
        """What the system knows of the file; None if it does not exist."""
        try:
            return os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int = 0) -> int:
        """Returns a file descriptor. Raises OSError if this is a link."""
        return os.open(self._name, _FILE | flags, 0o600, dir_fd=self._folder)

    def read(self, most: int) -> bytes:
        """Returns the content. Raises OSError, also if this is no file or has more than `most` bytes."""
        opened = self.open()
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EISDIR, "it is no file", self._name)
            if status.st_size > most:
                raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB", self._name)
            with open(opened, "rb", closefd=False) as file:
                return file.read(most)
        finally:
            os.close(opened)

    def write(self, content: bytes, mode: int | None) -> None:
        """Creates the file, which must not exist. `mode` sets its permissions; None leaves the default ones."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._name, flags, 0o666, dir_fd=self._folder), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)

    def rename_new(self, to: AnchoredPath) -> None:
        """Renames the file. Raises FileExistsError if there is anything by the new name."""
        rename_new(self._folder, self._name, to._folder, to._name)

    def exchange(self, other: AnchoredPath) -> bool:
        """Exchanges two files in one step. Returns False, and does nothing, where the file system cannot do that."""
        return exchange(self._folder, self._name, other._folder, other._name)

    def unlink(self) -> None:
        """Deletes the file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)

    def rmdir(self) -> None:
        """Deletes the folder, if it exists and is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._folder)
