"""The trace of a research: a file to which a line of JSON is added for everything that happens, as it happens.

A line that a killed process has left half written is dropped. One process at a time writes a trace. Knows nothing of
what the lines mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_oss.errors import ResearchError
from mlx_oss.json_lines import GrowingFile, decoded, read_lines

NAME = "trace.jsonl"
_BEGINNING = b'{"event": '  # of the lines that are written here

Line = Mapping[str, Any]


def opened(folder: Path) -> tuple[GrowingFile, list[Line]]:
    """Opens the trace in a folder, for a research that begins or goes on; makes what is not there.

    Returns:
        The trace, and the lines that it has had before.

    Raises:
        ResearchError: If the folder cannot be used, another process is writing the trace, or a line is none.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ResearchError(f"{path} cannot be written ({_reason(error)}): name another folder") from None
    file = GrowingFile(path, ResearchError)
    try:
        return file, _lines(path, list(file.lines(_BEGINNING)))
    except BaseException:
        file.close()
        raise


def read(folder: Path) -> list[Line]:
    """The whole lines of the trace in a folder. Raises ResearchError if it cannot be read, or has a line of no JSON."""
    path = folder / NAME
    written = list(read_lines(path, ResearchError, "name the folder of a research"))
    if written and not written[-1][1].endswith(b"\n"):  # it is being written, or its process was killed
        written.pop()
    return _lines(path, written)


def write_whole(path: Path, text: str) -> None:
    """Replaces a file as a whole. Raises ResearchError if it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise ResearchError(
            f"{path} cannot be written ({_reason(error)}): put that right and go on in this folder, or name another"
        ) from None


def _lines(path: Path, written: Sequence[tuple[int, bytes]]) -> list[Line]:
    lines: list[Line] = []
    for number, each in written:
        try:
            line = decoded(each, "", ResearchError)
        except ResearchError:
            line = None
        if not isinstance(line, dict):
            raise ResearchError(f"{path}, line {number}, is no line of a trace: begin anew in another folder")
        lines.append(line)
    return lines


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
