"""The trace of a research: a file to which a line of JSON is added for everything that happens, as it happens.

A line is whole once its line break is there; what a killed process has left after the last one is dropped. One process
at a time writes a trace. Knows nothing of what the lines mean.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_oss import json_text
from mlx_oss.errors import ResearchError
from mlx_oss.files import read_bytes

NAME = "trace.jsonl"
_MOST_BYTES = 1 << 30

Line = Mapping[str, Any]


class Trace:
    """The trace of a research that is running.

    Args:
        folder: The folder of the research; it is made if it is not there.

    Attributes:
        lines: The lines that it has had before.

    Raises:
        ResearchError: If the folder cannot be used, or another process is writing the trace.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / NAME, threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab")  # noqa: SIM115 - it stays open
        except (OSError, ValueError) as error:
            raise ResearchError(f"{self._path} cannot be written ({_reason(error)}): name another folder") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.lines, length = _read(self._path)
            self._file.truncate(length)
        except OSError as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise ResearchError(f"another program works in {folder}: wait for it, or name another folder") from None
            raise ResearchError(f"{self._path} cannot be used ({_reason(error)}): name another folder") from None
        except BaseException:
            self._file.close()
            raise

    def write(self, line: Line) -> None:
        """Adds a line; it is in the file when this returns. Can be called from any thread."""
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        with self._lock:
            try:
                self._file.write(text.encode(errors="replace") + b"\n")
                self._file.flush()
            except OSError as error:
                raise ResearchError(f"{self._path} cannot be written ({_reason(error)}): make room for it") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(folder: Path) -> list[Line]:
    """The whole lines of the trace in a folder. Raises ResearchError if it cannot be read, or has a line of no JSON."""
    path = folder / NAME
    try:
        return _read(path)[0]
    except OSError as error:
        raise ResearchError(f"{path} cannot be read ({_reason(error)}): name the folder of a research") from None


def write_whole(path: Path, text: str) -> None:
    """Replaces a file as a whole. Raises ResearchError if it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        raise ResearchError(f"{path} cannot be written ({_reason(error)}): name another folder") from None


def _read(path: Path) -> tuple[list[Line], int]:
    """The lines, and how many bytes they have."""
    data = read_bytes(path, _MOST_BYTES)
    length = data.rfind(b"\n") + 1
    lines: list[Line] = []
    for number, written in enumerate(data[:length].split(b"\n")[:-1], start=1):
        try:
            line = json_text.loads(written.decode())
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise ResearchError(f"{path}, line {number}, is no line of a trace: begin anew in another folder")
        lines.append(line)
    return lines, length


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
