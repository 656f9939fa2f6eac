"""Makes the private folder of an interpreter in the temporary folder, and removes those that killed programs have left.

Knows nothing of what the folder is for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

from mlx_oss.errors import ToolError

_PREFIX = "mlx-oss-"  # of the names
_LEFT_OVER = 60  # seconds after which an empty one is removed, unless a process holds its lock


def private_folder() -> tuple[str, int]:
    """Makes a private folder. Returns it, and the file descriptor that holds a lock on it as long as it is used.

    Removes the empty folders of processes that were killed. Raises ToolError if no folder can be made.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # it is in use, not empty, or of somebody else
                lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(lock).st_uid == os.getuid() and time.time() - os.fstat(lock).st_mtime > _LEFT_OVER:
                        os.rmdir(left)
                finally:
                    os.close(lock)
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ToolError(f"no folder can be made in the temporary folder ({error.strerror or error})") from None
    with contextlib.suppress(OSError):  # a file system without locks: then nothing is removed, either
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock
