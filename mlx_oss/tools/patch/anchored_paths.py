"""Paths of files inside a folder that symbolic links cannot redirect.

Every folder on the way to a file is opened once, without following links. Operations then use the open folder, so they
stay in it even if it is replaced by another folder or a link. Knows nothing of patches.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class AnchoredFolder:
    """Resolves paths below a folder to anchored paths. A context manager: they can be used until it exits."""

    def __init__(self, root: Path) -> None:
        self._open: dict[tuple[str, ...], int] = {(): os.open(root, _FOLDER)}  # file descriptors by path below the root

    def __enter__(self) -> AnchoredFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._open.values():
            os.close(folder)

    def resolve(self, path: str, undo: contextlib.ExitStack) -> AnchoredPath:
        """Returns the anchored path. Creates missing folders on the way, and adds their removal to `undo`.

        Raises OSError, also if a folder on the way is a link.
        """
        *folders, name = PurePosixPath(path).parts
        for depth in range(len(folders)):
            parent, folder = self._open[tuple(folders[:depth])], tuple(folders[: depth + 1])
            if folder not in self._open:
                self._open[folder] = _open_or_create(parent, folders[depth], undo)
        return AnchoredPath(self._open[tuple(folders)], name)


class AnchoredPath:
    """The name of a file, which need not exist, in an open folder."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder, self._name = folder, name

    def temporary_sibling(self) -> AnchoredPath:
        """A path in the same folder with an unused random name."""
        return AnchoredPath(self._folder, f".{self._name[:100]}.{secrets.token_hex(8)}.patch")

    @property
    def mode(self) -> int | None:
        """The permissions of the file; None if it does not exist."""
        try:
            return stat.S_IMODE(os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return None

    def read(self) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a named pipe must not wait for a writer
        with open(os.open(self._name, flags, dir_fd=self._folder), "rb") as file:
            return file.read()

    def write(self, content: bytes, mode: int | None) -> None:
        """Creates the file, which must not exist. `mode` sets its permissions; None leaves the default ones."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(self._name, flags, 0o666, dir_fd=self._folder), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)

    def rename(self, to: AnchoredPath) -> None:
        os.rename(self._name, to._name, src_dir_fd=self._folder, dst_dir_fd=to._folder)

    def unlink(self) -> None:
        """Deletes the file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)


def _open_or_create(parent: int, name: str, undo: contextlib.ExitStack) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, _FOLDER, dir_fd=parent)
    os.mkdir(name, dir_fd=parent)
    undo.callback(os.rmdir, name, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)
