"""Opens and reads files that may come from somebody else: their kind and size are looked at before they are read.

A path may lead to a named pipe, which would wait for ever, to a device such as /dev/zero, which never ends, or to a
sparse file of terabytes. Each is refused with an `OSError` whose `strerror` says why, so that whoever handles that of a
missing file handles these too, in its own words. Knows nothing of what the files contain.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from mlx_oss.errors import OptionError, quoted

# Bytes that are read at most. Each is many times what a real file has, and what Python makes of so much JSON still fits
# into the memory of a small machine.
CONFIG_BYTES = 1 << 20  # the releases' configs have 2 kB
INDEX_BYTES = 4 << 20  # the releases' indexes have 100 kB
HEADER_BYTES = 8 << 20  # of a safetensors file; the releases' have 30 kB
MANIFEST_BYTES = 8 << 20
COMPANION_BYTES = 48 << 20  # the releases' tokenizer.json has 28 MB
TEXT_BYTES = 16 << 20  # a question, a conversation, a list of ids
SESSION_BYTES = 16 << 20  # the text of a saved session

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_OWN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


class UnsuitableFile(OSError):
    """A file is of another kind than a regular file, or is larger than what it should contain can be."""

    def __init__(self, reason: str, path: str | Path) -> None:
        super().__init__(errno.EINVAL, reason, str(path))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replaces `~` by the home folder. `~user` of an unknown user is an ordinary file name, as in a shell.

    Raises OptionError for what is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"the path is {quoted(path)}, expected a text or a pathlib.Path")
    with contextlib.suppress(ValueError):  # no file has this name, so whatever opens it says that it is not there
        path = os.path.expanduser(path)
    return Path(path)


def can_exist(path: str | os.PathLike[str]) -> bool:
    """False for what no file can be called: a text with a NUL character, or that cannot be encoded."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def open_descriptor(path: str | Path) -> int:
    """Opens a regular file for reading, without ever waiting. Returns the file descriptor.

    Raises:
        OSError: If it cannot be opened; an `UnsuitableFile` if it is of another kind, or a link that leads nowhere.
    """
    try:
        check_regular(path, os.stat(path))  # opening a device can already do something
    except FileNotFoundError:
        if os.path.islink(path):
            raise UnsuitableFile(f"it is a link to {quoted(os.readlink(path))}, which is not there", path) from None
        raise
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        check_regular(path, os.fstat(descriptor))  # what was opened may not be what was there a moment ago
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file for reading. Raises OSError as `open_descriptor`; reading does if it would have to wait."""
    return BufferedReader(_NeverWaiting(open_descriptor(path)))


class _NeverWaiting(FileIO):
    """Raises BlockingIOError where reading would have to wait: some files of /proc call themselves regular."""

    def readinto(self, buffer: Any) -> int:
        count: int | None = super().readinto(buffer)
        if count is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return count


def check_regular(path: str | Path, status: os.stat_result) -> None:
    """Raises UnsuitableFile if a file is not a regular one."""
    if not stat.S_ISREG(status.st_mode):
        raise UnsuitableFile(f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file')}, not a file", path)


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        limit: Bytes that it may have.

    Raises:
        OSError: If it cannot be read; an `UnsuitableFile` if it is of another kind or larger.
    """
    with open_regular(path) as file:
        return read_up_to(file, limit, path)


def read_input(path: str | Path, limit: int) -> bytes:
    """Like `read_bytes`, but also reads a stream that was handed to this process, such as bash's `<(command)`."""
    if not str(path).startswith(_OWN_STREAMS):
        return read_bytes(path, limit)
    with open(path, "rb", buffering=0) as file:
        return read_up_to(file, limit, path)


def read_up_to(file: BinaryIO, limit: int, path: str | Path) -> bytes:
    """All that is left in an open file. Raises UnsuitableFile if that is more than `limit` bytes."""
    pieces, left = [], limit + 1
    while left and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise UnsuitableFile(f"it has more than {limit:,} bytes, more than such a file can need", path)
    return b"".join(pieces)


def lock(descriptor: int) -> None:
    """Locks an open file for this process, until it is closed; does nothing on a file system without locks.

    Raises:
        BlockingIOError: If another process has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def identity(path: str | Path) -> tuple[int, int, int, int]:
    """Device, inode, size and time of the last change (ns): if all are the same, the file was not changed."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
