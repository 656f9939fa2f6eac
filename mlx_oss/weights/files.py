"""Files of weights that stay open, so that one which is removed or replaced while a model runs does no harm."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.errors import CheckpointError

READERS = 4  # threads: an SSD needs a few reads at a time to be busy, and what is in the system's cache is copied
_AT_MOST = 1 << 30  # bytes a read: macOS refuses more than 2 GiB


class OpenFile:
    """A file that is open for reading as long as someone holds this; any number of threads may read."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self.path = path
        try:
            # On a Mac F_NOCACHE would keep the bytes out of the system's file cache. It is not set: what memory the
            # system has to spare serves as a second level for experts that have lost their slot.
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened ({error.strerror}): fetch or convert it again") from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def expect(self, start: int, nbytes: int) -> None:
        """Has the system read those bytes ahead, where it can be told to."""
        if hasattr(os, "posix_fadvise"):  # not on a Mac
            os.posix_fadvise(self._descriptor, start, nbytes, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `start` on. Raises CheckpointError if they cannot be had."""
        done = 0
        while done < len(into):
            try:
                count = _pread(self._descriptor, into[done : done + _AT_MOST], start + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be read ({error.strerror}) at byte {start + done:,}: check the disk, then "
                    "load the model again"
                ) from None
            if count == 0:
                raise CheckpointError(
                    f"{self.path} is cut short: there is nothing at byte {start + done:,} any more: fetch or convert "
                    "it again, then load the model again"
                )
            done += count


def _pread(descriptor: int, into: memoryview, start: int) -> int:
    """Reads from `start` on, as much as comes at once; gives the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], start)
    data = os.pread(descriptor, len(into), start)  # before macOS 11
    into[: len(data)] = data
    return len(data)
