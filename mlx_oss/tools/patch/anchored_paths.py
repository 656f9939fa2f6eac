"""Places of files below a folder that no symbolic link can move: every folder on the way is opened once, following no
link, and what is done in it is done in that one, whatever has been put where it was. Knows nothing of patches.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class AnchoredFolder:
    """`of` gives the place of a path. A context; places are good as long as it is open."""

    def __init__(self, root: Path) -> None:
        self._open: dict[tuple[str, ...], int] = {(): os.open(root, _FOLDER)}  # by the way there

    def __enter__(self) -> AnchoredFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._open.values():
            os.close(folder)

    def of(self, path: str, undo: contextlib.ExitStack) -> AnchoredPath:
        """Makes the folders on the way that are not there. Raises OSError, for a link on the way too."""
        *folders, name = PurePosixPath(path).parts
        for depth in range(len(folders)):
            above, way = self._open[tuple(folders[:depth])], tuple(folders[: depth + 1])
            if way not in self._open:
                self._open[way] = _entered(above, folders[depth], undo)
        return AnchoredPath(self._open[tuple(folders)], name)


class AnchoredPath:
    """A name in a folder that is open."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder, self._name = folder, name

    def beside(self) -> AnchoredPath:
        """A name in the same folder that nothing has."""
        return AnchoredPath(self._folder, f".{self._name[:100]}.{secrets.token_hex(8)}.patch")

    @property
    def mode(self) -> int | None:
        """Permissions of what is there; None if nothing is."""
        try:
            return stat.S_IMODE(os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return None

    def read(self) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for
        with open(os.open(self._name, flags, dir_fd=self._folder), "rb") as file:
            return file.read()

    def write(self, content: bytes, mode: int | None) -> None:
        """A new file; `mode`: its permissions, None for the usual ones."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(self._name, flags, 0o666, dir_fd=self._folder), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)

    def rename(self, to: AnchoredPath) -> None:
        os.rename(self._name, to._name, src_dir_fd=self._folder, dst_dir_fd=to._folder)

    def unlink(self) -> None:
        """Does nothing where there is nothing."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)


def _entered(above: int, name: str, undo: contextlib.ExitStack) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, _FOLDER, dir_fd=above)
    os.mkdir(name, dir_fd=above)
    undo.callback(os.rmdir, name, dir_fd=above)
    return os.open(name, _FOLDER, dir_fd=above)
