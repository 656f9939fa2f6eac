"""Renames that never replace a file, and exchanges of two files, each in one step where the file system can do it.

Linux has renameat2 for this, macOS renameatx_np (not tried on a Mac so far). Elsewhere a file gets a second name
by a hard link, which fails if that name is taken, and loses the first one. Where there are no hard links either, it
replaces an empty file that is created for it and must not have existed. Knows nothing of patches.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable

Rename = Callable[[int, bytes, int, bytes, int], int]

_NO_REPLACE, _EXCHANGE = (4, 2) if sys.platform == "darwin" else (1, 2)
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.EACCES, *_UNSUPPORTED}


def rename_new(folder: int, name: str, to_folder: int, to_name: str) -> None:
    """Renames a file. Raises FileExistsError if there is anything by the new name.

    Args:
        folder: File descriptor of the folder that holds the file.
        name: Its name.
        to_folder: File descriptor of the folder that shall hold it.
        to_name: Its new name.
    """
    if _system_rename(folder, name, to_folder, to_name, _NO_REPLACE):
        return
    try:
        os.link(name, to_name, src_dir_fd=folder, dst_dir_fd=to_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(to_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=to_folder))
        os.rename(name, to_name, src_dir_fd=folder, dst_dir_fd=to_folder)
    else:
        os.unlink(name, dir_fd=folder)


def exchange(folder: int, name: str, to_folder: int, to_name: str) -> bool:
    """Exchanges two files in one step. Returns False, and does nothing, where that is not possible."""
    return _system_rename(folder, name, to_folder, to_name, _EXCHANGE)


def _system_rename(folder: int, name: str, to_folder: int, to_name: str, flags: int) -> bool:
    """Returns False if the system or the file system does not know these flags. Raises OSError for other failures."""
    rename = _function()
    if rename is None:
        return False
    if rename(folder, os.fsencode(name), to_folder, os.fsencode(to_name), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), name)


@functools.cache
def _function() -> Rename | None:
    try:
        library = ctypes.CDLL(None, use_errno=True)
        function = library.renameatx_np if sys.platform == "darwin" else library.renameat2
    except (OSError, AttributeError):  # an old C library
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    rename: Rename = function
    return rename
