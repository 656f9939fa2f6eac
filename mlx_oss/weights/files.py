"""Weight files that stay open, so that removing or replacing a file does not affect a model that is running."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.files import open_descriptor

READERS = 4  # threads: an SSD needs several concurrent reads to be busy, and several cores copy cached data faster
_MAX_READ = 1 << 30  # bytes per system call: macOS refuses more than 2 GiB


class OpenFile:
    """A file that is open for reading as long as this object exists. Any number of threads may read from it.

    Raises:
        CheckpointError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self.path = path
        try:
            # On macOS, F_NOCACHE would keep the data out of the system's file cache. It is not set, so
            # the file cache can use spare memory as a second-level cache for experts that have lost their slot.
            self._descriptor = open_descriptor(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened ({error.strerror}): download or convert it again") from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def expect(self, start: int, nbytes: int) -> None:
        """Advises the system that these bytes will be read soon. Does nothing where this is not supported (macOS)."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, start, nbytes, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, into: memoryview) -> None:
        """Fills `into` with the bytes of the file from `start` on.

        Raises:
            CheckpointError: If the file cannot be read, or ends too early.
        """
        done = 0
        while done < len(into):
            try:
                count = _pread(self._descriptor, into[done : done + _MAX_READ], start + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be read ({error.strerror}) at byte {start + done:,}: check the disk, then "
                    "load the model again"
                ) from None
            if count == 0:
                raise CheckpointError(
                    f"{self.path} is cut short: it has no data at byte {start + done:,} any more: download or "
                    "convert it again, then load the model again"
                )
            done += count


def _pread(descriptor: int, into: memoryview, start: int) -> int:
    """Reads from `start` on into `into` with one system call, and returns the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], start)
    data = os.pread(descriptor, len(into), start)  # macOS before 11 has no preadv
    into[: len(data)] = data
    return len(data)
