"""Files with JSON in each line: read line by line, and added to in such a way that a killed program loses no line.

Knows nothing of what the lines mean.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from mlx_oss import json_text
from mlx_oss.errors import MlxOssError
from mlx_oss.files import TEXT_BYTES, UnsuitableFile, can_exist, check_regular, expanded, lock, open_regular

LINE_BYTES = TEXT_BYTES


def read_lines(
    path: str | Path, error: type[MlxOssError], remedy: str, longest: int = LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Yields the lines with text, and their numbers, from 1 on.

    Args:
        path: The file.
        error: What is raised if it cannot be read.
        remedy: What to give instead, as the end of a message.
        longest: Bytes that a line may have.
    """
    try:
        with open_regular(expanded(path)) as file:
            yield from _lines_of(file, path, error, longest)
    except (OSError, ValueError) as problem:  # ValueError: an impossible path
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path} cannot be read ({reason}): {remedy}") from None


def decoded(line: bytes, where: str, error: type[MlxOssError]) -> Any:
    """The value of a line. Raises `error` if it is not JSON."""
    try:
        return json_text.loads(line.decode())
    except UnicodeDecodeError:
        raise error(f"{where} is not text in UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not JSON ({problem}): give one JSON object in each line") from None


def _lines_of(file: BinaryIO, path: str | Path, error: type[MlxOssError], longest: int) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise error(f"{path}, line {number} has more than {longest:,} bytes: shorten it or take it out")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # which some editors write before UTF-8
        if line.strip():
            yield number, line


class GrowingFile:
    """A file that gets a line at a time, and is continued if it is there. Only one process can have it open.

    Args:
        path: The file.
        error: What is raised if something is wrong with it.

    Raises:
        MlxOssError: An `error`, if it cannot be written or is used by another process.
    """

    def __init__(self, path: str | Path, error: type[MlxOssError]) -> None:
        self._path, self._error, self._size = path, error, 0
        try:
            self._file = _opened(expanded(path))
        except BlockingIOError:
            raise error(f"{path} is used by another process: wait until it has ended, or kill it") from None
        except (OSError, ValueError) as problem:
            raise self._unwritable(problem) from None

    def lines(self, *beginnings: bytes, longest: int = LINE_BYTES) -> Iterator[tuple[int, bytes]]:
        """Yields the lines that are there, with their numbers, and takes away one that was half written at the end.

        To be read to its end, before the first `write`.

        Args:
            *beginnings: How lines begin that this program writes. Nothing else is taken away.
            longest: Bytes that a line may have.
        """
        size, reader = 0, BufferedReader(self._file)
        try:
            for number, line in _lines_of(reader, self._path, self._error, longest):
                is_ours = any(line.startswith(each) or each.startswith(line) for each in beginnings)
                if is_ours and not line.endswith(b"\n") and not _is_json(line):
                    break
                yield number, line
                size = reader.tell()
        except OSError as problem:
            raise self._unwritable(problem) from None
        finally:
            reader.detach()  # else it closes the file when it is let go
        try:
            self._file.truncate(size)
            self._file.seek(size)
            if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":  # an editor has saved the file without it
                self._write(b"\n")
                size += 1
        except OSError as problem:
            raise self._unwritable(problem) from None
        self._size = size

    def write(self, value: Any) -> None:
        """Adds a line; it is in the file when this returns. If it cannot be written, the file is as it was before."""
        line = json.dumps(value).encode() + b"\n"
        try:
            self._write(line)
        except OSError as problem:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise self._unwritable(problem) from None
        self._size += len(line)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _unwritable(self, problem: Exception) -> MlxOssError:
        reason = getattr(problem, "strerror", None) or problem
        remedy = "give another path"
        if isinstance(problem, FileNotFoundError) and not expanded(self._path).parent.exists():
            reason, remedy = "its folder is not there", "make the folder first"
        elif isinstance(problem, UnsuitableFile):
            remedy = "give a file"
        elif isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some space, and give the same command again"
        return self._error(f"{self._path} cannot be written ({reason}): {remedy}")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _opened(path: Path) -> FileIO:
    """The file, for reading and writing, locked. Raises BlockingIOError if another process has it."""
    if not can_exist(path):
        raise ValueError("no file can be called so")
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.stat(path))  # opening a device can already do something
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    try:
        check_regular(path, os.fstat(descriptor))
        lock(descriptor)
        return FileIO(descriptor, "r+")
    except BaseException:
        os.close(descriptor)
        raise
